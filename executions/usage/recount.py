"""What is counted in one place, counted once more from another: who pays by a number wants to see where it comes from."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from django.db import transaction
from django.db.models import F

from accounts.models import User
from billing.metering.calls import ZERO, dollars
from billing.metering.usage import llm_by_day, summed
from billing.models import BudgetPeriod, DeletedRuns, LlmUsage, RunBudget
from billing.months import month_of
from billing.periods import Period, calendar_month
from billing.services import limits_of
from executions.models import MODEL_BLOCK, Step, StepStatus
from executions.querysets import StepQuerySet
from executions.usage.counting import runs_of

MARGIN = timedelta(minutes=5)  # between an answer and the commit that counts it, by which it may be another day's
LOOKED_BACK = timedelta(days=31)  # before a period: what was accepted there may have asked models in it


@dataclass(frozen=True, slots=True)
class Difference:
    what: str
    kept: str
    recounted: str
    fixed: bool = False

    def __str__(self) -> str:
        end = "; it is set right" if self.fixed else ""
        return f"{self.what}: {self.kept} on record, {self.recounted} recounted{end}"


@dataclass(frozen=True, slots=True)
class Sums:
    calls: int = 0
    tokens: int = 0
    cost: Decimal = ZERO

    def __str__(self) -> str:
        return f"{self.calls:,} calls, {self.tokens:,} tokens, ${self.cost:,.4f}"

    def is_within(self, other: "Sums") -> bool:
        return self.calls <= other.calls and self.tokens <= other.tokens and self.cost <= other.cost


def recount(*, user: User, period: Period, fix: bool = False) -> Iterator[Difference]:
    """Each difference of the user's period. `fix` sets the budget of runs right, where runs are refused at its cap."""
    yield from _recount_runs(user, calendar_month(period.starts_at), fix=fix)
    yield from _recount_llm(user, period)
    yield from _recount_budgets(user, calendar_month(period.starts_at))


def _recount_runs(user: User, month: Period, *, fix: bool) -> Iterator[Difference]:
    """The budget of runs against the executions. All who accept wait for the row's lock meanwhile: of what they have
    counted, nothing is uncommitted. Where there is none, the next acceptance makes it, and counts these executions."""
    if not limits_of(user).refused_over_runs:
        return
    key = {"user": user, "period_start": month_of(month.starts_at)}
    with transaction.atomic():
        budget = RunBudget.objects.select_for_update(of=("self",)).filter(**key).first()
        if budget is None or (runs := runs_of(user, month)) == budget.runs:
            return
        if fix:
            RunBudget.objects.filter(pk=budget.pk).update(runs=runs)
    yield Difference(f"runs of {month.starts_at:%Y-%m} at the cap", f"{budget.runs:,}", f"{runs:,}", fixed=fix)


def _recount_llm(user: User, period: Period) -> Iterator[Difference]:
    """The usage against the turns of models on record. What is settled meanwhile may be in the later counts alone."""
    starts_at, ends_at = (datetime.combine(day, time.min, UTC) for day in period.days)
    ends_at += timedelta(days=1)
    least = _on_record(user, starts_at + MARGIN, ends_at - MARGIN)
    first, last = period.days
    usage = _sums(summed(llm_by_day(user=user, first=first, last=last)))
    most = _on_record(user, starts_at - MARGIN, ends_at + MARGIN)
    if not least.is_within(usage):
        yield Difference("model usage", str(usage), f"at least {least}")
    elif _is_all_on_record(user, starts_at, ends_at) and not usage.is_within(most):
        yield Difference("model usage", str(usage), f"at most {most}")


def _on_record(user: User, since: datetime, until: datetime) -> Sums:
    """Of the turns that ended in this time. Those that a retry has taken over from another execution are older than it."""
    turns = _turns(user, since, until).filter(status=StepStatus.SUCCESS, completed_at__gte=F("execution__started_at"))
    calls, tokens, cost = 0, 0, ZERO
    for tokens_in, tokens_out, call in turns.values_list("tokens_in", "tokens_out", "model_call").iterator():
        calls += 1
        if call and not call["cached"]:
            tokens += tokens_in + tokens_out
            cost += ZERO if call["cost"] is None else dollars(Decimal(call["cost"]))
    return Sums(calls, tokens, cost)


def _is_all_on_record(user: User, since: datetime, until: datetime) -> bool:
    """Whether nothing was deleted that may have asked a model in this time, and no answer was too odd to be kept."""
    deleted = DeletedRuns.objects.filter(user=user, starts_at__gte=since - LOOKED_BACK, starts_at__lt=until)
    unreadable = _turns(user, since - MARGIN, until + MARGIN).filter(error_code="answer_unreadable")
    return not deleted.exists() and not unreadable.exists()


def _turns(user: User, since: datetime, until: datetime) -> StepQuerySet:
    return Step.objects.for_user(user).filter(
        execution__started_at__lt=until, block=MODEL_BLOCK, completed_at__gte=since, completed_at__lt=until
    )


def _recount_budgets(user: User, month: Period) -> Iterator[Difference]:
    """What is spent against the usage, which is read first: both grow in one transaction. More may well be spent: what was
    reserved for calls of which nobody said what they came to."""
    first, last = month.days
    rows = list(LlmUsage.objects.for_user(user).between(first, last))
    periods = BudgetPeriod.objects.filter(budget__user=user, period_start=first).select_related("budget")
    for period in periods.order_by("pk"):
        counted = [row for row in rows if period.budget.flow_id in (None, row.flow_id)]
        cost, tokens = sum((row.cost for row in counted), ZERO), sum(row.tokens_in + row.tokens_out for row in counted)
        if period.spent_cost < cost or period.spent_tokens < tokens:
            yield Difference(
                f"the budget {period.budget} in {first:%Y-%m}",
                f"${period.spent_cost:,.4f} and {period.spent_tokens:,} tokens spent",
                f"${cost:,.4f} and {tokens:,} tokens used (calls that began before the month, or before the budget was made,"
                " are not in it)",
            )


def _sums(totals: dict[str, Any]) -> Sums:
    return Sums(totals["calls"], totals["tokens_in"] + totals["tokens_out"], totals["cost"] or ZERO)
