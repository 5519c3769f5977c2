"""Subscriptions, as the API reads and changes them."""

from tests.stripe_server.billing import changing, charging, ending, periods, subscribing
from tests.stripe_server.billing.invoicing import draft
from tests.stripe_server.billing.items import changed_items
from tests.stripe_server.clock import DAY
from tests.stripe_server.errors import not_played, refused
from tests.stripe_server.lists import listed, page
from tests.stripe_server.objects import schedules
from tests.stripe_server.objects.customers import living
from tests.stripe_server.world import Obj, World, assign

HANDLED = """
    billing_cycle_anchor cancel_at_period_end customer items off_session payment_behavior proration_behavior
    proration_date trial_end trial_period_days
"""


OF_INCOMPLETE = {"metadata", "default_payment_method", "default_source", "expand"}


def create(world: World, params: Obj) -> Obj:
    customer = living(world, params["customer"], param="customer")
    _check_played(params)
    if isinstance(params.get("billing_cycle_anchor"), int):
        raise not_played("billing_cycle_anchor of a new subscription")
    _check_card(world, customer["id"], params)
    subscription = subscribing.created(world, customer, params.get("items", []), _trial_end(world, params))
    assign(subscription, params, skip=HANDLED)
    subscribing.begin(world, subscription)
    return subscription


def _trial_end(world: World, params: Obj) -> int | None:
    """When a new subscription's trial ends; null for none."""
    if (days := params.get("trial_period_days", 0)) > 0:
        return world.now + days * DAY
    end = params.get("trial_end")
    return end if isinstance(end, int) else None


def _check_played(params: Obj) -> None:
    if params.get("payment_behavior") in ("default_incomplete", "pending_if_incomplete"):
        raise not_played(f"payment_behavior={params['payment_behavior']}")


def _check_card(world: World, customer: str, params: Obj) -> None:
    if method := params.get("default_payment_method"):
        found = world.get("payment_method", method, param="default_payment_method")
        if found["customer"] != customer:
            message = f"The customer does not have a payment method with the ID {method}."
            raise refused(message, param="default_payment_method", code="resource_missing")


def retrieve(world: World, params: Obj, key: str) -> Obj:
    return world.get("subscription", key)


def list_all(world: World, params: Obj) -> Obj:
    """Without `status`, all but the canceled ones; `status=all` gives those too, `ended` those alone."""
    status = params.get("status")
    found = world.all("subscription")
    if status is None:
        found = [each for each in found if each["status"] not in ending.ENDED]
    elif status != "all":
        wanted = ending.ENDED if status == "ended" else (status,)
        found = [each for each in found if each["status"] in wanted]
    if "customer" in params:
        found = [each for each in found if each["customer"] == params["customer"]]
    if "price" in params:
        found = [each for each in found if any(it["price"]["id"] == params["price"] for it in each["items"]["data"])]
    return page(found, params, "/v1/subscriptions")


def list_items(world: World, params: Obj) -> Obj:
    items = world.get("subscription", params["subscription"], param="subscription")["items"]["data"]
    return listed(items, f"/v1/subscription_items?subscription={params['subscription']}")


def update(world: World, params: Obj, key: str) -> Obj:
    subscription = world.get("subscription", key)
    _check_open(subscription, params)
    _check_played(params)
    _check_card(world, subscription["customer"], params)
    _check_cancellation(subscription, params)
    with world.changing(subscription, "customer.subscription.updated"):
        invoice = _change_items(world, subscription, params)
        _change_cancellation(world, subscription, params)
        assign(subscription, params, skip=f"{HANDLED} cancel_at")
        _move_trial(world, subscription, params)
    if "items" in params and subscription["schedule"]:
        schedules.follow(world, subscription)
    if invoice is not None:
        charging.bill_now(world, subscription, invoice)
    if params.get("trial_end") == "now" and subscription["status"] == "trialing":
        subscribing.end_trial(world, subscription, at_once=True)
    return subscription


def _check_open(subscription: Obj, params: Obj) -> None:
    if subscription["status"] in ending.ENDED:
        message = "A canceled subscription can only update its cancellation_details and metadata."
        raise refused(message, param="id")
    if subscription["status"] == "incomplete" and set(params) - OF_INCOMPLETE:
        message = "A subscription that is `incomplete` can only have its metadata and default payment method updated."
        raise refused(message, param="id")


def _change_items(world: World, subscription: Obj, params: Obj) -> Obj | None:
    if "items" not in params and params.get("billing_cycle_anchor") != "now":
        return None
    items = changed_items(world, subscription, params.get("items", []))
    return changing.change_items(world, subscription, items, params)


def _check_cancellation(subscription: Obj, params: Obj) -> None:
    if {"cancel_at_period_end", "cancel_at"} <= set(params):
        message = "You may only specify one of these parameters: cancel_at, cancel_at_period_end."
        raise refused(message, param="cancel_at")
    if (schedule := subscription["schedule"]) and {"cancel_at_period_end", "cancel_at"} & set(params):
        message = f"The subscription is managed by the subscription schedule `{schedule}`, and updating any "
        message += "cancelation behavior directly is not allowed. Please update the schedule instead."
        raise refused(message, param="cancel_at_period_end")


def _change_cancellation(world: World, subscription: Obj, params: Obj) -> None:
    """`cancel_at` takes a time, or `min_period_end` and `max_period_end`, which are one where all items share a period."""
    if not {"cancel_at_period_end", "cancel_at"} & set(params):
        return
    at_end, given = params.get("cancel_at_period_end", False), params.get("cancel_at")
    with_period = at_end or given in ("min_period_end", "max_period_end")
    when = periods.period_of(subscription)[1] if with_period else given or None
    subscription.update(cancel_at=when, cancel_at_period_end=at_end, canceled_at=world.now if when else None)
    subscription["cancellation_details"]["reason"] = "cancellation_requested" if when else None


def _move_trial(world: World, subscription: Obj, params: Obj) -> None:
    end = params.get("trial_end")
    if not isinstance(end, int):
        return
    if end <= world.now:
        message = "Invalid timestamp: must be an integer Unix timestamp in the future."
        raise refused(message, param="trial_end")
    subscription.update(status="trialing", trial_end=end, billing_cycle_anchor=end)
    subscription["trial_start"] = subscription["trial_start"] or world.now
    periods.set_period(subscription, world.now, end)


def cancel(world: World, params: Obj, key: str) -> Obj:
    """End it now; `invoice_now` bills what was used and is not billed yet, `prorate` credits the rest of the period."""
    subscription = world.get("subscription", key)
    if subscription["status"] in ending.ENDED:
        raise refused(f"No such subscription: '{key}'", param="id", code="resource_missing", status=404)
    assign(subscription["cancellation_details"], params.get("cancellation_details", {}))
    if found := changing.left_to_bill(world, subscription, params):
        charging.bill_now(world, subscription, draft(world, subscription, found, "subscription_update"))
    ending.end(world, subscription, reason="cancellation_requested")
    return subscription
