"""Ending an execution that somebody does not want any more, or nobody waits for any more."""

from collections.abc import Collection, Iterable
from contextlib import suppress
from datetime import datetime
from uuid import UUID

from django.db import transaction
from django.db.models import Exists, OuterRef, QuerySet

from bloxserver.core import json_text
from executions import endings
from executions.errors import ExecutionEnded
from executions.models import START_FLOW, Execution, JournalEntry, State, Step


def cancel_execution(*, execution: Execution, by: str, now: datetime) -> Execution:
    """Cancel: at once where no worker holds it, else the worker is asked to. `by` completes "Canceled by".

    Raises `ExecutionEnded` (409). The row lock orders this against claims and against the worker's own writes.
    """
    reason = f"Canceled by {by}."[:300]
    with transaction.atomic():
        row = Execution.objects.select_for_update(of=("self",)).get(pk=execution.pk)
        if row.state == State.ENDED:
            raise ExecutionEnded(f"The execution has already ended as {row.status}; there is nothing to cancel.")
        if row.state == State.WORKING:
            if row.cancel_requested_at is None:
                row.cancel_requested_at, row.cancel_reason = now, reason
                row.save(update_fields=["cancel_requested_at", "cancel_reason"])
        else:
            row.cancel_requested_at, row.cancel_reason = now, reason
            row.save(update_fields=["cancel_requested_at", "cancel_reason"])
            endings.end_unheld(row, endings.canceled(reason), now=now)
    row.refresh_from_db()
    return row


def cancel_all(ids: Iterable[UUID], *, by: str, now: datetime) -> None:
    """Cancel those of them that have not ended, the oldest first."""
    for execution in Execution.objects.alive().filter(pk__in=ids).order_by("started_at", "id"):
        with suppress(ExecutionEnded):
            cancel_execution(execution=execution, by=by, now=now)


def cancel_called(*, ended: Execution, now: datetime) -> None:
    """Cancel what an execution had called and still waited for when it ended; what that waits for follows at its own end.

    It waited in steps that its end cut off: one that does not wait is done with as soon as it has called.
    Nothing is called any more by an execution that has ended, since its fence has moved. Each is cancelled in a
    transaction of its own that locks its row alone, so this can wait for others in no circle; all of it may be repeated.
    """
    waiting = Step.objects.led_nowhere().filter(execution=OuterRef("execution_id"), key=OuterRef("step_key"))
    calls = ended.journal.filter(Exists(waiting), kind=START_FLOW)
    _cancel_started(calls, by=f"the end of execution {ended.pk}, which had called it", now=now)


def cancel_called_by(*, execution_id: UUID, steps: Collection[str], now: datetime) -> None:
    """Cancel what these steps, by key, had called, of an execution that goes on without them. May be repeated too."""
    calls = JournalEntry.objects.filter(execution=execution_id, step_key__in=steps, kind=START_FLOW)
    by = f"a failure in execution {execution_id}, beside the step that had called it"
    _cancel_started(calls, by=by, now=now)


def _cancel_started(calls: QuerySet[JournalEntry], *, by: str, now: datetime) -> None:
    if called := [UUID(json_text.loads(value)) for value in calls.values_list("value", flat=True)]:
        cancel_all(called, by=by, now=now)
