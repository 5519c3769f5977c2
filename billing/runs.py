"""What a user's runs of a period come to: beside the cap, and in money."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from uuid import UUID

from django.db.models import F

from accounts.models import User
from billing.models import DeletedRuns
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
    cost its `overage_price`."""
    limits = limits_of(user)
    limit = limits.runs_per_month
    over = max(0, runs - limit) if limit is not None else 0
    return RunUsage(
        limit=UNLIMITED if limit is None else limit,
        percentage=round(100 * runs / limit, 2) if limit else 0.0,
        overage=over * limits.overage_price / 1_000,
        days_remaining=-((now - period.ends_at) // timedelta(days=1)),
    )


def percent_passed(runs: int, limit: int) -> int | None:
    """Of `Percent`, the highest that `runs` have reached of `limit`."""
    return max((percent for percent in Percent.values if 100 * runs >= percent * limit), default=None)


def keep_counting(deleted: Iterable[tuple[UUID, datetime]]) -> None:
    """Note executions that are about to be deleted, as (user, moment of acceptance), in the caller's transaction.

    The unique constraint makes one row a day, and its lock keeps what others add at the same time. All take the rows in
    the same order.
    """
    days = Counter((user, datetime.combine(moment.astimezone(UTC), time.min, UTC)) for user, moment in deleted)
    for (user_id, day), runs in sorted(days.items()):
        row = DeletedRuns.objects.filter(user=user_id, starts_at=day)
        if not row.update(runs=F("runs") + runs):
            DeletedRuns.objects.bulk_create([DeletedRuns(user_id=user_id, starts_at=day)], ignore_conflicts=True)
            row.update(runs=F("runs") + runs)
