"""What operators can have done, and what the clock does. Nothing here holds a transaction while Stripe is asked."""

import logging
import time
from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from accounts.models import User
from billing.errors import NoCustomer
from billing.models import StripeCustomer, StripeEvent
from billing.stripe import metering
from billing.stripe.changing import alone, end_at_once, end_with_period, live_at_stripe
from billing.stripe.checkout import expire
from billing.stripe.client import Outcome, asking, client, is_away, said
from billing.stripe.events import handle
from billing.stripe.reading import CustomerRead
from billing.stripe.sync import READ_AFTER, end_here, sync
from bloxserver.core import json_text
from bloxserver.core.errors import Conflict, NotFound

logger = logging.getLogger(__name__)

SECONDS = 10.0  # of one round; the rest waits for the next
REMEMBERED = timedelta(days=90)  # events that are done or given up; Stripe repeats none that is older than 30 days
CLOSE_WAIT = timedelta(minutes=10)  # after an attempt to close an account
AT_ONCE = timedelta(0)


def replay_event(event_id: str, *, now: datetime) -> StripeEvent:
    """Handle an event, whatever became of it, as if it came now; how it stands then.

    Raises `NotFound`. What fails is tried again later, with all its attempts.
    """
    again = StripeEvent.objects.filter(pk=event_id)
    if not again.update(due_at=now, attempts=0, handled_at=None, flag="", error=""):
        raise NotFound("There is no such event.")
    handle(now=now, event_id=event_id)
    return again.get()


def cancel_subscription(*, user: User, at_period_end: bool = True, now: datetime) -> None:
    """End the user's subscriptions at Stripe: at the end of what is paid for, or at once, with an invoice for the runs over
    the limit until now.

    Raises `NoCustomer`, `Conflict` when there is none to end, or while another changes them, `BillingNotConfigured` and
    `BillingUnavailable`.
    """
    customer = _customer(user)
    client()
    with asking(), alone(customer, now=now):
        live = live_at_stripe(customer)
        if not live:
            raise Conflict("There is no subscription to end.")
        if at_period_end:
            end_with_period(live)
        else:
            end_at_once(live, user=user, now=now)
        sync(customer, now=now)


def sync_customer(*, user: User, now: datetime) -> CustomerRead:
    """Bring the user's subscriptions and tier to what Stripe says: also to none, where it has been noted before that the
    customer is missing. Raises `NoCustomer`, `BillingNotConfigured` and `BillingUnavailable`."""
    customer = _customer(user)
    client()
    with asking():
        return sync(customer, now=now, grace=AT_ONCE)


def _customer(user: User) -> StripeCustomer:
    customer = StripeCustomer.objects.filter(user=user).first()
    if customer is None:
        raise NoCustomer("Stripe does not know this user: they have never been at the checkout.")
    return customer


# The clock's. ------------------------------------------------------------------------------------------------------
def work(*, seconds: float = SECONDS) -> None:
    """Handle the events that are due, send the overage that is, close accounts, and look for lost events, for `seconds`.

    They take turns, and each has one at least: overage that waited behind the events of others would miss its invoice.
    """
    stop_at = time.monotonic() + seconds
    while settings.STRIPE_API_KEY and time.monotonic() < stop_at and _take_turns():  # without a key all stays due
        pass
    _forget(now=timezone.now())


def _take_turns() -> bool:
    """One of each; whether there may be more. Where Stripe is away there is not: the others would ask in vain."""
    more = False
    for attempt in (handle, metering.send, _close_one, _resync_one):
        outcome = attempt(now=timezone.now())
        if outcome is Outcome.AWAY:
            return False
        more |= outcome is not Outcome.NOTHING_DUE
    return more


def _close_one(*, now: datetime) -> Outcome:
    """End what a closed account still pays for. Claimed like an event: put off, then done."""
    with transaction.atomic():
        due = StripeCustomer.objects.filter(close_due_at__lte=now).order_by("close_due_at").select_related("user")
        customer = due.select_for_update(skip_locked=True, of=("self",)).first()
        if customer is None:
            return Outcome.NOTHING_DUE
        StripeCustomer.objects.filter(pk=customer.pk).update(close_due_at=now + CLOSE_WAIT)
    try:
        _end_all(customer, now=now)
    except Exception as error:
        message = json_text.clean(said(error))[:2_000]
        StripeCustomer.objects.filter(pk=customer.pk).update(close_error=message)
        logger.warning("stripe customer=%s cannot be closed: %s", customer.stripe_id, json_text.one_line(message))
        return Outcome.AWAY if is_away(error) else Outcome.FAILED
    StripeCustomer.objects.filter(pk=customer.pk).update(close_due_at=None, close_error="")
    return Outcome.DONE


def _resync_one(*, now: datetime) -> Outcome:
    """Ask Stripe of a subscriber of whom no event has come: an event may be lost. Claimed like an event: one that fails has
    its turn again in a day, and at once when Stripe was away."""
    put_off = now + READ_AFTER
    with transaction.atomic():
        due = StripeCustomer.objects.filter(resync_due_at__lte=now).order_by("resync_due_at").select_related("user")
        customer = due.select_for_update(skip_locked=True, of=("self",)).first()
        if customer is None:
            return Outcome.NOTHING_DUE
        StripeCustomer.objects.filter(pk=customer.pk).update(resync_due_at=put_off)
    try:
        sync(customer, now=now)
    except Exception as error:
        logger.warning("stripe customer=%s cannot be read: %s", customer.stripe_id, json_text.one_line(said(error)))
        if not is_away(error):
            return Outcome.FAILED
        unread = StripeCustomer.objects.filter(pk=customer.pk, resync_due_at=put_off)
        unread.update(resync_due_at=customer.resync_due_at)
        return Outcome.AWAY
    return Outcome.DONE


def _end_all(customer: StripeCustomer, *, now: datetime) -> None:
    expire(customer.checkout_session)
    end_at_once(live_at_stripe(customer), user=customer.user, now=now)
    end_here(customer.user, now=now)


def _forget(*, now: datetime) -> None:
    given_up = Q(handled_at=None, due_at=None, received_at__lt=now - REMEMBERED)
    old = StripeEvent.objects.filter(Q(handled_at__lt=now - REMEMBERED) | given_up)
    old.filter(pk__in=list(old.values_list("pk", flat=True)[:1_000])).delete()
