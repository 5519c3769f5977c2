"""What a user's usage comes to. Runs are counted from the executions: the truth, and no counter where they are accepted.

Those that are there and those deleted since are counted in one statement, so that none is missed or counted twice while it
is being deleted.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from django.db.models import Count, OuterRef, QuerySet, Subquery, Sum
from django.db.models.functions import Coalesce, TruncDate

from accounts.models import User
from billing.metering.usage import llm_by_day, summed
from billing.models import DeletedRuns
from billing.periods import Period, period_of
from billing.runs import run_usage
from executions.models import Execution
from flows.services import llm_report


def dashboard(*, user: User, now: datetime) -> dict[str, Any]:
    """The API's `UsageDashboard`: the period that is under way."""
    period = period_of(user=user, now=now)
    runs = runs_of(user, period)
    usage = run_usage(user=user, runs=runs, period=period, now=now)
    first, last = period.days
    llm = llm_report(owner=user, first=first, last=last)
    return {
        "period_start": period.starts_at,
        "period_end": period.ends_at,
        "runs_used": runs,
        "runs_limit": usage.limit,
        "runs_percentage": usage.percentage,
        "tokens_used": llm.totals["tokens_in"] + llm.totals["tokens_out"],
        "estimated_overage": usage.overage,
        "days_remaining": usage.days_remaining,
        "by_model": llm.by_model,
        "by_flow": llm.by_flow,
    }


def history(*, user: User, periods: Sequence[Period], now: datetime) -> list[dict[str, Any]]:
    """A row for each of `periods`, which are newest first. What limit a past period had is not on record, so only the one
    that is under way has a limit, its share and an overage."""
    if not periods:
        return []
    days = {row["day"]: row for row in llm_by_day(user=user, first=periods[-1].days[0], last=periods[0].days[1])}
    rows = []
    for period, runs in zip(periods, runs_in(user, periods), strict=True):
        first, last = period.days
        llm = summed(row for day, row in days.items() if first <= day <= last)
        usage = run_usage(user=user, runs=runs, period=period, now=now) if now < period.ends_at else None
        rows.append(
            {
                "period_start": period.starts_at,
                "period_end": period.ends_at,
                "runs_used": runs,
                "runs_limit": usage and usage.limit,
                "runs_percentage": usage and usage.percentage,
                "tokens_used": llm["tokens_in"] + llm["tokens_out"],
                "cost": llm["cost"],
                "estimated_overage": usage and usage.overage,
            }
        )
    return rows


def daily(*, user: User, first: date, last: date) -> list[dict[str, Any]]:
    """A row for each day (UTC) from `first` to `last`, those without usage included."""
    runs = _runs_by_day(user, first, last)
    llm = {row["day"]: row for row in llm_by_day(user=user, first=first, last=last)}
    days = (first + timedelta(days=number) for number in range((last - first).days + 1))
    return [{**summed([llm[day]] if day in llm else []), "day": day, "runs": runs[day]} for day in days]


def runs_of(user: User, period: Period) -> int:
    """How many executions of the user were accepted in the period: those that are there, and those deleted since."""
    (runs,) = runs_in(user, [period])
    return runs


def runs_in(user: User, periods: Iterable[Period]) -> list[int]:
    """The same for each of `periods`."""
    counts = User.objects.filter(pk=user.pk).values_list(*map(_runs, periods))
    return list(counts.get())


def _runs(period: Period) -> Any:
    kept = Execution.objects.filter(user=OuterRef("pk")).between(period.starts_at, period.ends_at)
    deleted = DeletedRuns.objects.filter(
        user=OuterRef("pk"), starts_at__gte=period.starts_at, starts_at__lt=period.ends_at
    )
    return _total(kept, Count("pk")) + _total(deleted, Sum("runs"))


def _total(rows: QuerySet[Any], aggregate: Any) -> Coalesce:
    return Coalesce(Subquery(rows.order_by().values("user").annotate(total=aggregate).values("total")), 0)


def _runs_by_day(user: User, first: date, last: date) -> Counter[date]:
    between = datetime.combine(first, time.min, UTC), datetime.combine(last, time.max, UTC)
    kept = Execution.objects.filter(user=user, started_at__range=between)
    deleted = DeletedRuns.objects.filter(user=user, starts_at__range=between)
    days: Counter[date] = Counter()
    rows = _by_day(kept, "started_at", Count("pk")).union(_by_day(deleted, "starts_at", Sum("runs")), all=True)
    for day, runs in rows:
        days[day] += runs
    return days


def _by_day(rows: QuerySet[Any], moment: str, aggregate: Any) -> QuerySet[Any, Any]:
    by_day = rows.order_by().values(day=TruncDate(moment, tzinfo=UTC))
    return by_day.annotate(total=aggregate).values_list("day", "total")
