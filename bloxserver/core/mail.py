"""What all mails of the server have in common, and the sending of those that are due."""

import smtplib
from collections.abc import Callable, Sequence
from email.utils import parseaddr
from typing import TypeVar

from django.conf import settings
from django.core.mail import EmailMessage, EmailMultiAlternatives, get_connection
from django.db.models import Model, QuerySet
from django.utils import timezone

from bloxserver.core.outbox import Mail, NotDelivered, claim, record

SMTP_SECONDS = 15  # less than the first wait of an outbox

M = TypeVar("M", bound=Mail)
T = TypeVar("T", bound=Model)


def message_id(name: str) -> str:
    """A `Message-ID` under the sender's domain. The same for every attempt, so that a mail program shows a mail once."""
    domain = parseaddr(settings.DEFAULT_FROM_EMAIL)[1].rpartition("@")[2] or "localhost"
    return f"<{name}@{domain}>"


def compose(*, name: str, to: Sequence[str], subject: str, text: str, html: str = "") -> EmailMultiAlternatives:
    """A mail from the server, of itself. `name`: what is the same for every attempt at it, and for no other mail."""
    mail = EmailMultiAlternatives(
        subject=" ".join(subject.split()),
        body=text,
        to=list(to),
        # RFC 3834, so that no holiday notice answers.
        headers={"Message-ID": message_id(name), "Auto-Submitted": "auto-generated"},
    )
    if html:
        mail.attach_alternative(html, "text/html")
    return mail


def send(mail: EmailMessage) -> None:
    """Hand it to the mail server. Raises `NotDelivered`."""
    try:
        get_connection(fail_silently=False, timeout=SMTP_SECONDS).send_messages([mail])
    except (OSError, smtplib.SMTPException) as error:
        raise NotDelivered(f"The mail server did not take it: {error}") from error


def attempt(row: T, composed: Callable[[T], EmailMessage]) -> NotDelivered | None:
    """Send what `composed` makes of a row; it may raise `NotDelivered`, too. What went wrong, if something did."""
    try:
        send(composed(row))
    except NotDelivered as error:
        return error
    return None


def send_due(mails: "QuerySet[M]", composed: Callable[[M], EmailMessage]) -> None:
    """Attempt each of `mails` that is due. `composed` makes the mail, or raises `NotDelivered`."""
    while claimed := claim(mails, now=timezone.now(), most=1):
        record(claimed[0], attempt(claimed[0], composed))
