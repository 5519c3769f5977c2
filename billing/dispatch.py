"""The names of this app's Celery tasks, and how a worker is told of an event."""

import logging
from enum import StrEnum
from functools import partial

from celery import current_app
from django.db import transaction
from kombu.exceptions import KombuError, OperationalError

logger = logging.getLogger(__name__)


class Job(StrEnum):
    KEEP_BUDGETS = "billing.keep_budgets"  # beat sends it; settings say how often, and to which queue
    HANDLE_EVENT = "billing.handle_stripe_event"
    WORK_ON_STRIPE = "billing.work_on_stripe"  # beat sends it


def send_event(event_id: str) -> None:
    """Have a worker handle the event once the transaction that is under way has committed. Lost where the broker is
    away: the clock looks for what is due."""
    transaction.on_commit(partial(_send_event, event_id), robust=True)


def _send_event(event_id: str) -> None:
    try:
        current_app.send_task(Job.HANDLE_EVENT, args=[event_id], ignore_result=True, retry=False)
    except (OperationalError, KombuError, OSError) as error:
        logger.warning("%s of %s is not sent, the broker is away: %s", Job.HANDLE_EVENT, event_id, error)
