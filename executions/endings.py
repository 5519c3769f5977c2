"""How an execution ends, and what its end sets off."""

from dataclasses import dataclass
from datetime import datetime
from functools import partial
from uuid import UUID

from django.db import transaction
from django.db.models import F, Max
from django.db.models.functions import Now

from executions import events
from executions.dispatch import ring_bell, ring_failure_bell
from executions.models import Execution, ExecutionPayload, ExecutionStatus, State, Step, StepStatus

CANCELED = "canceled"
TIMEOUT = "timeout"
WORKER_LOST = "worker_lost"
MAX_CRASHES = 3
FAILED = frozenset({ExecutionStatus.ERROR, ExecutionStatus.TIMEOUT})  # `failures.py` says what follows


@dataclass(frozen=True, slots=True)
class Ending:
    """What an execution came to; `output` is JSON text."""

    status: ExecutionStatus
    error_code: str = ""
    error_message: str | None = None
    output: str | None = None


def canceled(reason: str) -> Ending:
    return Ending(ExecutionStatus.ERROR, CANCELED, reason)


def timed_out(seconds: float) -> Ending:
    return Ending(ExecutionStatus.TIMEOUT, TIMEOUT, f"Timed out after {seconds:g} s of work.")


def worker_lost(crashes: int) -> Ending:
    return Ending(
        ExecutionStatus.ERROR, WORKER_LOST, f"The worker died {crashes} times while it worked on this execution alone."
    )


def end(execution_id: UUID, ending: Ending, *, fence: int, now: datetime) -> bool:
    """End it if it is still held under `fence`, or unheld with that fence; whether it was. In the caller's transaction.

    The conditional update is the lock: a fence moves with every claim and expiry, and an ended row never changes.
    """
    changed = (
        Execution.objects.alive()
        .filter(pk=execution_id, fence=fence)
        .update(
            state=State.ENDED,
            status=ending.status,
            error_code=ending.error_code,
            error_message=ending.error_message,
            completed_at=now,
            due_at=None,
            lease_owner="",
            lease_until=None,
            deadline_at=None,
            fence=fence + 1,
            follow_up_due=ending.status in FAILED,
        )
    )
    if changed and ending.status in FAILED:
        ring_failure_bell()
    if changed and ending.output is not None:
        ExecutionPayload.objects.filter(pk=execution_id).update(output=ending.output)
    return bool(changed)


def end_unheld(execution: Execution, ending: Ending, *, now: datetime) -> bool:
    """End an execution that no worker reports on (any longer), with the steps that it leaves unfinished."""
    if not end(execution.pk, ending, fence=execution.fence, now=now):
        return False
    steps = Step.objects.filter(execution=execution)
    last = steps.aggregate(last=Max("number"))["last"] or 0
    steps.unfinished().update(
        status=StepStatus.ERROR,
        error=ending.error_message,
        error_code=ending.error_code,
        completed_at=now,
        due_at=None,
        number=F("number") + last,  # beyond what an event stream has seen
    )
    transaction.on_commit(partial(after_end, [execution.pk]), robust=True)  # a failure is latency: see `after_end`
    return True


def after_end(execution_ids: list[UUID]) -> None:
    """Wake the executions that wait for these, and tell who listens. Called once the ends are committed.

    A parent that parks at this very moment looks once more after it has parked, so one of the two sees the other.
    """
    parents = Execution.objects.filter(pk__in=execution_ids, parent_id__isnull=False).values("parent_id")
    if Execution.objects.filter(pk__in=parents, state=State.PARKED).update(due_at=Now()):
        ring_bell()
    events.announce(execution_ids)
