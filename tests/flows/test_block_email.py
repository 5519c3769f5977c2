"""The email block against an SMTP server on localhost, through Django's own mail backend."""

import email
import email.policy
import socket
import threading
from collections.abc import Iterator
from email.message import EmailMessage
from typing import Any

import pytest
from pydantic import ValidationError

from flows.blocks.base import BlockError, Effects
from flows.blocks.email import Email
from tests.flows.fakes import FakeContext, run_block

pytestmark = pytest.mark.once


class SmtpServer:
    """Speaks enough of RFC 5321; `replies` says what a verb is answered other than 250. None hangs up."""

    def __init__(self, replies: dict[str, str | None]) -> None:
        self.replies = {"GREETING": "220 ready", "DATA": "354 go on", "QUIT": "221 bye", **replies}
        self.mails: list[EmailMessage] = []
        self.recipients: list[str] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection, connection.makefile("rwb") as lines:
                self._talk(lines)

    def _talk(self, lines: Any) -> None:
        verb: str = "GREETING"
        while (reply := self.replies.get(verb, "250 ok")) is not None:
            lines.write(f"{reply}\r\n".encode())
            lines.flush()
            if reply.startswith("354"):
                text = b"".join(iter(lines.readline, b".\r\n"))
                verb = "MESSAGE"
                if self.replies.get(verb, "250 ok") == "250 ok":
                    self.mails.append(email.message_from_bytes(text, policy=email.policy.default))
                continue
            command = lines.readline().decode().strip()
            if not command or verb == "QUIT":
                return
            verb = command.split(" ")[0].upper()
            if verb == "RCPT":
                self.recipients.append(command.partition("<")[2].partition(">")[0])

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def smtp(settings: Any, request: pytest.FixtureRequest) -> Iterator[SmtpServer]:
    server = SmtpServer(getattr(request, "param", {}))
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", server.port
    settings.DEFAULT_FROM_EMAIL = "Blox <blox@shop.example>"
    yield server
    server.close()


MAIL = {"to": "ann@shop.example", "subject": "Hello", "text": "Grüße"}


def test_a_mail_is_sent_and_its_message_id_given(smtp: SmtpServer) -> None:
    result = run_block(Email(), MAIL)
    [sent] = smtp.mails
    assert (sent["From"], sent["To"], sent["Subject"]) == ("Blox <blox@shop.example>", "ann@shop.example", "Hello")
    assert sent.get_content().strip() == "Grüße"
    assert result == {"messageId": sent["Message-ID"]}
    assert sent["Message-ID"].endswith("@shop.example>")


def test_every_attempt_of_a_step_has_the_same_message_id_and_another_step_another(smtp: SmtpServer) -> None:
    other = FakeContext()
    other.idempotency_key = "execution-1:step-2"
    first, second = run_block(Email(), MAIL), run_block(Email(), MAIL)
    assert first == second != run_block(Email(), MAIL, None, other)


def test_a_mail_goes_to_every_address_of_the_list(smtp: SmtpServer) -> None:
    run_block(Email(), {**MAIL, "to": ["Ann Ärger <ann@shop.example>", "bob@shop.example, eve@shop.example"]})
    assert smtp.recipients == ["ann@shop.example", "bob@shop.example", "eve@shop.example"]
    assert smtp.mails[0]["To"] == "Ann Ärger <ann@shop.example>, bob@shop.example, eve@shop.example"


def test_text_and_html_are_alternatives(smtp: SmtpServer) -> None:
    run_block(Email(), {**MAIL, "html": "<b>Grüße</b>"})
    [sent] = smtp.mails
    assert sent.get_content_type() == "multipart/alternative"
    assert [part.get_content_type() for part in sent.iter_parts()] == ["text/plain", "text/html"]


def test_html_alone_is_the_body(smtp: SmtpServer) -> None:
    run_block(Email(), {"to": "ann@shop.example", "subject": "", "html": "<b>x</b>"})
    assert smtp.mails[0].get_content_type() == "text/html"


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"subject": "Hi\r\nBcc: eve@evil.example"}, "subject must be one line"),
        ({"subject": "Hi\nthere"}, "subject must be one line"),
        ({"to": "ann@shop.example\r\nBcc: eve@evil.example"}, "line breaks"),
        ({"to": ["ann@shop.example\n"]}, "line breaks"),
        ({"to": "nobody"}, "not an e-mail address"),
        ({"to": "ann@shop.example, nobody"}, "not an e-mail address"),
        ({"to": ""}, "not an e-mail address|0 addresses"),
        ({"to": ", ".join(f"a{n}@shop.example" for n in range(51))}, "51 addresses; 1 to 50"),
    ],
)
def test_what_would_forge_a_header_or_reach_nobody_is_refused(
    smtp: SmtpServer, config: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(BlockError, match=complaint) as caught:
        run_block(Email(), {**MAIL, **config})
    assert (caught.value.code, caught.value.retryable) == ("invalid_email", False)
    assert smtp.mails == []


@pytest.mark.parametrize(
    "config",
    [
        {"to": "a@b.example", "subject": "x"},
        {"to": "a@b.example", "subject": "x", "text": None},
        {"to": [], "subject": "x", "text": "y"},
        {"to": "a@b.example", "text": "y"},
        {"to": "a@b.example", "subject": "x", "text": "y" * (1024 * 1024 + 1)},
        {"to": "a@b.example", "subject": "x", "text": "y", "from": "me@b.example"},
    ],
)
def test_a_config_that_does_not_hold_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        run_block(Email(), config)


@pytest.mark.parametrize(
    ("smtp", "code", "retryable", "repeat_is_safe"),
    [
        ({"GREETING": "421 busy"}, "email_not_sent", True, True),
        ({"GREETING": None}, "email_not_sent", True, True),
        ({"RCPT": "550 no such user"}, "email_refused", False, False),
        ({"RCPT": "451 try later"}, "email_refused", True, True),
        ({"MAIL": "550 not you"}, "email_refused", False, False),
        ({"DATA": "451 try later"}, "email_refused", True, True),
        ({"MESSAGE": "554 spam"}, "email_refused", False, False),
        ({"MESSAGE": None}, "email_failed", True, False),
    ],
    indirect=["smtp"],
)
def test_a_failure_tells_what_surely_was_not_sent(
    smtp: SmtpServer, code: str, retryable: bool, repeat_is_safe: bool
) -> None:
    with pytest.raises(BlockError) as caught:
        run_block(Email(), MAIL)
    assert (caught.value.code, caught.value.retryable, caught.value.repeat_is_safe) == (code, retryable, repeat_is_safe)
    assert smtp.mails == []


def test_a_mail_server_that_is_away_was_surely_not_reached(smtp: SmtpServer, settings: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        settings.EMAIL_PORT = unused.getsockname()[1]
    with pytest.raises(BlockError, match="can't be reached") as caught:
        run_block(Email(), MAIL)
    assert caught.value.repeat_is_safe is True


def test_a_mail_is_an_effect_that_must_not_be_repeated() -> None:
    assert Email().effects({}) is Effects.ONCE
