"""Which of Stripe's customers a user is: made at the first checkout, once."""

from hashlib import sha256
from typing import Any

from accounts.models import User
from accounts.services import PLACEHOLDER_DOMAIN
from billing.models import StripeCustomer
from billing.stripe.client import client


def customer_of(user: User) -> StripeCustomer:
    """The user's customer, made at Stripe at the first call.

    Two first calls at a time: Stripe answers both with one customer, by the idempotency key, and the unique user lets
    one insert win. No transaction is open while Stripe is asked.
    """
    known = StripeCustomer.objects.filter(user=user).first()
    if known is not None:
        return known
    stripe_id, email = _create(user, after="")
    StripeCustomer.objects.bulk_create(
        [StripeCustomer(user=user, stripe_id=stripe_id, email=email)], ignore_conflicts=True
    )
    return StripeCustomer.objects.get(user=user)


def replace_customer(customer: StripeCustomer) -> StripeCustomer:
    """Another in the place of one that is gone from Stripe. The condition of the UPDATE lets one of two at a
    time be it, and Stripe answers both with the same."""
    stripe_id, email = _create(customer.user, after=customer.stripe_id)
    gone = StripeCustomer.objects.filter(pk=customer.pk, stripe_id=customer.stripe_id)
    gone.update(stripe_id=stripe_id, email=email, checkout_session="", missing_since=None)
    customer.refresh_from_db()
    return customer


def _create(user: User, *, after: str) -> tuple[str, str]:
    params: Any = {"metadata": {"user_id": str(user.pk)}}
    if user.name:
        params["name"] = user.name
    if not user.email.endswith(PLACEHOLDER_DOMAIN):  # without an address Stripe's page asks for one
        params["email"] = user.email
    key = f"customer-{user.pk}-{_digest(f'{after} {user.email} {user.name}')}"
    made = client().v1.customers.create(params, {"idempotency_key": key})
    return made.id, made.email or ""


def _digest(text: str) -> str:
    """Under one key Stripe takes the same request only: other details are another."""
    return sha256(text.encode()).hexdigest()[:16]
