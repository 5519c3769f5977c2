"""Waiting for an execution's end, for a caller who wants its result."""

import time
from uuid import UUID

from executions import events
from executions.models import Execution, State


def wait_for_end(execution_id: UUID, seconds: float) -> Execution | None:
    """Wait up to `seconds` for the execution's end; None when it has not come. Must not be called in a transaction."""
    deadline = time.monotonic() + seconds
    with events.watch(execution_id) as changes:
        while True:
            execution = Execution.objects.select_related("payload").get(pk=execution_id)
            if execution.state == State.ENDED:
                return execution
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return None
            changes.wait(remaining)
