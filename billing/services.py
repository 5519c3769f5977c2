"""What a user may, and the counting of what is refused at a cap."""

from datetime import date, datetime

from django.db.models import F

from accounts.models import User
from billing.errors import UsageLimitExceeded
from billing.models import RunBudget
from billing.months import month_of, month_resets_at
from billing.tiers import TIERS, Limits


def limits_of(user: User) -> Limits:
    """What the user's tier brings."""
    return TIERS[user.tier]


def limits_of_tier(tier: str) -> Limits:
    """For whoever knows a user's tier and has no user at hand. Raises `KeyError` for what is no tier."""
    return TIERS[tier]


def concurrent_executions_by_tier() -> dict[str, int]:
    """How many executions a user of each tier may have worked on at once: for claims, which look at many users."""
    return {tier: limits.concurrent_executions for tier, limits in TIERS.items()}


def priority_of_tier(tier: str) -> int:
    """The priority of a tier's executions. Raises `KeyError` for what is no tier."""
    return TIERS[tier].priority


def api_requests_per_minute(user: User) -> int:
    """For the API's throttle, which the settings point here."""
    return limits_of(user).api_requests_per_minute


def reserve_runs(*, user: User, count: int, now: datetime) -> int:
    """Counts accepted executions against the month of `now`, inside the caller's transaction: `count`, or as many of
    them as the cap leaves; how many that is.

    Only tiers that are refused at the cap keep a row. Its lock, which lasts until the caller's commit, makes the cap
    exact however many accept at once, and a rolled-back acceptance is not counted.
    """
    limits = limits_of(user)
    if not limits.refused_over_runs or limits.runs_per_month is None:
        return count
    month, limit = month_of(now), limits.runs_per_month
    if _spend(user, month, count, limit):
        return count
    # The month's first run, or its last: whoever inserts first wins, by the unique constraint, and all count on that row.
    RunBudget.objects.bulk_create([RunBudget(user=user, period_start=month)], ignore_conflicts=True)
    row = RunBudget.objects.select_for_update(of=("self",)).get(user=user, period_start=month)
    granted = max(0, min(count, limit - row.runs))
    if granted:
        _spend(user, month, granted, limit)
    return granted


def _spend(user: User, month: date, count: int, limit: int) -> bool:
    """One conditional UPDATE checks and counts."""
    row = RunBudget.objects.filter(user=user, period_start=month, runs__lte=limit - count)
    return row.update(runs=F("runs") + count) == 1


def usage_limit_exceeded(user: User, *, now: datetime) -> UsageLimitExceeded:
    """What a firing over the month's cap is answered."""
    limit, month = limits_of(user).runs_per_month, month_of(now)
    used = RunBudget.objects.values_list("runs", flat=True).get(user=user, period_start=month)
    resets_at = month_resets_at(month)
    return UsageLimitExceeded(
        f"The {user.tier} tier's {limit:,} runs of this month are used up. They reset on {resets_at:%Y-%m-%d} at 00:00 UTC; "
        "a higher tier lifts the limit at once.",
        details={"limit": limit, "used": used, "resetsAt": f"{resets_at:%Y-%m-%dT%H:%M:%SZ}"},
    )
