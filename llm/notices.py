"""The mail that tells a user that their key was refused.

That one is due stands on the key's row, so that none is lost with the process that found the key refused or with a mail
server that is away. At least once, always with the same `Message-ID`; nothing is sent inside a transaction.
"""

import logging
from datetime import datetime, timedelta

from django.conf import settings
from django.core.mail import EmailMessage

from accounts.mail import address_of
from bloxserver.core import json_text
from bloxserver.core.mail import attempt, compose
from llm.models import UserKey

logger = logging.getLogger(__name__)

AGAIN = timedelta(minutes=10)  # after an attempt that failed, or broke off with its process
GIVEN_UP = timedelta(days=1)  # after the refusal
TOGETHER = 20


def tell_of_refused_keys(*, now: datetime) -> int:
    """Sends the mails that are due, and says how many it sent. Safe to run twice at once."""
    due = UserKey.objects.notice_due(now).select_related("user").order_by("notice_due_at")[:TOGETHER]
    return sum(_tell(key, now) for key in due)


def _tell(key: UserKey, now: datetime) -> bool:
    """The condition on `notice_due_at` lets one of many have the attempt; whoever dies in it leaves the row due again."""
    until = now + AGAIN
    if not UserKey.objects.filter(pk=key.pk, notice_due_at=key.notice_due_at).update(notice_due_at=until):
        return False
    error = attempt(key, _mail)
    if error is None or error.final or key.checked_at < now - GIVEN_UP:
        UserKey.objects.filter(pk=key.pk, notice_due_at=until).update(notice_due_at=None)
    if error is not None:
        logger.warning("The mail about the refused key %s was not sent: %s", key.pk, json_text.one_line(str(error)))
    return error is None


def _mail(key: UserKey) -> EmailMessage:
    lines = [
        f"{key.provider} refused your API key that ends with {key.key_hint}:",
        "",
        f"    {key.error}",
        "",
        f"The key is not used any more. Where this server serves models of {key.provider} itself, your flows use",
        "those from now on, within the limits of your tier; where it does not, their steps fail.",
        "",
        f"What to do: make a new key at {key.provider}, or mend the account there, and store it again with",
        f"POST {settings.BLOX_PUBLIC_URL}/api/v1/api-keys",
    ]
    subject = f"Your {key.provider} key was refused"
    return compose(name=key.pk.hex, to=[address_of(key.user)], subject=subject, text="\n".join(lines))
