"""What a user may, and the counting of what is refused at a cap."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Any
from uuid import UUID

from django.db.models import F
from django.utils import timezone

from accounts.models import User
from billing.errors import UsageLimitExceeded
from billing.models import RunBudget
from billing.months import month_of, month_resets_at, month_starts_at
from billing.overrides import overrides_of, users_with
from billing.periods import Period, calendar_month
from billing.tiers import MANY, TIERS, Limits
from bloxserver.core.words import so_many


def limits_of(user: User, *, now: datetime | None = None) -> Limits:
    """What the user may: what the tier brings, and in its place what an operator has set for this user. Asks no database
    (`billing.overrides`), so a change is in force within 5 seconds. `now` is this moment unless it is given."""
    return limits_on(user.tier, user_id=user.pk, now=now or timezone.now())


def limits_on(tier: str, *, user_id: UUID, now: datetime) -> Limits:
    """The same for the user if they were on `tier`. Raises `KeyError` for what is no tier."""
    changed: dict[str, Any] = overrides_of(user_id, now=now)
    return replace(TIERS[tier], **changed) if changed else TIERS[tier]


def is_overridden(user: User, *limits: str, now: datetime | None = None) -> bool:
    """Whether one of these limits, by their names, is not the tier's."""
    return not overrides_of(user.pk, now=now or timezone.now()).keys().isdisjoint(limits)


def whose_limit(user: User, limit: str, *, now: datetime | None = None) -> str:
    """How a refusal begins: "The free tier's limit", or where an operator has set it "Your limit"."""
    return "Your limit" if is_overridden(user, limit, now=now) else f"The {user.tier} tier's limit"


@dataclass(frozen=True, slots=True)
class ConcurrencyCaps:
    """How many executions users may have worked on at once: for whoever looks at many of them."""

    by_tier: Mapping[str, int]
    by_user: Mapping[UUID, int]  # of those who have another than their tier's

    def of(self, user_id: UUID, tier: str) -> int:
        return self.by_user.get(user_id, self.by_tier[tier])


def concurrency_caps(*, now: datetime | None = None) -> ConcurrencyCaps:
    by_user = users_with("concurrent_executions", now=now or timezone.now())
    return ConcurrencyCaps(
        {tier: limits.concurrent_executions for tier, limits in TIERS.items()},
        {user_id: cap for user_id, cap in by_user.items() if cap is not None},
    )


def priority_of_tier(tier: str) -> int:
    """The priority of a tier's executions. Raises `KeyError` for what is no tier."""
    return TIERS[tier].priority


def api_requests_per_minute(user: User) -> int:
    """For the API's throttle, which the settings point here."""
    return limits_of(user).api_requests_per_minute


def reserve_runs(*, user: User, count: int, now: datetime, accepted: Callable[[Period], int]) -> int:
    """Counts executions that are being accepted against the month of `now`, inside the caller's transaction: `count`, or as
    many of them as the cap leaves; how many that is.

    Only tiers that are refused at the cap keep a row. Its lock, which lasts until the caller's commit, makes the cap
    exact however many accept at once, and a rolled-back acceptance is not counted. `accepted` tells how many were in a
    period before; it is asked once a month, since the row begins with those that were accepted on another tier.
    """
    limits = limits_of(user, now=now)
    if not limits.refused_over_runs:
        return count
    month, limit = month_of(now), MANY if limits.runs_per_month is None else limits.runs_per_month
    if _spend(user, month, count, limit):
        return count
    row = _run_budget(user, month, accepted)
    granted = max(0, min(count, limit - row.runs))
    if granted:
        _spend(user, month, granted, limit)
    return granted


def _run_budget(user: User, month: date, accepted: Callable[[Period], int]) -> RunBudget:
    """The month's row, locked. Whoever inserts it first wins, by the unique constraint, and all count on that row."""
    rows = RunBudget.objects.select_for_update(of=("self",)).filter(user=user, period_start=month)
    row = rows.first()
    if row is None:
        before = accepted(calendar_month(month_starts_at(month)))
        RunBudget.objects.bulk_create([RunBudget(user=user, period_start=month, runs=before)], ignore_conflicts=True)
        row = rows.get()
    return row


def _spend(user: User, month: date, count: int, limit: int) -> bool:
    """One conditional UPDATE checks and counts."""
    row = RunBudget.objects.filter(user=user, period_start=month, runs__lte=limit - count)
    return row.update(runs=F("runs") + count) == 1


def usage_limit_exceeded(user: User, *, now: datetime) -> UsageLimitExceeded:
    """What a firing over the month's cap is answered."""
    month = month_of(now)
    used = RunBudget.objects.values_list("runs", flat=True).get(user=user, period_start=month)
    limit = limits_of(user, now=now).runs_per_month
    limit = used if limit is None else limit  # it was lifted at this moment
    resets_at = month_resets_at(month)
    return UsageLimitExceeded(
        f"{whose_limit(user, 'runs_per_month', now=now)} of {so_many(limit, 'run')} a month is used up. It resets on "
        f"{resets_at:%Y-%m-%d} at 00:00 UTC; a higher tier lifts it at once.",
        details={"limit": limit, "used": used, "resetsAt": f"{resets_at:%Y-%m-%dT%H:%M:%SZ}"},
    )
