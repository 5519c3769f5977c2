"""House-keeping of the history: what has outlived the days it is kept for, deleted flows, drafts that nothing refers to.

Everything goes in small transactions of its own, children first and by id: Django's own cascade would read every row,
and one long transaction would hold locks and keep vacuum from cleaning up behind it. Rows that are locked, by another
pruner say, are left for the next round.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import models, transaction
from django.db.models import Exists, OuterRef, Subquery

from accounts.models import User
from billing.kept_history import history_days
from billing.runs import keep_counting
from executions import tally
from executions.models import Execution, State
from executions.querysets import ExecutionQuerySet
from flows.models import Flow, FlowVersion
from flows.services import erase_flow

BATCH = 200  # executions in one transaction: a few hundredths of a second
SECONDS = 2.0  # of one run of the task; the rest waits for the next
TOGETHER = 1_000  # users of one turn: to find that nothing of theirs is due takes some hundredths of a second
TURN_SECONDS = 10  # as often as the clock has it done
DRAFT_DAYS = 1  # a person may still be at a draft that was tested so recently


@dataclass(slots=True)
class Pruned:
    executions: int = 0
    flows: int = 0
    drafts: int = 0
    is_done: bool = True  # False: the time was up, and more is left


def prune_history(*, now: datetime, seconds: float | None = SECONDS, turns: int | None = None) -> Pruned:
    """Delete what is to go, for about `seconds` (None: until all is gone): of so many times `TOGETHER` users, from those on
    whose turn it is, or of all."""
    stop_at = None if seconds is None else time.monotonic() + seconds
    pruned = Pruned()
    for flow in Flow.with_deleted.filter(deleted_at__isnull=False).without_bodies():
        _prune_flow(flow, pruned, stop_at)
    for turn in _turns(now)[:turns]:
        _prune_outlived(_users_to_prune(turn, now), pruned, stop_at)
    pruned.drafts = _prune_drafts(now)
    return pruned


def delete_some_of_flow(flow: Flow) -> bool:
    """Delete one batch of a flow's executions, in the caller's transaction; whether there are more."""
    delete_executions(_locked_ids(_of_flow(flow)))
    return Execution.objects.filter(flow=flow).exists()


def delete_executions(ids: Sequence[UUID]) -> int:
    """Delete these with all that belongs to them, in the caller's transaction; how many there were. Their runs stay
    counted."""
    if not ids:
        return 0
    keep_counting(Execution.objects.filter(pk__in=ids).values_list("user_id", "started_at"))
    tally.subtract(ids)
    _delete_children(Execution, "", ids)
    return _raw_delete(Execution.objects.filter(pk__in=ids))


def _prune_flow(flow: Flow, pruned: Pruned, stop_at: float | None) -> None:
    while not _is_over(stop_at, pruned):
        deleted = _delete_batch(_of_flow(flow))
        pruned.executions += deleted
        if not deleted:
            break
    while not _is_over(stop_at, pruned):
        if erase_flow(flow=flow):
            pruned.flows += 1
            break


def _of_flow(flow: Flow) -> ExecutionQuerySet:
    # Those that a worker holds too: its next write is refused. In the order of the list's index.
    return Execution.objects.filter(flow=flow).order_by("started_at", "id")


def _turns(now: datetime) -> list[int]:
    """All of them, the one of `now` first: nobody has to remember which was the last."""
    turns = -(-User.objects.count() // TOGETHER) or 1
    first = int(now.timestamp() // TURN_SECONDS)
    return [(first + number) % turns for number in range(turns)]


def _prune_outlived(waiting: list[tuple[UUID, datetime]], pruned: Pruned, stop_at: float | None) -> None:
    """In rounds of one batch for each user, so that nobody's long history holds up the others'."""
    while waiting and not _is_over(stop_at, pruned):
        left = []
        for user_id, before in waiting:
            if _is_over(stop_at, pruned):
                return
            deleted = _delete_batch(_outlived(user_id, before))
            pruned.executions += deleted
            if deleted == BATCH:
                left.append((user_id, before))
        waiting = left


def _users_to_prune(turn: int, now: datetime) -> list[tuple[UUID, datetime]]:
    """Of those of a turn, with the moment before which their history goes; one look into the index for each one's oldest."""
    ids = User.objects.order_by("pk").values_list("pk", flat=True)[turn * TOGETHER : (turn + 1) * TOGETHER]
    oldest = Execution.objects.filter(user=OuterRef("pk"), state=State.ENDED).order_by("started_at", "id")
    users = User.objects.filter(pk__in=list(ids)).annotate(oldest=Subquery(oldest.values("started_at")[:1]))
    with_old = list(users.filter(oldest__lt=now - timedelta(days=1)).order_by("oldest"))
    days = history_days(with_old, now=now)
    due = [(user, now - timedelta(days=days[user.pk])) for user in with_old]
    return [(user.pk, before) for user, before in due if user.oldest < before]


def _outlived(user_id: UUID, before: datetime) -> ExecutionQuerySet:
    # What waited for long and ended lately is kept as long as others: its days count from its end.
    return Execution.objects.filter(
        user=user_id, state=State.ENDED, started_at__lt=before, completed_at__lt=before
    ).order_by("started_at", "id")


def _prune_drafts(now: datetime) -> int:
    """Versions that were made to test a draft which has changed since, once none of their test runs is left."""
    unused = FlowVersion.objects.filter(number=None, created_at__lt=now - timedelta(days=DRAFT_DAYS)).exclude(
        Exists(Execution.objects.filter(version=OuterRef("pk")))
    )
    with transaction.atomic():  # the lock keeps new executions from referring to them
        ids = list(unused.select_for_update(skip_locked=True, of=("self",)).values_list("pk", flat=True)[:BATCH])
        return _raw_delete(FlowVersion.objects.filter(pk__in=ids)) if ids else 0


def _delete_batch(rows: ExecutionQuerySet) -> int:
    with transaction.atomic():
        return delete_executions(_locked_ids(rows))


def _locked_ids(rows: ExecutionQuerySet) -> list[UUID]:
    locked = rows.select_for_update(skip_locked=True, of=("self",))
    return list(locked.values_list("pk", flat=True)[:BATCH])


def _delete_children(model: type[models.Model], path: str, ids: Sequence[UUID]) -> None:
    """All rows that hang on these executions, grandchildren first; `path` leads from `model` to the execution."""
    for relation in model._meta.get_fields(include_hidden=True):
        if not isinstance(relation, models.ForeignObjectRel) or relation.on_delete is not models.CASCADE:
            continue
        child: Any = relation.related_model
        child_path = f"{relation.field.name}__{path}" if path else relation.field.name
        _delete_children(child, child_path, ids)
        _raw_delete(child._base_manager.filter(**{f"{child_path}__in": ids}))


def _raw_delete(rows: Any) -> int:
    """One DELETE, without reading the rows. Raises what a foreign key that is still in use raises."""
    return rows._raw_delete(rows.db)


def _is_over(stop_at: float | None, pruned: Pruned) -> bool:
    if stop_at is not None and time.monotonic() >= stop_at:
        pruned.is_done = False
    return not pruned.is_done
