"""Celery's side of the budgets. Safe to run twice, late, or in several clocks at once."""

from celery import shared_task
from django.utils import timezone

from billing.dispatch import Job
from billing.metering import housekeeping, mails
from bloxserver.core.background import Background


@shared_task(name=Job.KEEP_BUDGETS, ignore_result=True)
def keep_budgets() -> None:
    now = timezone.now()
    housekeeping.keep_budgets(now=now)
    if mails.is_any_due(now=now):
        _mails.start()  # the clock must tick on, however slow the mail server is


_mails = Background(mails.send_due_mails, "billing-mails")
