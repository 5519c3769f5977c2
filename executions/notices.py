"""Working off failure notices: mails, signed POSTs, and other flows that are started.

Mail and POST are at least once, as an outbox has it: every attempt carries the same `Message-ID` or `webhook-id`. The
other flow is started exactly once: in the transaction that marks the notice done.
"""

import asyncio
import logging
import time
from binascii import Error as Base64Error
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus
from typing import Any

from django.conf import settings
from django.core.mail import EmailMessage
from django.db import InterfaceError, OperationalError, transaction
from django.utils import timezone
from standardwebhooks import Webhook
from standardwebhooks.webhooks import EmptyWebhookSecretError

from bloxserver.core import json_text, outbox
from bloxserver.core.errors import DomainError
from bloxserver.core.mail import compose, send
from bloxserver.core.outbox import NotDelivered
from bloxserver.core.safe_http import BlockedAddress, GuardedClient, InvalidRequest, SafeHttpError
from executions.errors import CallTooDeep
from executions.failures import see_to_failures
from executions.models import Execution, ExecutionStatus, FailureNotice, NoticeKind, StepStatus
from executions.services import accept_execution
from flows.blocks.base import BlockError
from flows.organism.on_failure import recipients
from flows.services import flow_by_reference, optional_secret

logger = logging.getLogger(__name__)

SIGNING_SECRET = "ON_FAILURE_SIGNING_SECRET"  # the stored secret, of the flow or else its owner, that signs the POST
SECONDS = 30.0  # of one task
TOGETHER = 20
POST_SECONDS = 15.0

Sending = Callable[[GuardedClient], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Outcome:
    notice: FailureNotice
    error: NotDelivered | None  # None: delivered


def work_off_failures() -> None:
    """See to every failure on record, and send what is due: all that the bell and the sweeper ask for."""
    see_to_failures()
    send_due_notices()


def send_due_notices(*, seconds: float = SECONDS) -> None:
    """Attempt what is due until nothing is, or for `seconds`; the sweeper rings for what is left."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        claimed = claim(now=timezone.now())
        if not claimed:
            return
        for outcome in deliver([notice for notice in claimed if notice.kind != NoticeKind.FLOW]):
            outbox.record(outcome.notice, outcome.error)
        for notice in claimed:
            if notice.kind == NoticeKind.FLOW:
                start_flow(notice)


def claim(*, now: datetime) -> list[FailureNotice]:
    """Those of which the caller is to make an attempt, each with what is told of its execution."""
    taken = [row.pk for row in outbox.claim(FailureNotice.objects.all(), now=now, most=TOGETHER)]
    notices = FailureNotice.objects.filter(pk__in=taken).select_related(
        "execution__flow", "execution__user", "execution__version"
    )
    bodies = [f"execution__{of}__{body}" for of in ("flow", "version") for body in ("organism_yaml", "canvas_state")]
    return list(notices.defer(*bodies))


def deliver(notices: list[FailureNotice]) -> list[Outcome]:
    """Make the attempts, all at once; what the database knows is read before. One's fault is not the others'."""
    sendings: list[tuple[FailureNotice, Sending]] = []
    outcomes: list[Outcome] = []
    for notice in notices:
        try:
            sendings.append((notice, _prepare(notice)))
        except Exception as error:
            outcomes.append(Outcome(notice, _reason(notice, error)))
    if sendings:
        outcomes += asyncio.run(_send_all(sendings))
    return outcomes


def start_flow(notice: FailureNotice) -> None:
    """Start the other flow and mark the notice done, both or neither."""
    failed = notice.execution
    try:
        with transaction.atomic():
            row = FailureNotice.objects.filter(pk=notice.pk, done_at=None, attempts=notice.attempts)
            if row.select_for_update(of=("self",)).first() is None:
                return
            child = accept_execution(
                flow=flow_by_reference(user=failed.user, reference=notice.target),
                trigger_type=failed.trigger_type,
                trigger_name=f"failure of {failed.flow.name}"[:100],
                payload=json_text.dumps(report(failed)),
                parent=failed,
                now=timezone.now(),
            )
            row.update(done_at=timezone.now(), due_at=None, error="", started=child.pk)
    except Exception as error:
        outbox.record(notice, _reason(notice, error))


def report(execution: Execution) -> dict[str, Any]:
    """What the other flow and the receiver of the POST are told."""
    flow = execution.flow
    return {
        "type": "execution.failed",
        "flow": {"id": str(flow.pk), "name": flow.name},
        "execution": {"id": str(execution.pk), "version": execution.version.number},
        "status": execution.status,
        "errorCode": execution.error_code,
        "errorMessage": execution.error_message,
        "listener": _failed_listener(execution),
        "triggerType": execution.trigger_type,
        "triggerName": execution.trigger_name,
        "startedAt": _iso(execution.started_at),
        "completedAt": _iso(execution.completed_at),
        "durationMs": execution.duration_ms,
    }


def _failed_listener(execution: Execution) -> str | None:
    """The listener whose step ended the execution: the one that failed with the same code, and that nothing handled."""
    steps = execution.steps.filter(status=StepStatus.ERROR, error_code=execution.error_code)
    unhandled = [step for step in steps.only("listener", "status", "sent_to")[:50] if not step.is_handled_error]
    return unhandled[-1].listener if unhandled else None


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _prepare(notice: FailureNotice) -> Sending:
    """Raises `NotDelivered`."""
    if notice.kind == NoticeKind.URL:
        return _post(notice)
    return _mail(notice)


async def _send_all(sendings: list[tuple[FailureNotice, Sending]]) -> list[Outcome]:
    client = GuardedClient()
    try:
        return await asyncio.gather(*(_attempt(notice, send, client) for notice, send in sendings))
    finally:
        await client.aclose()


async def _attempt(notice: FailureNotice, send: Sending, client: GuardedClient) -> Outcome:
    try:
        await send(client)
    except Exception as error:
        return Outcome(notice, _reason(notice, error))
    return Outcome(notice, None)


def _reason(notice: FailureNotice, error: Exception) -> NotDelivered:
    """What to put on record. Raises what says that the database is away: no attempt was made then."""
    if isinstance(error, OperationalError | InterfaceError):
        raise error
    if isinstance(error, NotDelivered):
        return error
    if isinstance(error, DomainError):
        return NotDelivered(error.message, final=isinstance(error, CallTooDeep))
    logger.error("notice=%s cannot be sent", notice.pk, exc_info=error)  # a mail backend of another package, say
    return NotDelivered(f"It cannot be sent: {error!r}")


# The POST. -----------------------------------------------------------------------------------------------------------
def _post(notice: FailureNotice) -> Sending:
    body = json_text.dumps(report(notice.execution))
    headers = _headers(notice, body, now=timezone.now())
    return partial(_send_post, url=notice.target, headers=headers, body=body)


def _headers(notice: FailureNotice, body: str, *, now: datetime) -> dict[str, str]:
    """Those of https://www.standardwebhooks.com; without the signature where no secret is stored."""
    execution = notice.execution
    headers = {
        "Content-Type": "application/json",
        "Idempotency-Key": str(notice.pk),
        "webhook-id": str(notice.pk),
        "webhook-timestamp": str(int(now.timestamp())),
    }
    try:
        secret = optional_secret(flow_id=execution.flow_id, user_id=execution.user_id, name=SIGNING_SECRET)
        if secret is not None:
            headers["webhook-signature"] = _signer(secret).sign(str(notice.pk), now, body)
    except BlockError as error:  # never unsigned, where a signature is wanted
        raise NotDelivered(str(error)) from error
    except (Base64Error, EmptyWebhookSecretError, ValueError) as error:
        raise NotDelivered(f"The secret {SIGNING_SECRET} must be base64 after whsec_, or any other text.") from error
    return headers


def _signer(secret: str) -> Webhook:
    """`whsec_` and base64, as Standard Webhooks has it; any other text is the key as it stands."""
    return Webhook(secret if secret.startswith("whsec_") else secret.encode())


async def _send_post(client: GuardedClient, *, url: str, headers: dict[str, str], body: str) -> None:
    try:
        answer = await client.request(
            "POST",
            url,
            headers=headers,
            content=body,
            timeout=POST_SECONDS,
            follow_redirects=False,
            max_bytes=64 * 1024,
        )
    except (InvalidRequest, BlockedAddress) as error:
        raise NotDelivered(str(error), final=True) from error
    except SafeHttpError as error:
        raise NotDelivered(str(error)) from error
    if not 200 <= answer.status < 300:
        # Standard Webhooks: 410 means "send no more".
        raise NotDelivered(f"The receiver answered {answer.status}.", final=answer.status == HTTPStatus.GONE)


# The mails. ----------------------------------------------------------------------------------------------------------
def _mail(notice: FailureNotice) -> Sending:
    subject, body = _paused_text(notice) if notice.kind == NoticeKind.PAUSED else _failed_text(notice)
    try:
        to = recipients(notice.target)
    except ValueError as error:
        raise NotDelivered(str(error), final=True) from error
    message = compose(name=notice.pk.hex, to=to, subject=subject, text=body)
    return partial(_send_mail, message)


async def _send_mail(message: EmailMessage, client: GuardedClient) -> None:
    await asyncio.to_thread(send, message)  # Django's mail is synchronous


def _failed_text(notice: FailureNotice) -> tuple[str, str]:
    execution = notice.execution
    listener = _failed_listener(execution)
    what = "timed out" if execution.status == ExecutionStatus.TIMEOUT else "failed"
    lines = [
        f'An execution of your flow "{execution.flow.name}" {what}.',
        "",
        f"Error: {execution.error_message}",
        *([f"Listener: {listener}"] if listener else []),
        *_where(execution),
        "",
        "This mail is sent because the flow's organism.on_failure names your address.",
    ]
    return f'The flow "{execution.flow.name}" {what}', "\n".join(lines)


def _paused_text(notice: FailureNotice) -> tuple[str, str]:
    execution = notice.execution
    flow = execution.flow
    lines = [
        f'Your flow "{flow.name}" was paused: its last 10 executions failed, one after the other.',
        "Webhooks are refused and schedules are not fired until you start it again.",
        "",
        f"The last error: {execution.error_message}",
        *_where(execution),
        "",
        "What to do: mend the cause, then start the flow again. Counting begins anew then.",
        f"All failures: {settings.BLOX_PUBLIC_URL}/api/v1/flows/{flow.pk}/executions?status=error",
    ]
    return f'The flow "{flow.name}" was paused after 10 failures in a row', "\n".join(lines)


def _where(execution: Execution) -> list[str]:
    trigger = f"{execution.trigger_type} {execution.trigger_name}".strip()
    return [
        f"Accepted: {_iso(execution.started_at)} ({trigger})",
        f"Execution: {settings.BLOX_PUBLIC_URL}/api/v1/flows/{execution.flow_id}/executions/{execution.pk}",
    ]
