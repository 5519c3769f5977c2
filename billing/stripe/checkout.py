"""Stripe's pages for buying a subscription and for managing it."""

from datetime import datetime
from typing import TYPE_CHECKING, Any

from django.conf import settings

from accounts.models import User
from billing.errors import AlreadySubscribed, BillingUnavailable, NoCustomer
from billing.models import StripeCustomer, Subscription
from billing.models.stripe import ENDED
from billing.stripe.client import asking, client, is_missing
from billing.stripe.customers import customer_of, replace_customer
from billing.stripe.prices import prices_of
from billing.stripe.reading import CustomerRead
from billing.stripe.setup import portal_configuration
from billing.stripe.sync import sync

if TYPE_CHECKING:
    from stripe.checkout import Session

TRIAL_DAYS = 14


def open_checkout(*, user: User, tier: str, success_url: str = "", cancel_url: str = "", now: datetime) -> str:
    """The URL of a page of Stripe's on which the user subscribes to `tier`; the first time with a trial.

    Raises `AlreadySubscribed`, `TierNotSold`, `BillingNotConfigured` and `BillingUnavailable`.
    """
    client()  # before anything is asked: without a key there is nobody to ask
    with asking():
        prices = prices_of(tier)
        customer = customer_of(user)
        expire(customer.checkout_session)
        read = sync(customer, now=now)
        _require_none(user, read)
        if read.is_gone:
            customer = replace_customer(customer)
        params = _params(user, customer, prices, has_had_trial=_has_had_trial(user))
        params["success_url"] = success_url or settings.BLOX_PUBLIC_URL
        params["cancel_url"] = cancel_url or settings.BLOX_PUBLIC_URL
        url = _only_open_one(customer, client().v1.checkout.sessions.create(params))
        _close_if_buried(customer, now)
        return url


def open_portal(*, user: User, return_url: str = "") -> str:
    """The URL of a page of Stripe's on which the user cancels, pays otherwise, and finds invoices.

    Raises `NoCustomer`, `BillingNotConfigured` and `BillingUnavailable`.
    """
    from stripe import InvalidRequestError

    client()
    customer = StripeCustomer.objects.filter(user=user).first()
    if customer is None:
        raise NoCustomer("There is nothing to manage yet: you have never been at the checkout.")
    with asking():
        params: Any = {"customer": customer.stripe_id, "return_url": return_url or settings.BLOX_PUBLIC_URL}
        if configuration := portal_configuration():
            params["configuration"] = configuration
        try:
            return client().v1.billing_portal.sessions.create(params).url
        except InvalidRequestError as error:
            if not is_missing(error):
                raise
            raise NoCustomer("Stripe no longer knows you as a customer: the next checkout makes you one.") from error


def _require_none(user: User, read: CustomerRead) -> None:
    """What Stripe says, not our rows: an event may be on its way. Where it knows no such customer, perhaps by a wrong key,
    those that are live here are not forgotten for another customer: somebody may be paying for them."""
    if read.missing and Subscription.objects.for_user(user).live().exists():
        raise BillingUnavailable(
            "Stripe does not know whom your subscription belongs to: the operator has to look at it. Nothing is sold twice."
        )
    for subscription in read.subscriptions:
        if subscription.status not in ENDED:
            raise AlreadySubscribed(
                "You have a subscription already. PATCH /api/v1/billing/subscription changes its tier, or ends it; POST "
                "/api/v1/billing/portal gives the page on which you pay.",
                details={"tier": subscription.tier, "status": subscription.status},
            )


def _has_had_trial(user: User) -> bool:
    """Also with a customer that is no more: the rows have just been brought to what Stripe says."""
    return Subscription.objects.for_user(user).filter(trial_ends_at__isnull=False).exists()


def _params(user: User, customer: StripeCustomer, prices: list[dict[str, Any]], *, has_had_trial: bool) -> Any:
    monthly, *metered = prices
    subscription: dict[str, Any] = {"metadata": {"user_id": str(user.pk)}}
    if not has_had_trial:
        subscription["trial_period_days"] = TRIAL_DAYS
        # Who has taken the card away meanwhile has said no: an invoice that cannot be paid would say otherwise.
        subscription["trial_settings"] = {"end_behavior": {"missing_payment_method": "cancel"}}
    return {
        "mode": "subscription",
        "customer": customer.stripe_id,
        "client_reference_id": str(user.pk),
        "line_items": [{"price": monthly["id"], "quantity": 1}, *({"price": price["id"]} for price in metered)],
        "subscription_data": subscription,
    }


def _only_open_one(customer: StripeCustomer, session: "Session") -> str:
    """Of two checkouts at a time one stays open, by the conditional UPDATE, and both callers are sent there."""
    before = customer.checkout_session
    row = StripeCustomer.objects.filter(pk=customer.pk, checkout_session=before)
    if not row.update(checkout_session=session.id):
        expire(session.id)
        customer.refresh_from_db(fields=["checkout_session"])
        session = client().v1.checkout.sessions.retrieve(customer.checkout_session)
    if session.status == "complete":
        raise AlreadySubscribed("You have just subscribed.")
    if session.url is None:  # expired since, by a third
        raise BillingUnavailable("The page has expired: try again.", headers={"Retry-After": "1"})
    return session.url


def _close_if_buried(customer: StripeCustomer, now: datetime) -> None:
    """An account that was deleted meanwhile had no customer to close, or no page. One that is deleted from now on does."""
    buried = StripeCustomer.objects.filter(pk=customer.pk, user__deleted_at__isnull=False)
    buried.update(close_due_at=now, email="")


def expire(session: str) -> None:
    """Nobody can subscribe twice through pages that were left open. One that is through already stays as it is."""
    from stripe import InvalidRequestError

    if session:
        try:
            client().v1.checkout.sessions.expire(session)
        except InvalidRequestError as error:
            if not is_missing(error) and _is_open(session):
                raise


def _is_open(session: str) -> bool:
    return client().v1.checkout.sessions.retrieve(session).status == "open"
