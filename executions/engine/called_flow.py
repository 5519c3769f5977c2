"""An execution that another waits for: what the parent sees of it."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.utils import timezone

from bloxserver.core import json_text
from executions.models import Execution, ExecutionStatus, State
from flows.blocks.base import BlockError

# Should the wake-up be lost, the parent looks again when the child has run for as long again, within these.
CHILD_LOOK_AGAIN = timedelta(seconds=30), timedelta(minutes=15)


def look_at(execution_id: UUID) -> Execution:
    """The execution, once it has ended with its output. Raises `BlockError` when it is gone."""
    rows = Execution.objects.filter(pk=execution_id)
    child = rows.only("state", "started_at").first()
    if child is not None and child.state == State.ENDED:
        child = rows.select_related("payload").only("state", "status", "error_message", "payload__output").first()
    if child is None:
        raise BlockError(
            f"The execution {execution_id} that it called was deleted.", code="called_flow_failed", retryable=False
        )
    return child


def look_again(child: Execution) -> datetime:
    """When to, should the wake-up by its end be lost."""
    now, (least, most) = timezone.now(), CHILD_LOOK_AGAIN
    return now + min(max(now - child.started_at, least), most)


def output_of(child: Execution) -> Any:
    """Of one that has ended. Raises `BlockError` where it did not succeed."""
    if child.status == ExecutionStatus.SUCCESS:
        return json_text.loads(child.payload.output or "null")
    raise BlockError(
        f"The execution {child.pk} that it called ended as {child.status}: {child.error_message}",
        code="called_flow_failed",
    )
