"""The periods by which a user's usage is counted."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from accounts.models import Tier, User
from billing.models import SubscriptionPeriod
from billing.months import month_of, month_resets_at, month_starts_at


@dataclass(frozen=True, slots=True)
class Period:
    """From `starts_at` to just before `ends_at`."""

    starts_at: datetime
    ends_at: datetime


def period_of(*, user: User, now: datetime) -> Period:
    """The one of `now`: Stripe's for a subscriber, else the calendar month, in UTC, as far as no period of a subscription
    lies in it.

    The free tier counts by the month, as its cap does, also for a subscriber who has fallen back to it. So only those
    above it cost a query, of a few rows by their index.
    """
    month = calendar_month(now)
    if user.tier == Tier.FREE:
        return month
    known = SubscriptionPeriod.objects.filter(user=user, starts_at__lt=month.ends_at, ends_at__gt=month.starts_at)
    periods = [Period(*bounds) for bounds in known.order_by("-starts_at").values_list("starts_at", "ends_at")]
    for period in periods:  # of two that overlap, as two subscriptions' may, the later
        if period.starts_at <= now < period.ends_at:
            return period
    return Period(
        max([month.starts_at, *(period.ends_at for period in periods if period.ends_at <= now)]),
        min([month.ends_at, *(period.starts_at for period in periods if period.starts_at > now)]),
    )


def calendar_month(now: datetime) -> Period:
    """The month of `now`, in UTC: also the period of whoever is refused at a cap, since `RunBudget` counts by it."""
    month = month_of(now)
    return Period(month_starts_at(month), month_resets_at(month))


def keep_period(*, user: User, starts_at: datetime, ends_at: datetime, tier: str, trial: bool, now: datetime) -> None:
    """Note a period of the user's subscription, in the caller's transaction, which holds the user's lock.

    One that was known until beyond `starts_at` ends there: its subscription was started anew. What ends before it
    begins has never been.
    """
    known = SubscriptionPeriod.objects.filter(user=user)
    known.filter(starts_at__lt=starts_at, ends_at__gt=starts_at).update(ends_at=starts_at)
    if ends_at <= starts_at:
        return
    fields: dict[str, Any] = {"ends_at": ends_at, "tier": tier, "trial": trial}
    if trial:
        fields["count_due_at"] = None  # it may have become one: a trial can be given later
    if not known.filter(starts_at=starts_at).update(**fields):
        SubscriptionPeriod.objects.create(user=user, starts_at=starts_at, **{"count_due_at": now, **fields})
