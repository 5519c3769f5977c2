"""The month's row of a budget: its lock, and what passing 80 and 100 % sets off."""

from collections.abc import Iterable, Sequence
from datetime import date, datetime
from decimal import Decimal
from uuid import UUID

from billing.metering.calls import Passed
from billing.models import Budget, BudgetNotice, BudgetPeriod
from billing.models.budgets import Percent

COUNTED = ("spent_cost", "spent_tokens", "reserved_cost", "reserved_tokens", "unpriced_calls")
MARKS = ("warned_at_80", "stopped_at_100")


def lock_periods(budget_ids: Sequence[UUID], month: date) -> list[BudgetPeriod]:
    """The month's rows of these budgets, in the order of their keys, locked until the caller's commit.

    Rows that are not there yet are made: whoever inserts first wins, by the unique constraint, and all lock that row. A
    budget that was deleted meanwhile gets none, and its row lock keeps it from being deleted before the row is there.
    """
    rows = BudgetPeriod.objects.filter(budget__in=budget_ids, period_start=month)
    periods = list(rows.locked())
    if len(periods) < len(budget_ids):
        budgets = Budget.objects.filter(pk__in=budget_ids).exclude(pk__in=[period.budget_id for period in periods])
        missing = budgets.order_by("pk").select_for_update(of=("self",), no_key=True)
        BudgetPeriod.objects.bulk_create(
            [BudgetPeriod(budget=budget, period_start=month) for budget in missing], ignore_conflicts=True
        )
        periods = list(rows.locked())
    return periods


def save(periods: Iterable[BudgetPeriod], *, now: datetime) -> list[Passed]:
    """Write what was counted on locked rows, and note what mails are due. The budgets that passed 80 or 100 % now."""
    rows = list(periods)
    if not rows:
        return []
    passed = [Passed(row.budget_id, percent) for row in rows if (percent := mark(row, now=now))]
    BudgetPeriod.objects.bulk_update(rows, [*COUNTED, *MARKS])
    return passed


def mark(period: BudgetPeriod, *, now: datetime) -> int | None:
    """Note on a locked row that 80 or 100 % are spent, and what mail is due; which of them, if it was not noted before.

    The row's lock decides who notes it, once: what passes both at a time is told of the stop alone.
    """
    used = share_spent(period)
    if used >= 1:
        return _stop(period, now=now)
    if used >= Decimal("0.8") and period.warned_at_80 is None:
        period.warned_at_80 = now
        BudgetNotice.objects.create(period=period, percent=Percent.WARNING, due_at=now, created_at=now)
        return Percent.WARNING
    return None


def mark_refusal(period: BudgetPeriod, *, now: datetime) -> None:
    """A call that does not fit into what is left of a locked row's budget, with at least 80 % spent, is its stop.

    Reservations keep the spent from passing 100 %, so most budgets end like this: with less left than a call takes.
    """
    if share_spent(period) >= Decimal("0.8") and _stop(period, now=now):
        period.save(update_fields=MARKS)


def _stop(period: BudgetPeriod, *, now: datetime) -> int | None:
    if period.stopped_at_100 is not None:
        return None
    period.stopped_at_100 = now
    period.warned_at_80 = period.warned_at_80 or now
    BudgetNotice.objects.create(period=period, percent=Percent.STOP, due_at=now, created_at=now)
    return Percent.STOP


def unmark(period: BudgetPeriod) -> None:
    """Take back from a locked row, after a change of its budget's limits, what is not so any more: it may come again."""
    used = share_spent(period)
    period.warned_at_80 = period.warned_at_80 if used >= Decimal("0.8") else None
    period.stopped_at_100 = period.stopped_at_100 if used >= 1 else None


def share_spent(period: BudgetPeriod) -> Decimal:
    """Of the budget, 1 being all of it: in dollars or tokens, whichever is further."""
    budget = period.budget
    limits = ((period.spent_cost, budget.monthly_cost), (period.spent_tokens, budget.monthly_tokens))
    return max(Decimal(spent) / limit for spent, limit in limits if limit is not None)
