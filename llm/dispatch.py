"""The names of this app's Celery tasks, and how the workers are sent one."""

import logging
from enum import StrEnum
from functools import partial

from celery import current_app
from django.db import transaction
from kombu.exceptions import KombuError, OperationalError

logger = logging.getLogger(__name__)


class Job(StrEnum):
    TELL = "llm.tell_of_refused_keys"  # beat sends it each minute
    FORGET = "llm.forget_answers"  # of a user
    CLOSE = "llm.close_breaker"  # of a member of the pool


def send(job: Job, key: str) -> None:
    """Have a worker do `job`, once the transaction that is under way has committed.

    Without Redis the worker alone knows what is in its memory. Lost where the broker is away: what it is about, answers
    and breakers, comes to an end by itself.
    """
    transaction.on_commit(partial(_send, job, key), robust=True)


def _send(job: Job, key: str) -> None:
    try:
        current_app.send_task(job, args=[key], ignore_result=True, retry=False)
    except (OperationalError, KombuError, OSError) as error:
        logger.warning("%s of %s is not sent, the broker is away: %s", job, key, error)
