"""What the tests of metering have in common."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

from accounts.models import User
from billing.metering import MeteredCall, Passed, Reservation, reserve_llm, settle_all
from billing.metering.budgets import create_budget
from billing.models import Budget, BudgetPeriod

NOVEMBER = datetime(2026, 11, 24, 12, tzinfo=UTC)
DECEMBER = datetime(2026, 12, 1, tzinfo=UTC)
LEASE = timedelta(minutes=5)


def budget(user: User, *, cost: str | None = None, tokens: int | None = None, flow_id: UUID | None = None) -> Budget:
    return create_budget(
        user=user,
        flow_id=flow_id,
        flow_name="Orders" if flow_id else "",
        monthly_cost=None if cost is None else Decimal(cost),
        monthly_tokens=tokens,
        now=NOVEMBER,
    )


def reserve(
    user: User, *, cost: str | None = "1", tokens: int = 1_000, now: datetime = NOVEMBER, **more: Any
) -> Reservation | None:
    values = {"call_id": uuid4(), "flow_id": None, "lease": LEASE, **more}
    return reserve_llm(user_id=user.pk, tokens=tokens, cost=None if cost is None else Decimal(cost), now=now, **values)


def call(user: User, call_id: UUID | None = None, *, cost: str | None = "1", **more: Any) -> MeteredCall:
    """One of 900 tokens in and 100 out."""
    values: dict[str, Any] = {
        "flow_id": None,
        "model": "gpt-5",
        "provider": "openai",
        "tokens_in": 900,
        "tokens_out": 100,
        **more,
    }
    price = None if cost is None else Decimal(cost)
    return MeteredCall(call_id=call_id or uuid4(), user_id=user.pk, cost=price, **values)


def settle_llm(*, call: MeteredCall, now: datetime) -> list[Passed]:
    return settle_all(calls=[call], now=now)


def spend(user: User, *, cost: str = "1", now: datetime = NOVEMBER, flow_id: UUID | None = None) -> list[Passed]:
    """A call that comes to what it reserved."""
    call_id = uuid4()
    reserve(user, call_id=call_id, cost=cost, now=now, flow_id=flow_id)
    return settle_llm(call=call(user, call_id, cost=cost, flow_id=flow_id), now=now)


def period(of: Budget, now: datetime = NOVEMBER) -> Any:
    """The budget's row of the month."""
    return BudgetPeriod.objects.get(budget=of, period_start=now.date().replace(day=1))
