"""The periods by which a user's usage is counted."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from accounts.models import User
from billing.months import month_of, month_resets_at, month_starts_at

MOMENT = timedelta(microseconds=1)  # the least that tells two moments apart


@dataclass(frozen=True, slots=True)
class Period:
    """From `starts_at` to just before `ends_at`."""

    starts_at: datetime
    ends_at: datetime

    @property
    def days(self) -> tuple[date, date]:
        """The first and the last day (UTC) that belong to it: those that begin in it.

        What is on record by whole days thus belongs to one period, also where periods meet within a day.
        """
        return _day_from(self.starts_at), _day_from(self.ends_at) - timedelta(days=1)


def period_of(*, user: User, now: datetime) -> Period:
    """The one of `now`: the calendar month, in UTC."""
    return calendar_month(now)


def calendar_month(now: datetime) -> Period:
    """The month of `now`, in UTC: also the period of whoever is refused at a cap, since `RunBudget` counts by it."""
    month = month_of(now)
    return Period(month_starts_at(month), month_resets_at(month))


def periods_of(*, user: User, until: datetime, since: datetime) -> Iterator[Period]:
    """The one of `until` and those before it, back to the one of `since`: newest first, each beginning where the one after
    it ended."""
    period = period_of(user=user, now=until)
    yield period
    while period.starts_at > since:
        period = period_of(user=user, now=period.starts_at - MOMENT)
        yield period


def _day_from(moment: datetime) -> date:
    """The first day that begins at `moment` or after it."""
    day = moment.astimezone(UTC).date()
    return day if datetime.combine(day, time.min, UTC) == moment else day + timedelta(days=1)
