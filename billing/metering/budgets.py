"""Setting, changing and removing budgets."""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models import F, Sum

from accounts.models import User
from billing.errors import BudgetExists
from billing.metering.calls import ZERO
from billing.metering.periods import lock_periods, save, unmark
from billing.models import Budget, BudgetPeriod, LlmUsage
from billing.months import month_of
from bloxserver.core.errors import InvalidInput, NotFound

NO_LIMIT = "A budget limits dollars (monthlyCost), tokens (monthlyTokens) or both."


def create_budget(
    *,
    user: User,
    monthly_cost: Decimal | None,
    monthly_tokens: int | None,
    now: datetime,
    flow_id: UUID | None = None,
    flow_name: str = "",
) -> Budget:
    """A budget of all the user's calls, or of one flow's; the caller has checked that the flow is the user's.

    What the month's usage has come to already counts on it; calls under way at this moment do not. Raises
    `BudgetExists` (409), by a unique constraint, and `InvalidInput` without a limit.
    """
    _require_limit(monthly_cost, monthly_tokens)
    budget = Budget(
        user=user,
        flow_id=flow_id,
        flow_name=flow_name,
        monthly_cost=monthly_cost,
        monthly_tokens=monthly_tokens,
        created_at=now,
        updated_at=now,
    )
    try:
        with transaction.atomic():
            budget.save(force_insert=True)
            count_from_usage(budget, now=now)
    except IntegrityError as error:
        what = "this flow" if flow_id else "all of your flows"
        raise BudgetExists(f"There is a budget of {what} already; change that one.") from error
    return budget


def count_from_usage(budget: Budget, *, now: datetime) -> None:
    """Begin a new budget's month with what the usage has. In the transaction that makes the budget."""
    usage = LlmUsage.objects.filter(user=budget.user_id, day__gte=month_of(now))
    if budget.flow_id is not None:
        usage = usage.filter(flow_id=budget.flow_id)
    sums = usage.aggregate(
        cost=Sum("cost"), tokens=Sum(F("tokens_in") + F("tokens_out")), unpriced=Sum("unpriced_calls")
    )
    (period,) = lock_periods([budget.pk], month_of(now))
    period.spent_cost, period.spent_tokens = sums["cost"] or ZERO, sums["tokens"] or 0
    period.unpriced_calls = sums["unpriced"] or 0
    save([period], now=now)


def update_budget(*, budget: Budget, changes: Mapping[str, Any], now: datetime) -> Budget:
    """Set `monthly_cost`, `monthly_tokens` or both. From the next call on they hold.

    After a higher limit the month's warning and stop may come again. Raises `InvalidInput` where no limit would be left,
    `NotFound` for one that was deleted. Safe under concurrency by the budget's row lock, and the period's after it.
    """
    with transaction.atomic():
        locked = Budget.objects.select_for_update(of=("self",), no_key=True).filter(pk=budget.pk).first()
        if locked is None:
            raise NotFound("Not found.")
        for field in ("monthly_cost", "monthly_tokens"):
            setattr(locked, field, changes.get(field, getattr(locked, field)))
        _require_limit(locked.monthly_cost, locked.monthly_tokens)
        locked.updated_at = now
        locked.save(update_fields=["monthly_cost", "monthly_tokens", "updated_at"])
        (period,) = lock_periods([budget.pk], month_of(now))
        unmark(period)
        save([period], now=now)
    return locked


def delete_budget(*, budget: Budget) -> None:
    """Calls that are under way go on, and count on it no more.

    Its row is locked before its periods, in the order of `update_budget`; the periods, as whoever spends locks them.
    """
    with transaction.atomic():
        list(Budget.objects.filter(pk=budget.pk).select_for_update(of=("self",)))
        list(BudgetPeriod.objects.filter(budget=budget).locked())
        budget.delete()


def forget_flow(*, flow_id: UUID) -> None:
    """A deleted flow's budget goes with it; its usage stays. In the transaction that deletes the flow."""
    for budget in Budget.objects.filter(flow_id=flow_id):
        delete_budget(budget=budget)


def rename_flow(*, flow_id: UUID, name: str) -> None:
    """What mails and refusals call the flow by."""
    Budget.objects.filter(flow_id=flow_id).update(flow_name=name)


def _require_limit(monthly_cost: Decimal | None, monthly_tokens: int | None) -> None:
    if monthly_cost is None and monthly_tokens is None:
        raise InvalidInput(NO_LIMIT, details={"monthlyCost": [NO_LIMIT]})
