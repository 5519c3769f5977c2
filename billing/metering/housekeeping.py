"""What the clock does for budgets. Any number of clocks may."""

from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Model, QuerySet

from billing.metering.reservations import lapse_expired
from billing.models import BudgetReservation, SettledCall

REMEMBERED = timedelta(days=7)  # longer than any answer is late, or its settling repeated
BATCH = 1_000


def keep_budgets(*, now: datetime) -> None:
    """Count what expired as spent, and forget what nobody will ask for any more."""
    lapse_expired(now=now)
    _delete_some(SettledCall.objects.filter(settled_at__lt=now - REMEMBERED))
    _delete_some(BudgetReservation.objects.filter(lapsed=True, expires_at__lt=now - REMEMBERED))


def _delete_some(rows: "QuerySet[Model]") -> None:
    """Row locks that are skipped let several clocks delete beside each other; the next round takes what is left."""
    with transaction.atomic():
        ids = list(rows.order_by("pk").select_for_update(skip_locked=True).values_list("pk", flat=True)[:BATCH])
        if ids:
            rows.model._default_manager.filter(pk__in=ids).delete()
