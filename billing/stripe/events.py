"""Stripe's events: verified, stored, and then handled, in whatever order and however often they come.

Stored first, under Stripe's id, so that a repeat finds itself; answered; and handled by the clock, beside its ticks, after
the commit. What fails is taken up again after waits that grow.
"""

import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import transaction

from billing.dispatch import ring_for_stripe
from billing.errors import BillingNotConfigured, InvalidSignature
from billing.models import EventFlag, StripeCustomer, StripeEvent
from billing.models.stripe import ENDED
from billing.stripe import dunning
from billing.stripe.client import CustomerMissing, Outcome, is_away, said
from billing.stripe.reading import CustomerRead, id_of
from billing.stripe.sync import sync
from bloxserver.core import json_text
from bloxserver.core.errors import InvalidInput

logger = logging.getLogger(__name__)

Teller = Callable[[StripeCustomer, Mapping[str, Any], datetime], None]

# All bring the customer to what Stripe says; some tell of something besides.
HANDLED: dict[str, Teller | None] = {
    "checkout.session.completed": None,
    "customer.subscription.created": None,
    "customer.subscription.updated": None,
    "customer.subscription.deleted": None,
    "customer.subscription.trial_will_end": dunning.tell_of_trial_end,
    "customer.updated": None,
    "invoice.paid": dunning.tell_of_payment,
    "invoice.payment_failed": dunning.tell_of_failure,
    "invoice.upcoming": None,
}

TOLERANCE = 300  # seconds, before and after
WAITS = (60, 300, 1_800, 7_200, 21_600, 43_200, 86_400)  # seconds after each attempt; longer than an attempt takes
MAX_ATTEMPTS = len(WAITS) + 1
LONGEST_WAIT_AWAY = timedelta(hours=1)
ERROR_CHARACTERS = 2_000
BROKE_OFF = "The last attempt broke off with its process."
EVENT_ID = re.compile(r"evt_[A-Za-z0-9_]{1,250}")
EVENT_TYPE = re.compile(r"[a-z0-9_.]{1,100}")
CUSTOMER_ID = re.compile(r"[A-Za-z0-9_]{1,255}")


def receive(*, body: bytes, signature: str, now: datetime) -> bool:
    """Store the event in `body` and have it handled; False when it was here before.

    Raises `InvalidSignature` for a wrong or old one, or one of the future, and `InvalidInput` for what is no event:
    nothing is stored then. The primary key keeps a repeat, also of the same moment, from being stored twice.
    """
    _verify(body, signature, now)
    event = _event(body, now)
    with transaction.atomic():
        if StripeEvent.objects.filter(pk=event.pk).exists():
            _take_up_again(event.pk, now)
            return False
        StripeEvent.objects.bulk_create([event], ignore_conflicts=True)
        ring_for_stripe()
    return True


def _take_up_again(event_id: str, now: datetime) -> None:
    """One that was given up, and that Stripe, or an operator in its dashboard, sends once more."""
    given_up = StripeEvent.objects.filter(pk=event_id, handled_at=None, due_at=None)
    if given_up.update(due_at=now, attempts=0):
        ring_for_stripe()


def _verify(body: bytes, signature: str, now: datetime) -> None:
    """By Stripe's own scheme. Its check takes a moment in the future, with which a body could be kept for later."""
    if not settings.STRIPE_WEBHOOK_SECRET:
        raise BillingNotConfigured("STRIPE_WEBHOOK_SECRET is not set: no event can be verified.")
    from stripe import SignatureVerificationError, WebhookSignature

    try:
        WebhookSignature.verify_header(body, signature, settings.STRIPE_WEBHOOK_SECRET, TOLERANCE)
        signed_at = max(int(value) for name, value in _parts(signature) if name == "t")
    except (SignatureVerificationError, ValueError, TypeError) as error:
        raise InvalidSignature("The signature is missing, wrong or older than five minutes.") from error
    if signed_at > now.timestamp() + TOLERANCE:
        raise InvalidSignature("The signature is of a moment in the future.")


def _parts(signature: str) -> Iterator[tuple[str, str]]:
    for part in signature.split(","):
        name, _, value = part.partition("=")
        yield name, value


def _event(body: bytes, now: datetime) -> StripeEvent:
    try:
        event = json.loads(body)
        created = datetime.fromtimestamp(event["created"], UTC)
        known = EVENT_ID.fullmatch(event["id"]) and EVENT_TYPE.fullmatch(event["type"])
        if not known or not isinstance(event["data"]["object"], dict):
            raise ValueError
    except (ValueError, TypeError, KeyError, OverflowError, OSError, RecursionError) as error:
        raise InvalidInput("The body is not an event of Stripe's.") from error
    return StripeEvent(
        id=event["id"],
        type=event["type"],
        customer=_customer_of(event["data"]["object"]),
        created=created,
        payload=body.decode(),
        received_at=now,
        due_at=now,
    )


def _customer_of(subject: Mapping[str, Any]) -> str:
    """Stripe's id of the customer whom an event's object is, or belongs to; empty for none."""
    found = subject.get("id") if subject.get("object") == "customer" else id_of(subject.get("customer"))
    return found if isinstance(found, str) and CUSTOMER_ID.fullmatch(found) else ""


# Handling. ---------------------------------------------------------------------------------------------------------
def handle(*, now: datetime, event_id: str | None = None) -> Outcome:
    """Handle the event, if it is due, or the one that has been due for longest."""
    event = _claim(now, event_id)
    if event is None:
        return Outcome.NOTHING_DUE
    try:
        flag = _handle(event, now)
    except Exception as error:  # whatever it is: the operator reads it on the event, and it is tried again
        away = is_away(error)
        _fail(event, error, now, away=away)
        return Outcome.AWAY if away else Outcome.FAILED
    StripeEvent.objects.filter(pk=event.pk).update(handled_at=now, due_at=None, flag=flag, error="")
    return Outcome.DONE


def _claim(now: datetime, event_id: str | None) -> StripeEvent | None:
    """Count an attempt and put the event off: the row lock lets one of two claimers have it, and whoever dies now leaves
    it due again later. What has had its attempts is given up."""
    with transaction.atomic():
        due = StripeEvent.objects.due(now).select_for_update(skip_locked=True, of=("self",)).order_by("due_at")
        for tired in due.filter(attempts__gte=MAX_ATTEMPTS)[:100]:
            StripeEvent.objects.filter(pk=tired.pk).update(due_at=None, error=tired.error or BROKE_OFF)
        event = (due.filter(pk=event_id) if event_id else due).filter(attempts__lt=MAX_ATTEMPTS).first()
        if event is not None:
            event.attempts += 1
            event.due_at = now + timedelta(seconds=WAITS[min(event.attempts, len(WAITS)) - 1])
            event.save(update_fields=["attempts", "due_at"])
    return event


def _handle(event: StripeEvent, now: datetime) -> str:
    """The flag that it gets. Safe to repeat, and to do after, before or beside any other event of the customer."""
    if event.type not in HANDLED:
        return EventFlag.IGNORED
    subject = json.loads(event.payload)["data"]["object"]
    customer = StripeCustomer.objects.select_related("user").filter(stripe_id=event.customer).first()
    if customer is None:
        return EventFlag.UNKNOWN_CUSTOMER
    if customer.user.deleted_at is not None:
        # It may be of a page that was open still: what was bought on it is ended too.
        StripeCustomer.objects.filter(pk=customer.pk, close_due_at=None).update(close_due_at=now)
        return EventFlag.DELETED_USER
    read = sync(customer, now=now)
    if read.missing:
        raise CustomerMissing("Stripe does not know the customer: is STRIPE_API_KEY of another account?")
    _warn_of_two(read, customer)
    teller = HANDLED[event.type]
    if teller is not None:
        teller(customer, subject, now)
    return ""


def _warn_of_two(read: CustomerRead, customer: StripeCustomer) -> None:
    """The checkout lets nobody subscribe twice: somebody has made one at Stripe by hand."""
    live = [subscription.stripe_id for subscription in read.subscriptions if subscription.status not in ENDED]
    if len(live) > 1:
        logger.warning("stripe customer=%s pays for several subscriptions: %s", customer.stripe_id, ", ".join(live))


def _fail(event: StripeEvent, error: Exception, now: datetime, *, away: bool) -> None:
    """An attempt that is not the latest says nothing. While Stripe is away none is given up."""
    message = json_text.clean(said(error))[:ERROR_CHARACTERS]
    changes: dict[str, Any] = {"error": message}
    if away:
        changes["attempts"] = min(event.attempts, MAX_ATTEMPTS - 1)
        changes["due_at"] = min(event.due_at or now, now + LONGEST_WAIT_AWAY)
    elif event.attempts >= MAX_ATTEMPTS:
        changes["due_at"] = None
    StripeEvent.objects.filter(pk=event.pk, attempts=event.attempts, handled_at=None).update(**changes)
    logger.warning("stripe event=%s attempt=%d: %s", event.pk, event.attempts, json_text.one_line(message))
