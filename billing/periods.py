"""The periods by which a user's usage is counted."""

from dataclasses import dataclass
from datetime import datetime

from accounts.models import Tier, User
from billing.models import SubscriptionPeriod
from billing.months import month_of, month_resets_at, month_starts_at


@dataclass(frozen=True, slots=True)
class Period:
    """From `starts_at` to just before `ends_at`."""

    starts_at: datetime
    ends_at: datetime


def period_of(*, user: User, now: datetime) -> Period:
    """The one of `now`: Stripe's for a subscriber, else the calendar month, in UTC.

    The free tier counts by the month, as its cap does, also for a subscriber who has fallen back to it. So only those
    above it cost a query, of one row by its index.
    """
    if user.tier != Tier.FREE:
        period = SubscriptionPeriod.objects.filter(user=user).of(now).first()
        if period is not None:
            return Period(period.starts_at, period.ends_at)
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
    fields = {"ends_at": ends_at, "tier": tier, "trial": trial}
    if not known.filter(starts_at=starts_at).update(**fields):
        SubscriptionPeriod.objects.create(user=user, starts_at=starts_at, count_due_at=None if trial else now, **fields)
