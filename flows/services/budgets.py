"""Budgets of model calls, where flows are known: billing, which keeps them, knows flows by their ids alone."""

from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.db import transaction

from accounts.models import User
from billing.metering.budgets import create_budget
from billing.metering.usage import UsageReport, llm_usage
from billing.models import Budget
from bloxserver.core.errors import InvalidInput
from flows.models import Flow

UNKNOWN_FLOW = "There is no such flow among yours."


def set_budget(
    *, owner: User, flow_id: UUID | None, monthly_cost: Decimal | None, monthly_tokens: int | None, now: datetime
) -> Budget:
    """A budget of one of `owner`'s flows, or with None of all. A flow that is not theirs is `InvalidInput`, since a budget
    on it would limit nothing; its row lock keeps it from being deleted meanwhile. Raises what `create_budget` raises."""
    limits: dict[str, Any] = {"monthly_cost": monthly_cost, "monthly_tokens": monthly_tokens}
    with transaction.atomic():
        if flow_id is None:
            return create_budget(user=owner, **limits, now=now)
        flow = Flow.objects.for_user(owner).locked().without_bodies().filter(pk=flow_id).first()
        if flow is None:
            raise InvalidInput(UNKNOWN_FLOW, details={"flowId": [UNKNOWN_FLOW]})
        return create_budget(user=owner, flow_id=flow.pk, flow_name=flow.name, **limits, now=now)


def llm_report(*, owner: User, first: date, last: date) -> UsageReport:
    """`llm_usage` with the `flow_name` of each flow: None of one that was deleted, history and all."""
    report = llm_usage(user=owner, first=first, last=last)
    flow_ids = [row["flow_id"] for row in report.by_flow if row["flow_id"]]
    names = dict(Flow.with_deleted.for_user(owner).filter(pk__in=flow_ids).values_list("pk", "name"))
    for row in report.by_flow:
        row["flow_name"] = names.get(row["flow_id"])
    return report
