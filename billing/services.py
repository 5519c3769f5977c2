"""What a user may, and the counting of what is refused at a cap."""

from datetime import UTC, date, datetime

from django.db.models import F

from accounts.models import User
from billing.errors import UsageLimitExceeded
from billing.models import RunBudget
from billing.tiers import TIERS, Limits


def limits_of(user: User) -> Limits:
    """What the user's tier brings."""
    return TIERS[user.tier]


def concurrent_executions_by_tier() -> dict[str, int]:
    """How many executions a user of each tier may have worked on at once: for claims, which look at many users."""
    return {tier: limits.concurrent_executions for tier, limits in TIERS.items()}


def priority_of_tier(tier: str) -> int:
    """The priority of a tier's executions. Raises `KeyError` for what is no tier."""
    return TIERS[tier].priority


def api_requests_per_minute(user: User) -> int:
    """For the API's throttle, which the settings point here."""
    return limits_of(user).api_requests_per_minute


def reserve_run(*, user: User, now: datetime) -> None:
    """Counts one accepted execution against the month of `now`, inside the caller's transaction.

    Raises `UsageLimitExceeded` at the cap. Only tiers that are refused there keep a row; one conditional UPDATE
    checks and counts, so the cap is exact however many accept at once, and a rolled-back acceptance is not counted.
    """
    limits = limits_of(user)
    if not limits.refused_over_runs or limits.runs_per_month is None:
        return
    month = now.astimezone(UTC).date().replace(day=1)
    if _spend(user, month, limits.runs_per_month):
        return
    # The month's first run: whoever inserts first wins, by the unique constraint, and all count on that row.
    RunBudget.objects.bulk_create([RunBudget(user=user, period_start=month)], ignore_conflicts=True)
    if not _spend(user, month, limits.runs_per_month):
        raise _exceeded(user, month, limits.runs_per_month)


def _spend(user: User, month: date, limit: int) -> bool:
    row = RunBudget.objects.filter(user=user, period_start=month, runs__lt=limit)
    return row.update(runs=F("runs") + 1) == 1


def _exceeded(user: User, month: date, limit: int) -> UsageLimitExceeded:
    used = RunBudget.objects.values_list("runs", flat=True).get(user=user, period_start=month)
    resets_at = datetime(month.year + month.month // 12, month.month % 12 + 1, 1, tzinfo=UTC)
    return UsageLimitExceeded(
        f"The {user.tier} tier's {limit:,} runs of this month are used up. They reset on {resets_at:%Y-%m-%d} at 00:00 UTC; "
        "a higher tier lifts the limit at once.",
        details={"limit": limit, "used": used, "resetsAt": f"{resets_at:%Y-%m-%dT%H:%M:%SZ}"},
    )
