"""`blox.email`: send a mail."""

import asyncio
import hashlib
import smtplib
from collections.abc import Mapping
from email.utils import formataddr, getaddresses
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field, model_validator

from flows.blocks.base import JSON, Block, BlockConfig, BlockError, Context, Effects

if TYPE_CHECKING:
    from django.core.mail import EmailMultiAlternatives

MAX_RECIPIENTS = 50
MAX_TEXT = 1024 * 1024  # characters
SMTP_TIMEOUT = 20  # seconds without an answer


class EmailConfig(BlockConfig):
    to: str | Annotated[list[str], Field(min_length=1, max_length=MAX_RECIPIENTS)] = Field(
        description=f"One address, several with commas between them, or a list; {MAX_RECIPIENTS} at most."
    )
    subject: str = Field(max_length=500, description="One line.")
    text: str | None = Field(None, max_length=MAX_TEXT, description="The plain text.")
    html: str | None = Field(
        None, max_length=MAX_TEXT, description="The HTML; give text too for those who don't show it."
    )

    @model_validator(mode="before")
    @classmethod
    def _a_body(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("text") is None and data.get("html") is None:
            raise ValueError("give text, html or both")
        return data


class Email(Block):
    name = "blox.email"
    title = "E-mail"
    description = (
        "Sends a mail from the server's address and gives {messageId}. Not repeated when its outcome is unknown."
    )
    category = "network"
    Config = EmailConfig
    example: ClassVar[str] = """\
- name: tell_ops
  handler: blox.email
  config:
    to: [ops@shop.example]
    subject: "Order {{ payload.id }} failed"
    text: "{{ payload.reason }}"
"""

    def effects(self, config: Mapping[str, Any]) -> Effects:
        return Effects.ONCE

    async def run(self, ctx: Context, config: EmailConfig, payload: JSON) -> JSON:
        message = _message(config, ctx.idempotency_key)
        await asyncio.to_thread(send, message)  # Django's mail is synchronous
        return {"messageId": message.extra_headers["Message-ID"]}


def _message(config: EmailConfig, idempotency_key: str) -> "EmailMultiAlternatives":
    # Imported here, as below: an organism is read without Django's settings, and mail is only sent where they are.
    from django.core.mail import EmailMultiAlternatives

    from bloxserver.core.mail import message_id

    if any(character in config.subject for character in "\r\n"):
        raise _invalid("subject must be one line")
    digest = hashlib.sha256(idempotency_key.encode()).hexdigest()[:32]
    message = EmailMultiAlternatives(
        subject=config.subject,
        body=config.text if config.text is not None else config.html,
        to=recipients(config.to),
        headers={"Message-ID": message_id(digest)},
    )
    if config.text is None:
        message.content_subtype = "html"
    elif config.html is not None:
        message.attach_alternative(config.html, "text/html")
    return message


def recipients(to: str | list[str]) -> list[str]:
    """The addresses, each with its name where it has one. Raises `BlockError` (`invalid_email`)."""
    from django.core.exceptions import ValidationError
    from django.core.validators import validate_email

    given = [to] if isinstance(to, str) else to
    if any(character in text for text in given for character in "\r\n\0"):
        raise _invalid("to must not hold line breaks")
    pairs = getaddresses(given)
    if not 1 <= len(pairs) <= MAX_RECIPIENTS:
        raise _invalid(f"to names {len(pairs)} addresses; 1 to {MAX_RECIPIENTS} are possible")
    for _, address in pairs:
        try:
            validate_email(address)
        except ValidationError:
            raise _invalid(f"{', '.join(given)[:200]!r} holds something that is not an e-mail address") from None
    return [formataddr(pair) for pair in pairs]


def _invalid(reason: str) -> BlockError:
    return BlockError(f"The mail can't be sent: {reason}.", code="invalid_email", retryable=False)


def send(message: "EmailMultiAlternatives") -> None:
    """Raises `BlockError` that tells what surely was not sent from what may have been."""
    from django.core.mail import get_connection

    connection = get_connection(fail_silently=False, timeout=SMTP_TIMEOUT)
    try:
        connection.open()
    except smtplib.SMTPAuthenticationError as error:
        message_text = f"The mail server refused the credentials in EMAIL_URL: {error}"
        raise BlockError(message_text, code="email_not_sent", retryable=False) from error
    except (OSError, smtplib.SMTPException) as error:
        raise BlockError(
            f"The mail server can't be reached: {error}", code="email_not_sent", repeat_is_safe=True
        ) from error
    try:
        connection.send_messages([message])
    except (smtplib.SMTPRecipientsRefused, smtplib.SMTPSenderRefused, smtplib.SMTPDataError) as error:
        temporary = all(400 <= code < 500 for code in _codes(error))
        raise BlockError(
            f"The mail server refused the mail: {error}",
            code="email_refused",
            retryable=temporary,
            repeat_is_safe=temporary,
        ) from error
    except (OSError, smtplib.SMTPException) as error:
        raise BlockError(f"The connection to the mail server broke off: {error}", code="email_failed") from error
    finally:
        connection.close()


def _codes(error: smtplib.SMTPException) -> list[int]:
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return [code for code, _ in error.recipients.values()]
    return [error.smtp_code] if isinstance(error, smtplib.SMTPResponseException) else []
