"""A subscription is changed at Stripe: to another tier, to its end, or back from either before it comes.

Stripe's word counts, not our rows. Whatever breaks off between two requests leaves a subscription that holds as it is, and that
the same call, repeated, brings to where it was to go.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Q

from accounts.models import Tier, User
from billing.entitlements import best_tier, rank
from billing.errors import ChangeUnderWay, NoSubscription, PaymentDue, PaymentFailed, TierNotSold, TierSetByOperator
from billing.models import StripeCustomer, Subscription
from billing.models.stripe import ENDED, SubscriptionStatus
from billing.stripe import metering
from billing.stripe.client import asking, client, is_missing
from billing.stripe.prices import prices_of, tier_of_price
from billing.stripe.reading import id_of, tier_item
from billing.stripe.sync import sync

LEASE = timedelta(minutes=2)  # longer than the requests of a change take together, of a few seconds each at most
IN_ORDER = (SubscriptionStatus.TRIALING, SubscriptionStatus.ACTIVE)
HALTED = (SubscriptionStatus.INCOMPLETE, SubscriptionStatus.PAUSED)  # no period runs that could end
REFUSED = 402  # Payment Required
PORTAL = "POST /api/v1/billing/portal gives the page on which you pay, or change the card"

StripeObject = Mapping[str, Any]


def change_tier(*, user: User, tier: str, now: datetime) -> None:
    """Bring the user's subscription to `tier`: a higher one at once, for the difference in price; a lower one, and free, at the
    end of what is paid for; the present one takes back what was to come at that end.

    Raises `NoSubscription`, `TierNotSold`, `TierSetByOperator`, `PaymentDue`, `PaymentFailed`, `ChangeUnderWay`,
    `BillingNotConfigured` and `BillingUnavailable`.

    Of several calls at a time, operators' among them, one is let in: by the conditional UPDATE of `alone`, which is no lock and
    holds no transaction. Should one outlast its lease, Stripe gives a subscription one schedule at most.
    """
    client()  # before anything is asked: without a key there is nobody to ask
    customer = StripeCustomer.objects.filter(user=user).first()
    if customer is None:
        raise _no_subscription()
    with asking(), alone(customer, now=now):
        live = live_at_stripe(customer)
        if not live:
            raise _no_subscription()
        if tier == Tier.FREE:
            end_with_period(live)
        else:
            _bring(max(live, key=_rank), to=tier, user=user, now=now)
        sync(customer, now=now)
    user.refresh_from_db(fields=["tier"])


@contextmanager
def alone(customer: StripeCustomer, *, now: datetime) -> Iterator[None]:
    """For one at a time: the condition of the UPDATE lets one in, and the others are told to come again (`ChangeUnderWay`). Who
    dies inside keeps the others out until the lease is over."""
    until = now + LEASE
    row = StripeCustomer.objects.filter(pk=customer.pk)
    if not row.filter(Q(changing_until=None) | Q(changing_until__lte=now)).update(changing_until=until):
        raise ChangeUnderWay("The subscription is being changed at this moment: try again when that is done.")
    try:
        yield
    finally:
        row.filter(changing_until=until).update(changing_until=None)


def live_at_stripe(customer: StripeCustomer) -> list[StripeObject]:
    """The customer's subscriptions that have not ended, the newest first. Raises the SDK's errors."""
    listed = client().v1.subscriptions.list({"customer": customer.stripe_id, "limit": 100})
    found = (subscription.to_dict() for subscription in listed.auto_paging_iter())
    return [subscription for subscription in found if subscription["status"] not in ENDED]


def end_with_period(subscriptions: Sequence[StripeObject]) -> None:
    """At the end of what is paid for; at once where no period runs."""
    for subscription in subscriptions:
        if subscription["status"] in HALTED:
            client().v1.subscriptions.cancel(subscription["id"])
        elif not _ends_with_period(subscription):
            _release(subscription)  # while a schedule says what is to come, Stripe takes no other word on it
            client().v1.subscriptions.update(subscription["id"], {"cancel_at_period_end": True})


def end_at_once(subscriptions: Sequence[StripeObject], *, user: User, now: datetime) -> None:
    """With an invoice for the runs over the limit until now. A schedule ends with its subscription."""
    metering.bill_until(user=user, now=now)
    for subscription in subscriptions:
        client().v1.subscriptions.cancel(subscription["id"], {"invoice_now": True})


def _ends_with_period(subscription: StripeObject) -> bool:
    """Already. The portal asks for it by the moment."""
    at = subscription["cancel_at"]
    return not subscription["schedule"] and at is not None and at <= tier_item(subscription)[0]["current_period_end"]


def _no_subscription() -> NoSubscription:
    return NoSubscription(
        "You have no subscription to change: POST /api/v1/billing/checkout gives the page to subscribe on."
    )


def _rank(subscription: StripeObject) -> int:
    return rank(tier_item(subscription)[1] or Tier.FREE)


def _bring(subscription: StripeObject, *, to: str, user: User, now: datetime) -> None:
    if subscription["status"] not in IN_ORDER:
        raise PaymentDue(
            f"The subscription is not paid for, so that it can only be ended (tier free): {PORTAL}.",
            details={"status": subscription["status"]},
        )
    present = tier_item(subscription)[1]
    if present is None:
        raise TierNotSold("The price of your subscription is one of your own: ask the operator for another tier.")
    if to == present:
        _take_back(subscription)
    elif rank(to) < rank(present):
        _lower(subscription, prices_of(to))
    else:
        _refuse_what_is_given(user, to)
        prices = prices_of(to)
        metering.bill_until(user=user, now=now)  # afterwards more is included, and none of it would be over
        _raise(subscription, prices)


def _refuse_what_is_given(user: User, tier: str) -> None:
    """Where an operator has set the user's tier, nothing up to it is sold: a payment would bring nothing."""
    if user.tier != best_tier(Subscription.objects.for_user(user)) and rank(tier) <= rank(user.tier):
        raise TierSetByOperator(
            f"An operator has put you on the {user.tier} tier: you would pay for what you have. Ask the operator.",
            details={"tier": user.tier},
        )


# At once. ----------------------------------------------------------------------------------------------------------
def _raise(subscription: StripeObject, prices: Sequence[StripeObject]) -> None:
    """In one request, which a declined card leaves undone. What was to come at the period's end is dropped with it, or where a
    schedule says it, right after it."""
    from stripe import StripeError

    params: Any = {
        "items": _raised(subscription, prices),
        "proration_behavior": "always_invoice",
        "payment_behavior": "error_if_incomplete",
        **({} if subscription["schedule"] else _without_end(subscription)),
    }
    try:
        client().v1.subscriptions.update(subscription["id"], params)
    except StripeError as error:
        if not _is_unpaid(error):
            raise
        why = error.user_message if error.http_status == REFUSED else "There is no card to charge."
        raise PaymentFailed(f"{why} Nothing has changed. {PORTAL}; then try again.") from error
    _release(subscription)


def _raised(subscription: StripeObject, prices: Sequence[StripeObject]) -> list[dict[str, Any]]:
    """The tier's item at the new price, and the price of the overage where no item has its meter: each would bill the same
    runs. Any other item stays: the meter's has runs to bill that were over the limit before."""
    monthly, *metered = prices
    item, _ = tier_item(subscription)
    meters = {each["price"]["recurring"]["meter"] for each in subscription["items"]["data"]}
    missing = ({"price": price["id"]} for price in metered if price["recurring"]["meter"] not in meters)
    return [{"id": item["id"], "price": monthly["id"]}, *missing]


def _is_unpaid(error: Any) -> bool:
    """The card was declined, or asks its owner; or there is none, which Stripe says without naming a parameter."""
    return error.http_status == REFUSED or (is_missing(error) and not getattr(error, "param", None))


# At the period's end. ----------------------------------------------------------------------------------------------
def _take_back(subscription: StripeObject) -> None:
    if subscription["schedule"]:
        _release(subscription)
    elif params := _without_end(subscription):
        client().v1.subscriptions.update(subscription["id"], params)


def _release(subscription: StripeObject) -> None:
    """The subscription goes on as it is, whatever a schedule was to make of it."""
    if schedule := id_of(subscription["schedule"]):
        client().v1.subscription_schedules.release(schedule)


def _without_end(subscription: StripeObject) -> Any:
    """What takes a cancellation back: it is for the period's end, or for a moment, and Stripe lets only one be named."""
    if subscription["cancel_at_period_end"]:
        return {"cancel_at_period_end": False}
    return {"cancel_at": ""} if subscription["cancel_at"] else {}


def _lower(subscription: StripeObject, prices: Sequence[StripeObject]) -> None:
    """By a schedule: the one that is there, or one that is made first, and that changes nothing until it is told to."""
    schedules = client().v1.subscription_schedules
    if subscription["schedule"]:
        schedule = schedules.retrieve(id_of(subscription["schedule"]) or "").to_dict()
    else:
        _take_back(subscription)
        schedule = schedules.create({"from_subscription": subscription["id"]}).to_dict()
    params: Any = {
        "phases": phases(subscription, prices, since=schedule["current_phase"]["start_date"]),
        "end_behavior": "release",
        "proration_behavior": "none",
    }
    schedules.update(schedule["id"], params)


def phases(subscription: StripeObject, prices: Sequence[StripeObject], *, since: int) -> list[dict[str, Any]]:
    """The subscription as it is until its period ends, then a month of the new prices; nothing is paid back. `since` is when
    the phase under way began. Stripe drops what a phase does not name."""
    items = subscription["items"]["data"]
    same = {"proration_behavior": "none", **_terms(subscription, "default_tax_rates")}
    until = {"start_date": since, "end_date": tier_item(subscription)[0]["current_period_end"]}
    if subscription["status"] == SubscriptionStatus.TRIALING:
        until["trial_end"] = subscription["trial_end"]
    return [
        {**same, **until, "items": [_as_given(item) for item in items]},
        {**same, "items": _lowered(items, prices), "duration": {"interval": "month", "interval_count": 1}},
    ]


def _lowered(items: Sequence[StripeObject], prices: Sequence[StripeObject]) -> list[dict[str, Any]]:
    """The new prices beside what is of no tier. Of the prices on one meter one stays: each would bill the same runs."""
    monthly, *metered = prices
    meters = {price["recurring"]["meter"] for price in metered} - {None}
    kept = [
        _as_given(item)
        for item in items
        if tier_of_price(item["price"]) is None and item["price"]["recurring"]["meter"] not in meters
    ]
    return [{"price": monthly["id"], "quantity": 1}, *({"price": price["id"]} for price in metered), *kept]


def _as_given(item: StripeObject) -> dict[str, Any]:
    """An item in the words of a request. A metered one has no quantity."""
    quantity = {"quantity": item["quantity"]} if item.get("quantity") is not None else {}
    return {"price": item["price"]["id"], **quantity, **_terms(item, "tax_rates")}


def _terms(owner: StripeObject, tax_rates: str) -> dict[str, Any]:
    """Discounts and taxes that somebody has set in the dashboard."""
    terms: dict[str, Any] = {}
    if owner.get("discounts"):
        terms["discounts"] = [{"discount": id_of(each)} for each in owner["discounts"]]
    if owner.get(tax_rates):
        terms[tax_rates] = [id_of(each) for each in owner[tax_rates]]
    return terms
