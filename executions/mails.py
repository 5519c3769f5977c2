"""The mail that asks for an approval, and the signed link in it.

A link is signed with the server's `SECRET_KEY` (django.core.signing) and names one question and one addressee: who has
the mail may answer, and the answer is recorded as the addressee's. It ends with the question.
"""

import hashlib
from uuid import UUID

from django.conf import settings
from django.core import signing
from django.core.mail import EmailMultiAlternatives
from django.urls import reverse

from bloxserver.core.mail import message_id
from executions.models import Approval
from flows.blocks.email import send

_SALT = "executions.approvals"
LONGEST_SUBJECT = 120


def link_token(approval: Approval, address: str) -> str:
    return signing.dumps([str(approval.pk), address], salt=_SALT)


def read_token(token: str) -> tuple[UUID, str] | None:
    """(approval id, addressee) of a link's token; None for one that this server has not signed."""
    try:
        approval_id, address = signing.loads(token, salt=_SALT)
    except signing.BadSignature:
        return None
    return UUID(approval_id), address


def send_question(approval: Approval, address: str, *, flow: str) -> None:
    """Raises `BlockError` that tells what surely was not sent from what may have been."""
    url = settings.BLOX_PUBLIC_URL + reverse("approval-link", args=[link_token(approval, address)])
    until = f"\nIt can be answered until {approval.expires_at:%Y-%m-%d %H:%M} UTC." if approval.expires_at else ""
    title = " ".join(f"{flow} asks: {approval.message}".split())
    # The same id whenever it is sent, so that a mail program shows a mail that was sent twice once.
    digest = hashlib.sha256(f"{approval.pk}:{address}".encode()).hexdigest()[:32]
    send(
        EmailMultiAlternatives(
            subject=title if len(title) <= LONGEST_SUBJECT else f"{title[: LONGEST_SUBJECT - 1]}…",
            body=f"{approval.message}\n\nThe flow {flow} waits for your answer. Approve or reject it here:\n\n{url}\n"
            f"{until}\nWhoever has this link can answer in your name.\n",
            to=[address],
            headers={"Message-ID": message_id(digest)},
        )
    )
