"""The names of this app's Celery tasks, and how the clock is told of an event."""

import logging
from enum import StrEnum

from celery import current_app
from django.db import transaction
from kombu.exceptions import KombuError, OperationalError

logger = logging.getLogger(__name__)

BELL_EXPIRES_SECONDS = 15.0  # the clock has looked by then


class Job(StrEnum):
    KEEP_BUDGETS = "billing.keep_budgets"  # beat sends it; settings say how often, and to which queue
    WORK_ON_STRIPE = "billing.work_on_stripe"  # beat sends it too


def ring_for_stripe() -> None:
    """Have the clock look for events once the transaction that is under way has committed. Lost where the broker is away:
    the clock looks every few seconds anyway."""
    transaction.on_commit(_ring_for_stripe, robust=True)


def _ring_for_stripe() -> None:
    try:
        current_app.send_task(
            Job.WORK_ON_STRIPE, queue="clock", ignore_result=True, retry=False, expires=BELL_EXPIRES_SECONDS
        )
    except (OperationalError, KombuError, OSError) as error:
        logger.warning("%s is not sent, the broker is away: %s", Job.WORK_ON_STRIPE, error)
