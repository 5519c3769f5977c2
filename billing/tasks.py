"""Celery's side of budgets and subscriptions. Safe to run twice, late, or in several clocks at once."""

from celery import shared_task
from django.utils import timezone

from billing import run_mails, subscription_mails
from billing.dispatch import Job
from billing.metering import housekeeping, mails
from billing.stripe import services
from bloxserver.core.background import Background

MAILS = (mails, run_mails, subscription_mails)


@shared_task(name=Job.KEEP_BUDGETS, ignore_result=True)
def keep_budgets() -> None:
    now = timezone.now()
    housekeeping.keep_budgets(now=now)
    if any(kind.is_any_due(now=now) for kind in MAILS):
        _mails.start()  # the clock must tick on, however slow the mail server is


def _send_due_mails() -> None:
    for kind in MAILS:
        kind.send_due_mails()


_mails = Background(_send_due_mails, "billing-mails")


@shared_task(name=Job.WORK_ON_STRIPE, ignore_result=True)
def work_on_stripe() -> None:
    _stripe.start()  # where Stripe hangs, neither ticks nor executions wait for it


_stripe = Background(services.work, "billing-stripe")
