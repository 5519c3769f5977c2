"""The mails that tell a budget's owner that 80 % of it are spent, and that it is used up.

At least once: each attempt is claimed before it is made, and every attempt carries the same `Message-ID`, so that a mail
program shows a mail that was sent twice once. Nothing is sent inside a transaction.
"""

import logging
import smtplib
from datetime import datetime, timedelta

from django.conf import settings
from django.core.mail import EmailMessage, get_connection
from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from billing.models import BudgetNotice, BudgetPeriod
from billing.models.budgets import Percent
from bloxserver.core import json_text
from bloxserver.core.mail import message_id

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 6
WAITS = (60, 300, 1_800, 7_200, 21_600)  # seconds after each attempt; longer than an attempt takes
SMTP_SECONDS = 15
ERROR_CHARACTERS = 2_000
BROKE_OFF = "The last attempt broke off with its process; whether it arrived is not known."

CLOSED = "The account is closed."


def is_any_due(*, now: datetime) -> bool:
    return BudgetNotice.objects.due(now).exists()


def send_due_mails() -> None:
    """Attempt each mail that is due."""
    while (notice := claim(now=timezone.now())) is not None:
        error = _send(notice)
        _record(notice, error)


def claim(*, now: datetime) -> BudgetNotice | None:
    """Count an attempt at one that is due, and put it off: whoever dies now leaves it due again later.

    The row lock lets one of two claimers have it. What has had its attempts is given up (the last broke off), and what is
    for a closed account.
    """
    with transaction.atomic():
        due = BudgetNotice.objects.due(now).select_for_update(skip_locked=True, of=("self",)).order_by("due_at")
        _give_up(due.filter(attempts__gte=MAX_ATTEMPTS), BROKE_OFF)
        _give_up(due.filter(period__budget__user__is_active=False), CLOSED)
        notice = due.select_related("period__budget__user").first()
        if notice is not None:
            notice.attempts += 1
            notice.due_at = now + timedelta(seconds=WAITS[min(notice.attempts, len(WAITS)) - 1])
            notice.save(update_fields=["attempts", "due_at"])
    return notice


def _give_up(locked: "QuerySet[BudgetNotice]", error: str) -> None:
    BudgetNotice.objects.filter(pk__in=[notice.pk for notice in locked]).update(due_at=None, error=error)


def _send(notice: BudgetNotice) -> str | None:
    """None when the mail server took it, else why not."""
    period = notice.period
    subject, body = _stop_text(period) if notice.percent == Percent.STOP else _warning_text(period)
    message = EmailMessage(
        subject=" ".join(subject.split()),
        body=body,
        to=[period.budget.user.email],
        # RFC 3834, so that no holiday notice answers.
        headers={"Message-ID": message_id(notice.pk.hex), "Auto-Submitted": "auto-generated"},
    )
    try:
        get_connection(fail_silently=False, timeout=SMTP_SECONDS).send_messages([message])
    except (OSError, smtplib.SMTPException) as error:
        return f"The mail server did not take it: {error}"
    return None


def _record(notice: BudgetNotice, error: str | None) -> None:
    """An attempt that is not the latest says nothing."""
    row = BudgetNotice.objects.filter(pk=notice.pk, sent_at=None, attempts=notice.attempts)
    if error is None:
        row.update(sent_at=timezone.now(), due_at=None, error="")
        return
    message = json_text.clean(error)[:ERROR_CHARACTERS]
    row.update(error=message, **({"due_at": None} if notice.attempts >= MAX_ATTEMPTS else {}))
    logger.warning("budget notice=%s attempt=%d: %s", notice.pk, notice.attempts, json_text.one_line(message))


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
