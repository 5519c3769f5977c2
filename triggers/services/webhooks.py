"""Webhooks: who may call, and a call that becomes one execution however often it is sent."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import IntegrityError

from bloxserver.core.errors import DomainError, NotFound
from executions.models import Execution
from executions.services import accept_execution
from flows.errors import SecretUnavailable
from flows.services import secret_value
from triggers import signatures
from triggers.config import SignatureConfig
from triggers.errors import BadSignature, IdempotencyKeyReused, InvalidIdempotencyKey, WebhookOff
from triggers.models import Delivery, Trigger, Verdict
from triggers.querysets import DELIVERIES_HELD
from triggers.services.schedules import context
from triggers.services.triggers import token_hash

MAX_KEY = 255  # characters

# Headers in which a provider numbers its deliveries, the same number when it sends one again.
DELIVERY_HEADERS = {
    "idempotency-key": "",
    "x-github-delivery": "github:",
    "webhook-id": "webhook:",  # Standard Webhooks
    "svix-id": "svix:",
    "x-shopify-webhook-id": "shopify:",
    "x-atlassian-webhook-identifier": "atlassian:",
}


@dataclass(frozen=True, slots=True)
class Origin:
    """What is known of a call before it has been read."""

    method: str
    size: int  # bytes
    address: str | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a webhook, read. `headers` have lower-case names; `payload` is JSON text."""

    origin: Origin
    headers: Mapping[str, str] = field(repr=False)
    query: Mapping[str, Any]
    query_string: str
    payload: str = field(repr=False)
    stripe_event: str = ""  # the event's id, where Stripe sent it


@dataclass(frozen=True, slots=True)
class Acceptance:
    execution_id: UUID
    replayed: bool


def find_webhook(token: str) -> Trigger:
    """The webhook of that token, with its flow and owner. Raises `NotFound`.

    The token is looked up by its SHA-256, so the time that takes tells nothing about it.
    """
    found = Trigger.objects.with_flow().filter(token_hash=token_hash(token)).first()
    if found is None:
        raise NotFound("Not found.")
    return found


def require_enabled(trigger: Trigger) -> None:
    """Raises `WebhookOff`, which looks to the caller as if its token were unknown."""
    if not trigger.enabled:
        raise WebhookOff("The trigger is disabled.")
    if not trigger.flow.user.is_active:
        raise WebhookOff("The account that it belongs to is closed.")


def verify_signature(
    trigger: Trigger, config: SignatureConfig, *, headers: Mapping[str, str], body: bytes, now: datetime
) -> None:
    """Raises `BadSignature` (401); also where the secret is missing, which only the owner is told."""
    try:
        stored = secret_value(flow_id=trigger.flow_id, user_id=trigger.flow.user_id, name=config.secret)
    except SecretUnavailable as error:
        raise BadSignature("The signature cannot be checked.", reason=str(error)) from error
    secrets = [line.strip() for line in stored.splitlines() if line.strip()]
    signatures.verify(config.scheme, secrets=secrets, headers=headers, body=body, now=now)


def accept_webhook(*, trigger: Trigger, call: Call, now: datetime) -> Acceptance:
    """One execution for this call, or the one that an earlier call with the same key has made.

    The execution and its row in the ledger are committed together. Of any number of calls with one key at once, the
    ledger's unique constraint lets one through; the others wait for its commit, and what they made is rolled back.
    Raises `IdempotencyKeyReused` (422), `InvalidIdempotencyKey` (400), and what acceptance raises (402, 409, 413).
    """
    key, fingerprint = key_of(call), fingerprint_of(call)
    while True:
        if key is not None and (receipt := receipt_of(trigger, key, now=now)) is not None:
            return _repeat(receipt, fingerprint)
        try:
            return Acceptance(_accept(trigger, call, key, fingerprint, now=now).pk, replayed=False)
        except (IntegrityError, DomainError) as error:
            # Whoever came first may have had this key, and the month's last run with it.
            if key is not None and receipt_of(trigger, key, now=now) is not None:
                continue
            if isinstance(error, IntegrityError) and not Trigger.objects.filter(pk=trigger.pk).exists():
                raise NotFound("Not found.") from error  # it has been deleted meanwhile
            raise


def key_of(call: Call) -> str | None:
    """The caller's key, else a provider's delivery id. Raises `InvalidIdempotencyKey` (400)."""
    for header, prefix in DELIVERY_HEADERS.items():
        if value := call.headers.get(header, "").strip():
            if len(value) > MAX_KEY:
                raise InvalidIdempotencyKey(
                    f"The header {header} has {len(value)} characters; at most {MAX_KEY} are kept."
                )
            return prefix + value
    return f"stripe:{call.stripe_event}" if call.stripe_event else None


def fire_webhook(
    trigger: Trigger,
    *,
    payload: str,
    method: str,
    headers: Mapping[str, str],
    query: Mapping[str, Any],
    now: datetime,
    record: Callable[[Execution], None],
) -> Execution:
    """The execution of a call, with what `record` writes. Raises what acceptance raises."""
    return accept_execution(
        flow=trigger.flow,
        trigger_type=trigger.type,
        trigger_id=trigger.pk,
        trigger_name=trigger.name,
        payload=payload,
        trigger=context(now=now, method=method, headers=dict(headers), query=dict(query)),
        now=now,
        record=record,
    )


def _accept(trigger: Trigger, call: Call, key: str | None, fingerprint: str, *, now: datetime) -> Execution:
    """The flow's row is locked before the ledger is written, the order in which a trigger is deleted too."""

    def record(execution: Execution) -> None:
        Delivery(
            trigger=trigger,
            received_at=now,
            verdict=Verdict.ACCEPTED,
            address=call.origin.address,
            method=call.origin.method[:16],
            size=call.origin.size,
            key=key,
            fingerprint=fingerprint if key else "",
            held=key is not None,
            execution_id=execution.pk,
        ).save(force_insert=True)

    return fire_webhook(
        trigger,
        payload=call.payload,
        method=call.origin.method,
        headers=call.headers,
        query=call.query,
        now=now,
        record=record,
    )


def receipt_of(trigger: Trigger, key: str, *, now: datetime) -> Delivery | None:
    """The delivery that has an execution under that key, unless that is over 72 hours ago."""
    receipt = Delivery.objects.receipts().without_request().filter(trigger=trigger, key=key).first()
    if receipt is not None and receipt.received_at < now - DELIVERIES_HELD:
        Delivery.objects.filter(pk=receipt.pk).update(held=False, request="")  # the clock has not come round to it yet
        return None
    return receipt


def _repeat(receipt: Delivery, fingerprint: str) -> Acceptance:
    if receipt.fingerprint != fingerprint:
        raise IdempotencyKeyReused(
            "This idempotency key came before with another body. Send each new body under a key of its own.",
            details={"executionId": str(receipt.execution_id)},
        )
    assert receipt.execution_id is not None  # or it were no receipt
    return Acceptance(receipt.execution_id, replayed=True)


def fingerprint_of(call: Call) -> str:
    # Stripe sends an event again with another `pending_webhooks` count in its body: there, its id says it all.
    sent = call.stripe_event or f"{call.origin.method} {call.query_string}\n{call.payload}"
    return hashlib.sha256(sent.encode()).hexdigest()
