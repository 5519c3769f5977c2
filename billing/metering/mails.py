"""The mails that tell a budget's owner that 80 % of it are spent, and that it is used up."""

from datetime import datetime

from django.conf import settings
from django.core.mail import EmailMessage

from accounts.mail import address_of
from billing.models import BudgetNotice, BudgetPeriod
from billing.models.budgets import Percent
from bloxserver.core.mail import compose, send_due


def is_any_due(*, now: datetime) -> bool:
    return BudgetNotice.objects.due(now).exists()


def send_due_mails() -> None:
    """Attempt each mail that is due."""
    send_due(BudgetNotice.objects.select_related("period__budget__user"), _composed)


def _composed(notice: BudgetNotice) -> EmailMessage:
    period = notice.period
    subject, text = _stop_text(period) if notice.percent == Percent.STOP else _warning_text(period)
    return compose(name=notice.pk.hex, to=[address_of(period.budget.user)], subject=subject, text=text)


def _warning_text(period: BudgetPeriod) -> tuple[str, str]:
    lines = [
        f"80 % of your monthly budget {period.budget} are spent.",
        "Models are asked as before; once it is used up, calls that count on it are refused.",
        *_figures(period),
    ]
    return f"80 % of your budget {period.budget} are spent", "\n".join(lines)


def _stop_text(period: BudgetPeriod) -> tuple[str, str]:
    lines = [
        f"Your monthly budget {period.budget} is used up: what is left of it is less than a call takes.",
        "Calls of models that count on it are refused, and steps that make them fail with budget_exceeded.",
        *_figures(period),
        "",
        "What to do: raise the limit, which lets calls through at once, or wait for the reset.",
    ]
    return f"Your budget {period.budget} is used up", "\n".join(lines)


def _figures(period: BudgetPeriod) -> list[str]:
    budget = period.budget
    dollars = [f"Spent: ${period.spent_cost:,.2f} of ${budget.monthly_cost:,.2f}"] if budget.monthly_cost else []
    tokens = [f"Spent: {period.spent_tokens:,} of {budget.monthly_tokens:,} tokens"] if budget.monthly_tokens else []
    return [
        "",
        *dollars,
        *tokens,
        f"Reset: {period.resets_at:%Y-%m-%d} at 00:00 UTC",
        f"Budget: {settings.BLOX_PUBLIC_URL}/api/v1/budgets/{budget.pk}",
    ]
