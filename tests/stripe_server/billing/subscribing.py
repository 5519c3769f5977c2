"""A subscription from its start through trial and renewals to its end."""

from tests.stripe_server.billing import charging, ending, invoicing, lines
from tests.stripe_server.clock import DAY, next_boundary
from tests.stripe_server.errors import not_played, refused
from tests.stripe_server.lists import listed
from tests.stripe_server.objects import catalogue
from tests.stripe_server.world import Obj, World, new_id, nulls, public

ITEM_FIELDS = {"id", "price", "quantity", "deleted", "metadata"}
WARNING = 3 * DAY  # `trial_will_end` comes so long before

EMPTY = """
    application application_fee_percent billing_cycle_anchor_config billing_thresholds cancel_at canceled_at
    customer_account days_until_due default_payment_method default_source description ended_at latest_invoice
    managed_payments next_pending_invoice_item_invoice on_behalf_of pause_collection pending_invoice_item_interval
    pending_setup_intent pending_update schedule test_clock transfer_data trial_end trial_start
"""


def created(world: World, customer: Obj, wanted: list[Obj], trial_end: int | None = None) -> Obj:
    """A new subscription, known to the account but not begun: `begin` follows when its fields are set.

    `wanted` are items as the API takes them: `price`, `quantity`, `metadata`.
    """
    key = new_id("sub")
    subscription = {
        "id": key,
        "object": "subscription",
        **nulls(EMPTY),
        "automatic_tax": {"disabled_reason": None, "enabled": False, "liability": None},
        "billing_cycle_anchor": trial_end or world.now,
        "billing_mode": {"flexible": {"proration_discounts": "included"}, "type": "flexible"},
        "billing_schedules": [],
        "cancel_at_period_end": False,
        "cancellation_details": nulls("comment feedback reason"),
        "collection_method": "charge_automatically",
        "created": world.now,
        "customer": customer["id"],
        "default_tax_rates": [],
        "discounts": [],
        "invoice_settings": {**nulls("account_tax_ids custom_fields description footer"), "issuer": {"type": "self"}},
        "items": listed([], f"/v1/subscription_items?subscription={key}"),
        "livemode": False,
        "metadata": {},
        "payment_settings": {
            **nulls("payment_method_options payment_method_types"),
            "save_default_payment_method": "off",
        },
        "start_date": world.now,
        "status": "trialing" if trial_end else "incomplete",
        "trial_settings": {"end_behavior": {"missing_payment_method": "create_invoice"}},
        "_pending": [],  # prorations that wait for the next invoice
    }
    subscription["items"]["data"] = changed_items(world, subscription, wanted)
    subscription["currency"] = subscription["items"]["data"][0]["price"]["currency"]
    if trial_end:
        subscription.update(trial_start=world.now, trial_end=trial_end)
    set_period(subscription, world.now, trial_end)
    return world.add(subscription)


def begin(world: World, subscription: Obj) -> Obj:
    """Announce it, and ask for the first payment; gives the first invoice."""
    customer = world.get("customer", subscription["customer"])
    with world.changing(customer, "customer.updated"):
        customer["currency"] = customer["currency"] or subscription["currency"]
    on_trial = subscription["status"] == "trialing"
    first = lines.in_advance(world, subscription, trial=on_trial)
    invoice = invoicing.draft(world, subscription, first, "subscription_create")
    world.emit("customer.subscription.created", subscription)
    charging.bill_now(world, subscription, invoice)
    return invoice


def changed_items(world: World, subscription: Obj, wanted: list[Obj]) -> list[Obj]:
    """The items after a change in the API's terms: by `id` swapped or `deleted`, without one added."""
    items = {each["id"]: {**each} for each in subscription["items"]["data"]}
    for number, each in enumerate(wanted):
        for name in each.keys() - ITEM_FIELDS:
            raise not_played(f"items[{number}][{name}]")
        if "id" in each and each["id"] not in items:
            message = f"No such subscription item: '{each['id']}'"
            raise refused(message, param=f"items[{number}][id]", code="resource_missing")
        if each.get("deleted"):
            del items[each["id"]]
            continue
        item = items.get(each.get("id", "")) or _new_item(world, subscription)
        if "price" in each:
            price = world.get("price", each["price"], param=f"items[{number}][price]")
            _check_price(price, number)
            item.update(price=public(price) | {"_tiers": price["_tiers"]}, plan=catalogue.plan_of(price))
        items[item["id"]] = _counted(item, each, number)
    _check_together(list(items.values()))
    return list(items.values())


def _new_item(world: World, subscription: Obj) -> Obj:
    start, end = period_of(subscription) if subscription["items"]["data"] else (world.now, world.now)
    return {
        "id": new_id("si"),
        "object": "subscription_item",
        "billing_thresholds": None,
        "created": world.now,
        "current_period_end": end,
        "current_period_start": start,
        "discounts": [],
        "metadata": {},
        "subscription": subscription["id"],
        "tax_rates": [],
    }


def _check_price(price: Obj, number: int) -> None:
    if not price["recurring"]:
        message = "The price specified is set to `type=one_time` but this field only accepts prices with "
        raise refused(message + "`type=recurring`.", param=f"items[{number}][price]")
    if not price["active"]:
        message = "The price specified is inactive. This field only accepts active prices."
        raise refused(message, param=f"items[{number}][price]")


def _counted(item: Obj, given: Obj, number: int) -> Obj:
    """Metered items have no quantity: their meters count."""
    item = {**item, "metadata": given.get("metadata") or item["metadata"]}
    if "price" not in item:
        raise refused(f"Missing required param: items[{number}][price].", code="parameter_missing")
    if lines.metered(item):
        if "quantity" in given:
            raise refused(
                "Quantity should not be specified where usage_type is metered.", param=f"items[{number}][quantity]"
            )
        item.pop("quantity", None)
    else:
        item["quantity"] = given.get("quantity", item.get("quantity", 1))
    return item


def _check_together(items: list[Obj]) -> None:
    prices = [each["price"] for each in items]
    if not prices:
        raise refused("A subscription must have at least one active plan.", param="items")
    if len({each["id"] for each in prices}) < len(prices):
        raise refused("Cannot add multiple subscription items with the same price.", param="items")
    if len({each["currency"] for each in prices}) > 1:
        raise refused("All prices on a subscription must have the same currency.", param="items")
    if len({(each["recurring"]["interval"], each["recurring"]["interval_count"]) for each in prices}) > 1:
        raise not_played("items with different intervals")


def period_of(subscription: Obj) -> tuple[int, int]:
    """When the current period began, and when it ends."""
    item = subscription["items"]["data"][0]
    return item["current_period_start"], item["current_period_end"]


def ends_with_period(subscription: Obj) -> bool:
    at = subscription["cancel_at"]
    return at is not None and at <= period_of(subscription)[1]


def set_period(subscription: Obj, start: int, end: int | None = None) -> None:
    recurring = subscription["items"]["data"][0]["price"]["recurring"]
    interval, step = recurring["interval"], recurring["interval_count"]
    end = end or next_boundary(subscription["billing_cycle_anchor"], interval, step, start)
    for item in subscription["items"]["data"]:
        item.update(current_period_start=start, current_period_end=end)


def restart_period(world: World, subscription: Obj) -> None:
    """A new period, and a new rhythm, from now on."""
    subscription["billing_cycle_anchor"] = world.now
    set_period(subscription, world.now)


def renew(world: World, subscription: Obj) -> None:
    """Close the period that ends now: bill its use and the next period, or end what was to end with it."""
    period = period_of(subscription)
    used = invoicing.usage_lines(world, subscription, period)
    if ends_with_period(subscription):
        _bill_last(world, subscription, used)
        ending.end(world, subscription, reason="cancellation_requested")
        return
    with world.changing(subscription, "customer.subscription.updated"):
        set_period(subscription, period[1])
        found = subscription["_pending"] + lines.in_advance(world, subscription) + used
        subscription["_pending"] = []
        invoice = invoicing.draft(world, subscription, found, "subscription_cycle", period)
    if subscription["status"] == "unpaid":
        invoice.update(auto_advance=False, automatically_finalizes_at=None)
    world.emit("invoice.created", invoice)


def _bill_last(world: World, subscription: Obj, used: list[Obj]) -> None:
    if any(each["amount"] for each in used + subscription["_pending"]):
        invoice = invoicing.draft(world, subscription, subscription["_pending"] + used, "subscription_cycle")
        charging.bill_now(world, subscription, invoice)


def warn_of_trial_end(world: World, subscription: Obj) -> None:
    subscription["_warned"] = subscription["trial_end"]
    world.emit("customer.subscription.trial_will_end", subscription)


def end_trial(world: World, subscription: Obj, *, at_once: bool = False) -> None:
    """From trial to the first paid period; use during the trial is not billed. `at_once` leaves no hour of grace."""
    if ends_with_period(subscription):
        ending.end(world, subscription, reason="cancellation_requested")
        return
    if not has_card(world, subscription) and _without_card(world, subscription):
        return
    with world.changing(subscription, "customer.subscription.updated"):
        subscription.update(status="active", trial_end=world.now)
        restart_period(world, subscription)
        reason = "subscription_update" if at_once else "subscription_cycle"
        found = subscription["_pending"] + lines.in_advance(world, subscription)
        subscription["_pending"] = []
        invoice = invoicing.draft(world, subscription, found, reason)
    if at_once:
        charging.bill_now(world, subscription, invoice)
    else:
        invoice["automatically_finalizes_at"] = world.now + invoicing.GRACE
        world.emit("invoice.created", invoice)


def has_card(world: World, subscription: Obj) -> bool:
    customer = world.get("customer", subscription["customer"])
    return bool(subscription["default_payment_method"] or customer["invoice_settings"]["default_payment_method"])


def _without_card(world: World, subscription: Obj) -> bool:
    """What a trial does that ends without a card; true if that was all."""
    match subscription["trial_settings"]["end_behavior"]["missing_payment_method"]:
        case "cancel":
            ending.end(world, subscription, reason=None)
        case "pause":
            subscription["status"] = "paused"
            world.emit("customer.subscription.paused", subscription)
        case _:
            return False
    return True
