"""What made an execution, as the ledgers of the apps above have it: those are asked by signal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db.models import Model
from django.dispatch import Signal

from executions.models import Execution

RETRIES_FOLLOWED = 100  # back to the execution that was fired

# Sent with `execution`, one that was fired by a trigger, and `fired_at`. Whoever keeps that trigger's ledger returns an
# `Origin`; who knows nothing of it, None.
origin_asked = Signal()


@dataclass(frozen=True, slots=True)
class Origin:
    """The delivery or the moment that fired it; empty where there is none, or its row is gone."""

    delivery_id: UUID | None = None
    delivery_key: str | None = None
    received_at: datetime | None = None
    address: str | None = None
    is_replay: bool = False
    moment_id: UUID | None = None
    rows: tuple[Model, ...] = ()  # for the admin, which has a page for each


def origin_of(execution: Execution, trigger: Mapping[str, Any]) -> Origin:
    """`trigger` is what its expressions see of its firing; a retry has the same."""
    if execution.trigger_id is None or not trigger.get("firedAt"):
        return Origin()
    fired_at = datetime.fromisoformat(trigger["firedAt"])
    answers: Sequence[tuple[Any, Any]] = origin_asked.send(Execution, execution=_fired(execution), fired_at=fired_at)
    return next((origin for _, origin in answers if origin is not None), Origin())


def _fired(execution: Execution) -> Execution:
    """The execution itself, or of a retry the first that it repeats, as far as that is kept."""
    for _ in range(RETRIES_FOLLOWED):
        earlier = execution.retry_of and Execution.objects.filter(pk=execution.retry_of).first()
        if not earlier:
            break
        execution = earlier
    return execution
