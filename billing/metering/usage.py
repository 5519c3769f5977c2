"""What a tenant's calls of models have come to between two days."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from django.db.models import QuerySet, Sum

from accounts.models import User
from billing.metering.settling import ADDED
from billing.models import LlmUsage
from billing.models.usage import NO_FLOW

MOST_DAYS = 366
MOST_ROWS = 100  # of models, and of flows


@dataclass(frozen=True, slots=True)
class UsageReport:
    """Sums over the days from `first` to `last`. Each row has what it is of and `ADDED`; `cost` is None where it could
    only be of calls whose price is not known. The dearest models and flows are listed, and how many more there are."""

    first: date
    last: date
    totals: dict[str, Any]
    by_model: list[dict[str, Any]]
    by_flow: list[dict[str, Any]]
    by_day: list[dict[str, Any]]
    more_models: int
    more_flows: int


def llm_usage(*, user: User, first: date, last: date) -> UsageReport:
    """The user's calls of these days (UTC) and those between them, own keys and hits of the cache included."""
    rows = LlmUsage.objects.for_user(user).between(first, last).order_by()
    by_model, more_models = _dearest(rows, "provider", "model", "own_key")
    by_flow, more_flows = _dearest(rows, "flow_id")
    totals = rows.aggregate(**{name: Sum(name, default=0) for name in ADDED})
    return UsageReport(
        first=first,
        last=last,
        totals=_row(totals),
        by_model=by_model,
        by_flow=[{**row, "flow_id": None if row["flow_id"] == NO_FLOW else row["flow_id"]} for row in by_flow],
        by_day=[_row(row) for row in _summed(rows, "day").order_by("day")],
        more_models=more_models,
        more_flows=more_flows,
    )


def llm_by_day(*, user: User, first: date, last: date) -> list[dict[str, Any]]:
    """The sums `ADDED` of each of these days (UTC) that has calls."""
    rows = _summed(LlmUsage.objects.for_user(user).between(first, last), "day").order_by("day")
    return [{name.removesuffix("_sum"): value for name, value in row.items()} for row in rows]


def summed(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """`rows` of `llm_by_day` in one, as `totals` of a report are."""
    totals = dict.fromkeys(ADDED, 0)
    for row in rows:
        totals = {name: totals[name] + row[name] for name in ADDED}
    return _row(totals)


def _summed(rows: QuerySet[LlmUsage], *of: str) -> QuerySet[Any, Any]:
    return rows.values(*of).annotate(**{f"{name}_sum": Sum(name) for name in ADDED})


def _dearest(rows: QuerySet[LlmUsage], *of: str) -> tuple[list[dict[str, Any]], int]:
    """The rows that cost most, by tokens where the price is not known; and how many more there are."""
    sums = _summed(rows, *of)
    ordered = sums.order_by("-cost_sum", "-tokens_in_sum", *of)
    return [_row(row) for row in ordered[:MOST_ROWS]], max(0, sums.count() - MOST_ROWS)


def _row(sums: dict[str, Any]) -> dict[str, Any]:
    row = {name.removesuffix("_sum"): value for name, value in sums.items()}
    if row["unpriced_calls"] and row["unpriced_calls"] == row["calls"] - row["cached_calls"]:
        row["cost"] = None
    return row
