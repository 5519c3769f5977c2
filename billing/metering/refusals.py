"""Why a budget lets no call through, in words."""

from typing import Any

from billing.errors import BudgetExceeded
from billing.metering.calls import ZERO, Ask
from billing.models import Budget, BudgetPeriod


def used_up(period: BudgetPeriod, ask: Ask, *, temporary: bool) -> BudgetExceeded:
    """What is left is less than the call takes; `temporary`: it would do but for the calls under way."""
    budget = period.budget
    if _is_short_of_dollars(period, ask):
        unit = "usd"
        limit, used, reserved = map(_money, (budget.monthly_cost or ZERO, period.spent_cost, period.reserved_cost))
        asked = _money(ask.cost or ZERO)
    else:
        unit = "tokens"
        limit, used, reserved = map(_tokens, (budget.monthly_tokens or 0, period.spent_tokens, period.reserved_tokens))
        asked = _tokens(ask.tokens)
    way_out = (
        "Calls under way hold the rest; try again when they are done."
        if temporary
        else f"It resets on {period.resets_at:%Y-%m-%d} at 00:00 UTC; a higher limit lifts it at once."
    )
    error = BudgetExceeded(
        f"The model was not asked: the monthly budget {budget} is {limit}, of which {used} are used and {reserved} "
        f"reserved, and the call may take {asked}. {way_out}",
        details=_details(period, unit),
    )
    error.temporary = temporary
    return error


def price_unknown(period: BudgetPeriod) -> BudgetExceeded:
    return BudgetExceeded(
        f"The model was not asked: its price is not known, and the monthly budget {period.budget} is in US dollars alone. "
        "Give the budget a limit in tokens too, which bounds such calls, or ask a model whose price is known.",
        details={**_details(period, "usd"), "reason": "price_unknown"},
    )


def _is_short_of_dollars(period: BudgetPeriod, ask: Ask) -> bool:
    budget = period.budget
    if budget.monthly_cost is None or ask.cost is None:
        return False
    if budget.monthly_tokens is None:
        return True
    return period.spent_cost + period.reserved_cost + ask.cost > budget.monthly_cost


def _details(period: BudgetPeriod, unit: str) -> dict[str, Any]:
    budget: Budget = period.budget
    in_dollars = unit == "usd"
    return {
        "budgetId": str(budget.pk),
        "unit": unit,
        "limit": float(budget.monthly_cost or 0) if in_dollars else budget.monthly_tokens,
        "used": float(period.spent_cost) if in_dollars else period.spent_tokens,
        "reserved": float(period.reserved_cost) if in_dollars else period.reserved_tokens,
        "resetsAt": f"{period.resets_at:%Y-%m-%dT%H:%M:%SZ}",
    }


def _money(value: Any) -> str:
    """Dollars with two digits after the point, or as many as a small sum needs."""
    text = f"{value:,.6f}".rstrip("0")
    whole, _, rest = text.partition(".")
    return f"${whole}.{rest:0<2}"


def _tokens(value: int) -> str:
    return f"{value:,} tokens"
