"""What an invoice tells its customer: paid, to be paid soon, or not paid, and for how many times.

The words of an event are facts, whatever is so by now: a mail's context is made of them, and Stripe is asked only
whether it is still worth telling. The tier is not decided here but in `sync`.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from billing.entitlements import MOST_FAILED_PAYMENTS
from billing.models import MailKind, StripeCustomer, Subscription
from billing.money import amount_text
from billing.notices import note_mail
from billing.stripe.client import client
from billing.stripe.reading import id_of, moment
from billing.stripe.sync import text


def tell_of_payment(customer: StripeCustomer, invoice: Mapping[str, Any], now: datetime) -> None:
    """The first payment after a trial has a mail of its own; one of nothing, as a trial begins with, has none."""
    if invoice["amount_paid"] <= 0:
        return
    subscription = _subscription(customer, invoice)
    converted = subscription is not None and _follows_trial(subscription, invoice)
    _note(
        customer,
        MailKind.CONVERTED if converted else MailKind.PAYMENT_SUCCEEDED,
        f"paid:{invoice['id']}",
        _context(invoice, invoice["amount_paid"], subscription),
        now,
    )


def tell_of_failure(customer: StripeCustomer, invoice: Mapping[str, Any], now: datetime) -> None:
    """Softly the first time, with a warning the second. From the third on the mail is that of the downgrade."""
    attempts = invoice["attempt_count"]
    if not 0 < attempts < MOST_FAILED_PAYMENTS:
        return
    current = client().v1.invoices.retrieve(invoice["id"])
    if current.status != "open" or current.attempt_count > attempts:  # an event that comes late has been overtaken
        return
    context = _context(invoice, invoice["amount_due"], _subscription(customer, invoice))
    context |= {"attempt": attempts, "next_attempt_at": text(moment(invoice.get("next_payment_attempt")))}
    kind = MailKind.PAYMENT_FAILED_SOFT if attempts == 1 else MailKind.PAYMENT_FAILED_WARNING
    _note(customer, kind, f"failed:{invoice['id']}:{attempts}", context, now)


def tell_of_trial_end(customer: StripeCustomer, subscription: Mapping[str, Any], now: datetime) -> None:
    """Three days before, unless it has been cancelled or is over by now: `sync` has just asked."""
    row = Subscription.objects.filter(user=customer.user, stripe_id=subscription["id"], status="trialing").first()
    if row is None or row.cancel_at is not None or row.trial_ends_at is None:
        return
    context = {"tier": row.tier, "trial_ends_at": text(row.trial_ends_at)}
    _note(customer, MailKind.TRIAL_ENDING, f"trial_ending:{row.stripe_id}:{context['trial_ends_at']}", context, now)


def _note(customer: StripeCustomer, kind: MailKind, key: str, context: dict[str, Any], now: datetime) -> None:
    note_mail(user=customer.user, kind=kind, key=key, context=context, now=now)


def _subscription(customer: StripeCustomer, invoice: Mapping[str, Any]) -> Subscription | None:
    details = (invoice.get("parent") or {}).get("subscription_details") or {}
    stripe_id = id_of(details.get("subscription"))
    return Subscription.objects.filter(user=customer.user, stripe_id=stripe_id).first() if stripe_id else None


def _follows_trial(subscription: Subscription, invoice: Mapping[str, Any]) -> bool:
    """Whether it is for the period that began as the trial ended: what is paid in advance begins last of its lines."""
    starts = [line["period"]["start"] for line in invoice["lines"]["data"]]
    return bool(starts) and moment(max(starts)) == subscription.trial_ends_at


def _context(invoice: Mapping[str, Any], amount: int, subscription: Subscription | None) -> dict[str, Any]:
    return {
        "tier": subscription.tier if subscription else "",
        "amount": amount_text(amount, invoice["currency"]),
        "currency": invoice["currency"].upper(),
        "invoice": invoice["id"],
        "number": invoice.get("number"),
        "invoice_url": invoice.get("hosted_invoice_url"),
    }
