"""The periods by which a user's usage is counted."""

from dataclasses import dataclass
from datetime import datetime

from accounts.models import User
from billing.months import month_of, month_resets_at, month_starts_at


@dataclass(frozen=True, slots=True)
class Period:
    """From `starts_at` to just before `ends_at`."""

    starts_at: datetime
    ends_at: datetime


def period_of(*, user: User, now: datetime) -> Period:
    """The one of `now`: the calendar month, in UTC."""
    month = month_of(now)
    return Period(month_starts_at(month), month_resets_at(month))
