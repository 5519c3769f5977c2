"""Webhooks: who may call, and a call that becomes one execution however often it is sent."""

import hashlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import IntegrityError, connection

from accounts.models import User
from bloxserver.core import bulk, json_text, pipeline
from bloxserver.core.errors import DomainError, NotFound
from executions.services import Firing, accept_all
from flows.errors import SecretUnavailable
from flows.models import Flow
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
    """The webhook of that token, with its flow and owner. Raises `NotFound`."""
    (found,) = find_webhooks([token])
    if found is None:
        raise NotFound("Not found.")
    return found


def find_webhooks(tokens: Sequence[str]) -> list[Trigger | None]:
    """For each token its webhook, with flow and owner.

    A token is looked up by its SHA-256, so the time that takes tells nothing about it.
    """
    hashes = [token_hash(token) for token in tokens]
    if connection.vendor == "postgresql":
        triggers = _find(list(set(hashes)))
    else:
        triggers = list(Trigger.objects.with_flow().filter(token_hash__in=set(hashes)))
    found = {trigger.token_hash: trigger for trigger in triggers}
    return [found.get(each) for each in hashes]


def _find(hashes: list[str]) -> list[Trigger]:
    """`Trigger.objects.with_flow()` of these hashes, without what Django takes to compose that: a third of a webhook's cost.

    What is not read here is loaded when somebody asks for it.
    """
    with connection.cursor() as cursor:
        cursor.execute(_FIND, [hashes])
        rows = cursor.fetchall()
    triggers = []
    for row in rows:
        trigger = Trigger.from_db("default", _TRIGGER, row[:6])
        trigger.config = json_text.loads(trigger.config)  # Django has psycopg leave it as text
        trigger.flow = Flow.from_db("default", _FLOW, row[6:10])
        trigger.flow.user = User.from_db("default", _USER, row[10:])
        triggers.append(trigger)
    return triggers


# In the order of their models, as `from_db` takes them.
_TRIGGER = ("id", "type", "name", "config", "enabled", "token_hash")
_FLOW = ("id", "user_id", "name", "status")
_USER = ("id", "tier", "is_active")
_FIND = """
SELECT call.id, call.type, call.name, call.config, call.enabled, call.token_hash,
    flow.id, flow.user_id, flow.name, flow.status, owner.id, owner.tier, owner.is_active
FROM triggers_trigger call JOIN flows_flow flow ON flow.id = call.flow_id JOIN accounts_user owner ON owner.id = flow.user_id
WHERE call.token_hash = ANY (%s) AND call.deleted_at IS NULL
"""


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


@dataclass(frozen=True, slots=True)
class Arrival:
    """A call on its way to being accepted. Raises `InvalidIdempotencyKey` (400)."""

    trigger: Trigger
    call: Call
    now: datetime
    key: str | None = field(init=False)
    fingerprint: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", key_of(self.call))
        object.__setattr__(self, "fingerprint", fingerprint_of(self.call) if self.key else "")

    @property
    def receipt_key(self) -> tuple[UUID, str] | None:
        return None if self.key is None else (self.trigger.pk, self.key)


def accept_webhook(arrival: Arrival) -> Acceptance:
    """One execution for this call, or the one that an earlier call with the same key has made.

    The execution and its row in the ledger are committed together. Of any number of calls with one key at once, the
    ledger's unique constraint lets one through; the others wait for its commit, and what they made is rolled back.
    Raises `IdempotencyKeyReused` (422) and what acceptance raises (402, 404, 409, 413).
    """
    while True:
        try:
            (outcome,) = _accept_together([arrival], wait=True)
        except IntegrityError as error:
            if _receipts([arrival]):
                continue
            # Looked for last: the receipt that was in the way may have gone with its trigger just now.
            if not Trigger.objects.filter(pk=arrival.trigger.pk).exists():
                raise NotFound("Not found.") from error
            raise
        if isinstance(outcome, Acceptance):
            return outcome
        assert outcome is not None  # it is alone
        # Whoever came first may have had this key, and the month's last run with it.
        if isinstance(outcome, IdempotencyKeyReused) or not _receipts([arrival]):
            raise outcome


def accept_webhooks(arrivals: Sequence[Arrival]) -> list[Acceptance | None]:
    """The same for many calls together. None is for a call that has to be looked at alone, by `accept_webhook`.

    That is a call that is refused, or that would wait for another's locks. Raises what the database raises when it is away.
    """
    try:
        outcomes = _accept_together(arrivals, wait=False)
    except Exception:
        if not connection.is_usable():
            raise
        return [None] * len(arrivals)  # one of them, or a call in another process, is in the way of the others
    return [outcome if isinstance(outcome, Acceptance) else None for outcome in outcomes]


def _accept_together(arrivals: Sequence[Arrival], *, wait: bool) -> list[Acceptance | DomainError | None]:
    """None is for a call whose key another of them has."""
    first: dict[Hashable, int] = {}  # positions, of each key the first
    for at, arrival in enumerate(arrivals):
        first.setdefault(arrival.receipt_key or at, at)
    outcomes: dict[int, Acceptance | DomainError] = {}
    with pipeline.transaction():
        receipts = _receipts(arrivals)
        for at, arrival in enumerate(arrivals):
            if receipt := receipts.get(arrival.receipt_key):
                outcomes[at] = _repeat(receipt, arrival.fingerprint)
        fresh = [at for at in first.values() if at not in outcomes]
        made = accept_all([_firing(arrivals[at]) for at in fresh], now=arrivals[0].now, wait=wait)
        deliveries = []
        for at, row in zip(fresh, made, strict=True):
            if isinstance(row, DomainError):
                outcomes[at] = row
            else:
                outcomes[at] = Acceptance(row["id"], replayed=False)
                deliveries.append(_delivery(arrivals[at], row["id"]))
        # In the order of their keys, so that two processes that have two keys in common never wait for each other.
        deliveries.sort(key=lambda row: (row["trigger_id"], row["key"] or ""))
        bulk.insert_rows(Delivery, deliveries)
    return [outcomes.get(at) for at in range(len(arrivals))]


def _firing(arrival: Arrival) -> Firing:
    call = arrival.call
    return webhook_firing(
        arrival.trigger,
        payload=call.payload,
        method=call.origin.method,
        headers=call.headers,
        query=call.query,
        now=arrival.now,
    )


def _delivery(arrival: Arrival, execution_id: UUID) -> bulk.Row:
    origin, key = arrival.call.origin, arrival.key
    return bulk.new(
        Delivery,
        trigger_id=arrival.trigger.pk,
        received_at=arrival.now,
        verdict=Verdict.ACCEPTED,
        address=origin.address,
        method=origin.method[:16],
        size=origin.size,
        key=key,
        fingerprint=arrival.fingerprint if key else "",
        held=key is not None,
        execution_id=execution_id,
    )


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


def webhook_firing(
    trigger: Trigger, *, payload: str, method: str, headers: Mapping[str, str], query: Mapping[str, Any], now: datetime
) -> Firing:
    """What a call of the trigger asks to be accepted."""
    return Firing(
        flow=trigger.flow,
        trigger_type=trigger.type,
        trigger_id=trigger.pk,
        trigger_name=trigger.name,
        payload=payload,
        trigger=context(now=now, method=method, headers=dict(headers), query=dict(query)),
    )


def _receipts(arrivals: Sequence[Arrival]) -> dict[Hashable, Delivery]:
    """The deliveries that have an execution under the arrivals' keys, unless that is over 72 hours ago."""
    keyed = [arrival for arrival in arrivals if arrival.key is not None]
    if not keyed:
        return {}
    oldest = keyed[0].now - DELIVERIES_HELD
    rows = Delivery.objects.receipts().without_request()
    found = list(
        rows.filter(trigger__in={each.trigger.pk for each in keyed}, key__in={each.key for each in keyed}).order_by()
    )
    if over := [row.pk for row in found if row.received_at < oldest]:  # the clock has not come round to them yet
        Delivery.objects.filter(pk__in=over).update(held=False, request="")
    return {(row.trigger_id, row.key): row for row in found if row.received_at >= oldest}


def _repeat(receipt: Delivery, fingerprint: str) -> Acceptance | IdempotencyKeyReused:
    if receipt.fingerprint != fingerprint:
        return IdempotencyKeyReused(
            "This idempotency key came before with another body. Send each new body under a key of its own.",
            details={"executionId": str(receipt.execution_id)},
        )
    assert receipt.execution_id is not None  # or it were no receipt
    return Acceptance(receipt.execution_id, replayed=True)


def fingerprint_of(call: Call) -> str:
    # Stripe sends an event again with another `pending_webhooks` count in its body: there, its id says it all.
    sent = call.stripe_event or f"{call.origin.method} {call.query_string}\n{call.payload}"
    return hashlib.sha256(sent.encode()).hexdigest()
