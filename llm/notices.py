"""The mail that tells a user that their key was refused.

That one is due stands on the key's row, so that none is lost with the process that found the key refused or with a mail
server that is away. At least once, always with the same `Message-ID`; nothing is sent inside a transaction.
"""

import logging
import smtplib
from datetime import datetime, timedelta

from django.conf import settings
from django.core.mail import EmailMessage, get_connection

from accounts.models import User
from accounts.services import PLACEHOLDER_DOMAIN
from bloxserver.core.mail import message_id
from llm.models import UserKey

logger = logging.getLogger(__name__)

AGAIN = timedelta(minutes=10)  # after an attempt that failed, or broke off with its process
GIVEN_UP = timedelta(days=1)  # after the refusal
TOGETHER = 20
SMTP_SECONDS = 15


def tell_of_refused_keys(*, now: datetime) -> int:
    """Sends the mails that are due, and says how many it sent. Safe to run twice at once."""
    due = UserKey.objects.notice_due(now).select_related("user").order_by("notice_due_at")[:TOGETHER]
    return sum(_tell(key, now) for key in due)


def _tell(key: UserKey, now: datetime) -> bool:
    """The condition on `notice_due_at` lets one of many have the attempt; whoever dies in it leaves the row due again."""
    until = now + AGAIN
    if not UserKey.objects.filter(pk=key.pk, notice_due_at=key.notice_due_at).update(notice_due_at=until):
        return False
    was_sent = _is_reachable(key.user) and _was_sent(_mail(key))
    if was_sent or not _is_reachable(key.user) or key.checked_at < now - GIVEN_UP:
        UserKey.objects.filter(pk=key.pk, notice_due_at=until).update(notice_due_at=None)
    return was_sent


def _is_reachable(user: User) -> bool:
    return user.is_active and not user.email.endswith(PLACEHOLDER_DOMAIN)


def _was_sent(mail: EmailMessage) -> bool:
    try:
        get_connection(fail_silently=False, timeout=SMTP_SECONDS).send_messages([mail])
    except (OSError, smtplib.SMTPException) as error:
        logger.warning("A mail about a refused key was not sent, and will be tried again: %s", error)
        return False
    return True


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
    return EmailMessage(
        subject=f"Your {key.provider} key was refused",
        body="\n".join(lines),
        to=[key.user.email],
        headers={"Message-ID": message_id(key.pk.hex), "Auto-Submitted": "auto-generated"},
    )
