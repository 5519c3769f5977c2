"""What a user's runs of a period come to: beside the cap, and in money."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from uuid import UUID

from django.db.models import F

from accounts.models import User
from billing.models import DeletedRuns, SubscriptionPeriod
from billing.models.budgets import Percent
from billing.periods import Period
from billing.services import limits_of

UNLIMITED = -1  # as the API's `runsLimit` says it


@dataclass(frozen=True, slots=True)
class RunUsage:
    """The API's `UsageDashboard`, without its tokens. `percentage` is of the limit, and 0 where there is none."""

    limit: int
    percentage: float
    overage: Decimal  # in US dollars
    days_remaining: int  # the day that is under way is one


def run_usage(*, user: User, runs: int, period: Period, now: datetime) -> RunUsage:
    """What `runs` of the period are beside the user's limits; those over the cap of a tier that is not refused there
    cost its `overage_price`, outside of a trial."""
    limits = limits_of(user)
    limit = limits.runs_per_month
    over = max(0, runs - limit) if limit is not None else 0
    return RunUsage(
        limit=UNLIMITED if limit is None else limit,
        percentage=round(100 * runs / limit, 2) if limit else 0.0,
        overage=Decimal(0) if period.trial else over * limits.overage_price / 1_000,
        days_remaining=-((now - period.ends_at) // timedelta(days=1)),
    )


def percent_passed(runs: int, limit: int) -> int | None:
    """Of `Percent`, the highest that `runs` have reached of `limit`."""
    return max((percent for percent in Percent.values if 100 * runs >= percent * limit), default=None)


def keep_counting(deleted: Iterable[tuple[UUID, datetime]]) -> None:
    """Note executions that are about to be deleted, as (user, moment of acceptance), in the caller's transaction.

    The unique constraint makes one row a day, or part of a day, and its lock keeps what others add at the same time.
    All take the rows in the same order.
    """
    runs_deleted = list(deleted)
    cuts = _cuts(runs_deleted)
    parts = Counter((user, _part_of_day(moment, cuts.get(user, []))) for user, moment in runs_deleted)
    for (user_id, start), runs in sorted(parts.items()):
        row = DeletedRuns.objects.filter(user=user_id, starts_at=start)
        if not row.update(runs=F("runs") + runs):
            DeletedRuns.objects.bulk_create([DeletedRuns(user_id=user_id, starts_at=start)], ignore_conflicts=True)
            row.update(runs=F("runs") + runs)


def _part_of_day(moment: datetime, cuts: list[datetime]) -> datetime:
    """The last midnight (UTC) or cut, of these in their order, up to `moment`."""
    midnight = datetime.combine(moment.astimezone(UTC), time.min, UTC)
    before = bisect_right(cuts, moment)
    return max(midnight, cuts[before - 1]) if before else midnight


def _cuts(runs: list[tuple[UUID, datetime]]) -> dict[UUID, list[datetime]]:
    """Where periods of these users' subscriptions begin and end, from the day of the first of the runs to the last."""
    if not runs:
        return {}
    moments = [moment for _, moment in runs]
    periods = SubscriptionPeriod.objects.filter(
        user__in={user for user, _ in runs},
        starts_at__lte=max(moments),
        ends_at__gte=min(moments) - timedelta(days=1),
    )
    cuts: dict[UUID, set[datetime]] = {}
    for user_id, start, end in periods.values_list("user_id", "starts_at", "ends_at"):
        cuts.setdefault(user_id, set()).update((start, end))
    return {user_id: sorted(of_user) for user_id, of_user in cuts.items()}
