"""A subscription from its start through trial and renewals to its end."""

from tests.stripe_server.billing import charging, ending, invoicing, lines, periods
from tests.stripe_server.billing.items import changed_items
from tests.stripe_server.clock import DAY
from tests.stripe_server.lists import listed
from tests.stripe_server.world import Obj, World, new_id, nulls

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
    periods.set_period(subscription, world.now, trial_end)
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


def renew(world: World, subscription: Obj) -> None:
    """Close the period that ends now: bill its use and the next period, or end what was to end with it."""
    period = periods.period_of(subscription)
    used = invoicing.usage_lines(world, subscription, period)
    if periods.ends_with_period(subscription):
        _end_with_period(world, subscription, used, period)
        return
    with world.changing(subscription, "customer.subscription.updated"):
        periods.set_period(subscription, period[1])
        found = subscription["_pending"] + lines.in_advance(world, subscription) + used
        subscription["_pending"] = []
        invoice = invoicing.draft(world, subscription, found, "subscription_cycle", period)
    if subscription["status"] == "unpaid":
        invoice.update(auto_advance=False, automatically_finalizes_at=None)
    world.emit("invoice.created", invoice)


def _end_with_period(world: World, subscription: Obj, used: list[Obj], period: tuple[int, int]) -> None:
    """Stripe does not say whether the last invoice waits for use that is told late: both are played."""
    found = subscription["_pending"] + used
    if world.settings.last_waits:
        ending.end(world, subscription, reason="cancellation_requested")
        world.emit("invoice.created", invoicing.draft(world, subscription, found, "subscription_cycle", period))
        return
    if any(each["amount"] for each in found):
        charging.bill_now(world, subscription, invoicing.draft(world, subscription, found, "subscription_cycle"))
    ending.end(world, subscription, reason="cancellation_requested")


def warn_of_trial_end(world: World, subscription: Obj) -> None:
    subscription["_warned"] = subscription["trial_end"]
    world.emit("customer.subscription.trial_will_end", subscription)


def end_trial(world: World, subscription: Obj, *, at_once: bool = False) -> None:
    """From trial to the first paid period; use during the trial is not billed. `at_once` leaves no hour of grace."""
    if periods.ends_with_period(subscription):
        ending.end(world, subscription, reason="cancellation_requested")
        return
    if not has_card(world, subscription) and _without_card(world, subscription):
        return
    with world.changing(subscription, "customer.subscription.updated"):
        subscription.update(status="active", trial_end=world.now)
        periods.restart_period(world, subscription)
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
