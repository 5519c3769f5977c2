"""How an execution ends, and what its end sets off."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Protocol
from uuid import UUID

from django.db import transaction
from django.db.models import F, Max
from django.db.models.functions import Now

from bloxserver.core import bulk
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


class Endable(Protocol):
    """An execution's row, or what a worker knows of it."""

    @property
    def pk(self) -> UUID: ...
    @property
    def fence(self) -> int: ...
    @property
    def parent_id(self) -> UUID | None: ...


def canceled(reason: str) -> Ending:
    return Ending(ExecutionStatus.ERROR, CANCELED, reason)


def timed_out(seconds: float) -> Ending:
    return Ending(ExecutionStatus.TIMEOUT, TIMEOUT, f"Timed out after {seconds:g} s of work.")


def worker_lost(crashes: int) -> Ending:
    return Ending(
        ExecutionStatus.ERROR, WORKER_LOST, f"{crashes} workers died as soon as they had taken up this execution."
    )


def end_held(endings: Sequence[tuple[UUID, int, Ending]], *, now: datetime) -> None:
    """End executions that the caller has locked and found held: each by its id, the fence it is held under, its end."""
    if not endings:
        return
    rows = [{"pk": pk, **_columns(ending, fence, now)} for pk, fence, ending in endings]
    _, *columns = rows[0]
    bulk.update(Execution, [list(row.values()) for row in rows], where=("id",), set=tuple(columns))
    outputs = [(pk, ending.output) for pk, _, ending in endings if ending.output is not None]
    bulk.update(ExecutionPayload, outputs, where=("execution",), set=("output",))
    if any(ending.status in FAILED for _, _, ending in endings):
        ring_failure_bell()


def _columns(ending: Ending, fence: int, now: datetime) -> dict[str, Any]:
    return {
        "state": State.ENDED,
        "status": ending.status,
        "error_code": ending.error_code,
        "error_message": ending.error_message,
        "completed_at": now,
        "due_at": None,
        "lease_owner": "",
        "lease_until": None,
        "deadline_at": None,
        "fence": fence + 1,
        "follow_up_due": ending.status in FAILED,
    }


def end_unheld(execution: Endable, ending: Ending, *, now: datetime) -> bool:
    """End an execution that no worker reports on (any longer), with the steps that it leaves unfinished; whether it did.

    The conditional update is the lock: a fence moves with every claim and expiry, and an ended row never changes.
    """
    rows = Execution.objects.alive().filter(pk=execution.pk, fence=execution.fence)
    if not rows.update(**_columns(ending, execution.fence, now)):
        return False
    if ending.status in FAILED:
        ring_failure_bell()
    steps = Step.objects.filter(execution=execution.pk)
    last = steps.aggregate(last=Max("number"))["last"] or 0
    steps.unfinished().update(
        status=StepStatus.ERROR,
        error=ending.error_message,
        error_code=ending.error_code,
        completed_at=now,
        due_at=None,
        number=F("number") + last,  # beyond what an event stream has seen
    )
    # Robust, since a failure is latency: see `after_end`.
    transaction.on_commit(partial(after_end, [(execution.pk, execution.parent_id)]), robust=True)
    return True


def after_end(ended: Sequence[tuple[UUID, UUID | None]]) -> None:
    """Wake the executions that wait for these, and tell who listens. Called once the ends are committed; each by its id
    and its parent's.

    A parent that parks at this very moment looks once more after it has parked, so one of the two sees the other.
    """
    parents = [parent for _, parent in ended if parent is not None]
    if parents and Execution.objects.filter(pk__in=parents, state=State.PARKED).update(due_at=Now()):
        ring_bell()
    events.announce([pk for pk, _ in ended])
