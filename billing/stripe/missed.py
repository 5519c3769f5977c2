"""Periods that went by while nobody here asked Stripe: a subscription shows the one that it is in, its invoices show all."""

from datetime import datetime
from typing import Any
from uuid import UUID

from billing.models import SubscriptionPeriod
from billing.stripe.client import client
from billing.stripe.reading import SubscriptionRead, moment

PAGE = 100


def missed_periods(user_id: UUID, subscription: SubscriptionRead) -> list[tuple[datetime, datetime]]:
    """Those between what is known here and the period that the subscription is in, or was last, in their order.

    Stripe is asked only when that period is new here and does not follow the one before. Raises the SDK's errors.
    """
    start = subscription.period_start
    known = SubscriptionPeriod.objects.filter(user=user_id)
    if start is None or known.filter(starts_at=start).exists():
        return []
    ends = known.filter(starts_at__lt=start).values_list("ends_at", flat=True)
    since = max([subscription.created_at, *ends])
    return [period for period in _billed(subscription.stripe_id, since) if period[1] <= start] if since < start else []


def _billed(subscription: str, since: datetime) -> list[tuple[datetime, datetime]]:
    """What the lines of the subscription's invoices are for, from `since` on: each period in advance, and its use after it."""
    asked: Any = {"subscription": subscription, "created": {"gte": int(since.timestamp())}, "limit": PAGE}
    found = set()
    for invoice in client().v1.invoices.list(asked).auto_paging_iter():
        for line in invoice.lines.data:
            details = line.parent and line.parent.subscription_item_details
            if details and not details.proration:
                found.add((moment(line.period.start), moment(line.period.end)))
    return sorted((start, end) for start, end in found if start and end and since <= start < end)
