"""Webhooks: who may call, and a call that becomes one execution however often it is sent."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import IntegrityError, transaction

from bloxserver.core.errors import NotFound
from executions.services import accept_execution
from triggers.errors import IdempotencyKeyReused, InvalidIdempotencyKey
from triggers.models import Receipt, Trigger
from triggers.querysets import RECEIPTS_KEPT
from triggers.services.schedules import context
from triggers.services.triggers import token_hash

MAX_KEY = 255  # characters
RECEIPT_BATCH = 1000

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
class Delivery:
    """One call of a webhook, as it came in. `headers` have lower-case names; `payload` is JSON text."""

    method: str
    headers: Mapping[str, str]
    query: Mapping[str, Any]
    query_string: str
    payload: str
    stripe_event: str = ""  # the event's id, where Stripe sent it


@dataclass(frozen=True, slots=True)
class Acceptance:
    execution_id: UUID
    replayed: bool


def find_webhook(token: str) -> Trigger:
    """The enabled webhook of that token, with its flow and owner. Raises `NotFound`, whatever the reason.

    The token is looked up by its SHA-256, so the time that takes tells nothing about it.
    """
    found = Trigger.objects.with_flow().filter(token_hash=token_hash(token)).first()
    if found is None or not found.enabled or not found.flow.user.is_active:
        raise NotFound("Not found.")
    return found


def accept_webhook(*, trigger: Trigger, delivery: Delivery, now: datetime) -> Acceptance:
    """One execution for this delivery, or the one that an earlier delivery with the same key has made.

    The receipt and the execution are committed together. The receipt goes first: of any number of calls with one key
    at once, the unique constraint lets one through and has the others wait for its commit.
    Raises `IdempotencyKeyReused` (422), `InvalidIdempotencyKey` (400), and what acceptance raises (402, 409, 413).
    """
    key = _key(delivery)
    if not key:
        return Acceptance(_accept(trigger, delivery, now=now), replayed=False)
    fingerprint = _fingerprint(delivery)
    while True:
        if (receipt := _receipt(trigger, key, now=now)) is not None:
            return _replay(receipt, fingerprint)
        try:
            with transaction.atomic():
                row = Receipt.objects.create(trigger=trigger, key=key, fingerprint=fingerprint, created_at=now)
                row.execution_id = _accept(trigger, delivery, now=now)
                row.save(update_fields=["execution_id"])
            return Acceptance(row.execution_id, replayed=False)
        except IntegrityError:
            if _receipt(trigger, key, now=now) is None:
                raise  # not about the receipt


def expire_receipts(*, now: datetime) -> int:
    """Delete receipts that have outlived their 72 hours, up to a thousand of them; how many there were."""
    ids = list(Receipt.objects.expired(now).values_list("pk", flat=True)[:RECEIPT_BATCH])
    if ids:
        Receipt.objects.filter(pk__in=ids).delete()
    return len(ids)


def _accept(trigger: Trigger, delivery: Delivery, *, now: datetime) -> UUID:
    execution = accept_execution(
        flow=trigger.flow,
        trigger_type=trigger.type,
        trigger_id=trigger.pk,
        trigger_name=trigger.name,
        payload=delivery.payload,
        trigger=context(now=now, method=delivery.method, headers=dict(delivery.headers), query=dict(delivery.query)),
        now=now,
    )
    return execution.pk


def _receipt(trigger: Trigger, key: str, *, now: datetime) -> Receipt | None:
    receipt = Receipt.objects.filter(trigger=trigger, key=key).first()
    if receipt is not None and receipt.created_at < now - RECEIPTS_KEPT:
        receipt.delete()  # the clock has not come round to it yet
        return None
    return receipt


def _replay(receipt: Receipt, fingerprint: str) -> Acceptance:
    if receipt.fingerprint != fingerprint:
        raise IdempotencyKeyReused(
            "This idempotency key came before with another body. Send each new body under a key of its own.",
            details={"executionId": str(receipt.execution_id)},
        )
    assert receipt.execution_id is not None  # it is committed
    return Acceptance(receipt.execution_id, replayed=True)


def _key(delivery: Delivery) -> str:
    """The caller's key, else a provider's delivery id; empty where there is neither."""
    for header, prefix in DELIVERY_HEADERS.items():
        if value := delivery.headers.get(header, "").strip():
            if len(value) > MAX_KEY:
                raise InvalidIdempotencyKey(
                    f"The header {header} has {len(value)} characters; at most {MAX_KEY} are kept."
                )
            return prefix + value
    return f"stripe:{delivery.stripe_event}" if delivery.stripe_event else ""


def _fingerprint(delivery: Delivery) -> str:
    # Stripe sends an event again with another `pending_webhooks` count in its body: there, its id says it all.
    sent = delivery.stripe_event or f"{delivery.method} {delivery.query_string}\n{delivery.payload}"
    return hashlib.sha256(sent.encode()).hexdigest()
