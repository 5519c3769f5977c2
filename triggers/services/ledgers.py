"""Old rows of the ledgers go, as their owner's limit says, and all of a trigger that is deleted."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import F, Q

from billing.kept_history import history_days
from triggers.models import Delivery, Moment, Trigger

PRUNED_TRIGGERS = 20  # in one call
PRUNED_ROWS = 1000  # of one trigger and one ledger in one call
PRUNED_EVERY = timedelta(hours=1)
ERASED_ROWS = 2000  # of deleted triggers in one transaction


def prune_ledgers(now: datetime) -> int:
    """Delete deliveries and moments older than their tenant's history; how many went.

    One call takes the triggers whose turn is longest ago, some of them and some of their rows, so it is short however
    much there is. A trigger with more to delete stays first in line. Safe in any number of clocks: rows are deleted by
    their ids, and who deletes none has lost nothing. What is left of deleted triggers goes in the same way.
    """
    deleted_triggers = Trigger.with_deleted.filter(deleted_at__isnull=False).order_by("deleted_at")
    erase_triggers(deleted_triggers.values_list("pk", flat=True)[:PRUNED_TRIGGERS])
    waiting = Trigger.objects.filter(Q(ledgers_pruned_at=None) | Q(ledgers_pruned_at__lt=now - PRUNED_EVERY))
    turn = list(waiting.with_flow().order_by(F("ledgers_pruned_at").asc(nulls_first=True))[:PRUNED_TRIGGERS])
    days = history_days([trigger.flow.user for trigger in turn], now=now) if turn else {}
    deleted, done = 0, []
    for trigger in turn:
        before = now - timedelta(days=days[trigger.flow.user_id])
        counts = [
            _delete(Delivery.objects.filter(trigger=trigger, received_at__lt=before), most=PRUNED_ROWS),
            _delete(
                Moment.objects.filter(trigger=trigger, moment__lt=before).exclude(until__gte=before), most=PRUNED_ROWS
            ),
        ]
        deleted += sum(counts)
        if max(counts) < PRUNED_ROWS:
            done.append(trigger.pk)
    if done:
        Trigger.objects.filter(pk__in=done).update(ledgers_pruned_at=now)
    return deleted


def erase_triggers(ids: Iterable[UUID]) -> bool:
    """Delete these deleted triggers with their ledgers, up to `ERASED_ROWS` rows of those; whether all are gone.

    The row's lock waits for whoever is writing into its ledger, and lets nobody begin.
    """
    left = ERASED_ROWS
    with transaction.atomic():
        for trigger in Trigger.with_deleted.select_for_update(of=("self",)).filter(pk__in=list(ids)).order_by("pk"):
            for ledger in (Delivery, Moment):
                left -= _delete(ledger.objects.filter(trigger=trigger), most=left)
            if left <= 0:
                return False
            trigger.delete()
    return True


def _delete(old: Any, *, most: int) -> int:
    ids = list(old.order_by().values_list("pk", flat=True)[:most])
    return int(old.model.objects.filter(pk__in=ids).delete()[0]) if ids else 0
