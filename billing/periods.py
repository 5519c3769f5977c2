"""The periods by which a user's usage is counted."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from accounts.models import Tier, User
from billing.models import SubscriptionPeriod
from billing.months import month_of, month_resets_at, month_starts_at

# After its end a period is counted for the last time, when what was accepted in its last moment has been committed.
SETTLED_AFTER = timedelta(minutes=2)
MOMENT = timedelta(microseconds=1)  # the least that tells two moments apart


@dataclass(frozen=True, slots=True)
class Period:
    """From `starts_at` to just before `ends_at`."""

    starts_at: datetime
    ends_at: datetime
    trial: bool = field(default=False, compare=False)  # nothing is charged for what is used in it

    @property
    def days(self) -> tuple[date, date]:
        """The first and the last day (UTC) that belong to it: those that begin in it.

        What is on record by whole days thus belongs to one period, also where periods meet within a day.
        """
        return _day_from(self.starts_at), _day_from(self.ends_at) - timedelta(days=1)


def period_of(*, user: User, now: datetime) -> Period:
    """The one of `now`: Stripe's for a subscriber, else the calendar month, in UTC, as far as no period of a subscription
    lies in it.

    The free tier counts by the month, as its cap does, also for a subscriber who has fallen back to it. So only those
    above it cost a query, of a few rows by their index.
    """
    month = calendar_month(now)
    return _period(now, _known(user, month.starts_at, month.ends_at))


def periods_of(*, user: User, until: datetime, since: datetime) -> Iterator[Period]:
    """The one of `until` and those before it, back to the one of `since`: newest first, each beginning where the one after
    it ended. One query."""
    known = _known(user, calendar_month(since).starts_at, calendar_month(until).ends_at)
    period = _period(until, known)
    yield period
    while period.starts_at > since:
        period = _period(period.starts_at - MOMENT, known)
        yield period


def calendar_month(now: datetime) -> Period:
    """The month of `now`, in UTC: also the period of whoever is refused at a cap, since `RunBudget` counts by it."""
    month = month_of(now)
    return Period(month_starts_at(month), month_resets_at(month))


def most_runs(*limits: int | None) -> int | None:
    """The highest of some limits; None is unlimited."""
    return None if None in limits else max(filter(None, limits), default=0)


def keep_period(
    *,
    user: User,
    starts_at: datetime,
    ends_at: datetime,
    tier: str,
    trial: bool,
    included_runs: int | None,
    now: datetime,
) -> None:
    """Note a period of the user's subscription, in the caller's transaction, which holds the user's lock.

    One that was known until beyond `starts_at` ends there: its subscription was started anew. What ends before it
    begins has never been. What has once been included (`included_runs`, None: all) stays so: runs that were free of
    charge when they were accepted are never charged later.
    """
    known = SubscriptionPeriod.objects.filter(user=user)
    known.filter(starts_at__lt=starts_at, ends_at__gt=starts_at).update(ends_at=starts_at)
    if ends_at <= starts_at:
        return
    fields: dict[str, Any] = {"ends_at": ends_at, "tier": tier, "trial": trial}
    if trial:
        fields["count_due_at"] = None  # it may have become one: a trial can be given later
    period = known.select_for_update(of=("self",)).filter(starts_at=starts_at).first()  # a count raises it too
    if period is None:
        fields = {"count_due_at": now, **fields, "included_runs": included_runs}
        SubscriptionPeriod.objects.create(user=user, starts_at=starts_at, **fields)
    else:
        fields["included_runs"] = most_runs(period.included_runs, included_runs)
        known.filter(pk=period.pk).update(**fields)
        last = ends_at + SETTLED_AFTER  # where it ended early, the count that was to come is too late
        known.filter(pk=period.pk, count_due_at__gt=last).update(count_due_at=last)


def _known(user: User, since: datetime, until: datetime) -> list[Period]:
    """The periods of the user's subscriptions that lie in this time, also in part, the latest first."""
    if user.tier == Tier.FREE:
        return []
    rows = SubscriptionPeriod.objects.filter(user=user, starts_at__lt=until, ends_at__gt=since)
    return [Period(*fields) for fields in rows.order_by("-starts_at").values_list("starts_at", "ends_at", "trial")]


def _period(now: datetime, known: Sequence[Period]) -> Period:
    for period in known:  # of two that overlap, as two subscriptions' may, the later
        if period.starts_at <= now < period.ends_at:
            return period
    month = calendar_month(now)
    return Period(
        max([month.starts_at, *(period.ends_at for period in known if period.ends_at <= now)]),
        min([month.ends_at, *(period.starts_at for period in known if period.starts_at > now)]),
    )


def _day_from(moment: datetime) -> date:
    """The first day that begins at `moment` or after it."""
    day = moment.astimezone(UTC).date()
    return day if datetime.combine(day, time.min, UTC) == moment else day + timedelta(days=1)
