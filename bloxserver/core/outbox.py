"""What is sent at least once: a row is due, an attempt at it is claimed, made, and its outcome recorded.

Each attempt is claimed before it is made, so that what a dying process leaves undone is tried again; every attempt should
carry the same id, so that who gets it twice can tell. Nothing is sent inside a transaction.
"""

import logging
from datetime import datetime, timedelta
from typing import ClassVar, TypeVar

from django.db import models, transaction
from django.db.models import QuerySet
from django.utils import timezone

from bloxserver.core import json_text

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 6
WAITS = (60, 300, 1_800, 7_200, 21_600)  # seconds after each attempt; longer than an attempt takes, see `claim`
ERROR_CHARACTERS = 2_000
BROKE_OFF = "The last attempt broke off with its process; whether it arrived is not known."


class NotDelivered(Exception):
    """The message says why; `final`: no further attempt would change it."""

    def __init__(self, message: str, *, final: bool = False) -> None:
        super().__init__(message)
        self.final = final


class Delivery(models.Model):
    """Something to be sent, until it is done or given up. Queue and log in one: it is due while `due_at` is set."""

    DONE: ClassVar[str] = "sent_at"  # the field that says when it was done

    attempts = models.PositiveSmallIntegerField(default=0)
    due_at = models.DateTimeField(
        null=True, blank=True, default=timezone.now, help_text="Of the next attempt; empty when done or given up."
    )
    error = models.TextField(blank=True, help_text="Why the last attempt failed.")
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        abstract = True

    def take_attempt(self, now: datetime) -> None:
        """Count one and put the next off; what has had its attempts is given up. Does not save."""
        if self.attempts >= MAX_ATTEMPTS:
            self.due_at, self.error = None, self.error or BROKE_OFF
        else:
            self.attempts += 1
            self.due_at = now + timedelta(seconds=WAITS[min(self.attempts, len(WAITS)) - 1])


class Mail(Delivery):
    """A mail that tells a user of something."""

    sent_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        abstract = True


D = TypeVar("D", bound=Delivery)


def claim(rows: "QuerySet[D]", *, now: datetime, most: int) -> list[D]:
    """Count an attempt at up to `most` of `rows` that are due, and put them off: whoever dies now leaves them due again
    later. Those at which an attempt is to be made.

    The row locks let one of two claimers have a row. What has had its attempts is given up: the last broke off.
    """
    with transaction.atomic():
        due = rows.filter(due_at__lte=now).select_for_update(skip_locked=True, of=("self",)).order_by("due_at")
        claimed = list(due[:most])
        for row in claimed:
            row.take_attempt(now)
        rows.model._default_manager.bulk_update(claimed, ["attempts", "due_at", "error"])
    return [row for row in claimed if row.due_at is not None]


def record(row: Delivery, error: NotDelivered | None) -> None:
    """Mark it done, or say why not and whether that is the end of it. An attempt that is not the latest says nothing."""
    latest = type(row)._default_manager.filter(**{"pk": row.pk, "attempts": row.attempts, row.DONE: None})
    if error is None:
        latest.update(**{row.DONE: timezone.now(), "due_at": None, "error": ""})
        return
    given_up = error.final or row.attempts >= MAX_ATTEMPTS
    message = json_text.clean(str(error))[:ERROR_CHARACTERS]
    latest.update(error=message, **({"due_at": None} if given_up else {}))
    what, end = row._meta.model_name, ", given up" if given_up else ""
    logger.warning("%s=%s attempt=%d%s: %s", what, row.pk, row.attempts, end, json_text.one_line(message))
