"""A subscription is changed while it runs: other prices, other quantities, another rhythm."""

from tests.stripe_server.billing import charging, invoicing, lines, periods, subscribing
from tests.stripe_server.billing.items import changed_items
from tests.stripe_server.errors import declined, no_card
from tests.stripe_server.world import Obj, World, public


def change_items(world: World, subscription: Obj, items: list[Obj], params: Obj) -> Obj | None:
    """Put the new items in place; gives a draft that is to be billed now, if the change calls for one.

    `proration_behavior`: `create_prorations` leaves the difference for the next invoice, `always_invoice` bills it
    now, `none` asks nothing. Another interval, or `billing_cycle_anchor=now`, begins a new period, billed now.
    """
    when = params.get("proration_date", world.now)
    behavior = params.get("proration_behavior", "create_prorations")
    old = subscription["items"]["data"]
    restarts = params.get("billing_cycle_anchor") == "now" or _interval(old) != _interval(items)
    if subscription["status"] == "trialing":
        subscription["items"]["data"] = items
        return None
    found = [] if behavior == "none" else lines.prorations(world, subscription, old, items, when)
    bills = restarts or (behavior == "always_invoice" and sum(each["amount"] for each in found) > 0)
    if bills and params.get("payment_behavior") == "error_if_incomplete":
        _refuse_what_will_not_be_paid(world, subscription)
    subscription["items"]["data"] = items
    if restarts:
        credit = [each for each in found if each["amount"] < 0]
        periods.restart_period(world, subscription)
        return _draft(world, subscription, credit + lines.in_advance(world, subscription))
    if behavior == "always_invoice" and found:
        return _draft(world, subscription, found)
    subscription["_pending"] += found
    return None


def _interval(items: list[Obj]) -> tuple[str, int]:
    recurring = items[0]["price"]["recurring"]
    return recurring["interval"], recurring["interval_count"]


def _draft(world: World, subscription: Obj, found: list[Obj]) -> Obj:
    found, subscription["_pending"] = subscription["_pending"] + found, []
    return invoicing.draft(world, subscription, found, "subscription_update")


def _refuse_what_will_not_be_paid(world: World, subscription: Obj) -> None:
    if not subscribing.has_card(world, subscription):
        raise no_card()
    if not charging.can_pay(world, subscription):
        raise declined()


def preview(world: World, subscription: Obj, details: Obj) -> Obj:
    """The invoice that would come next: of the change in `details` (as an update takes it), or of the renewal."""
    behavior = details.get("proration_behavior", "create_prorations")
    found: list[Obj] = list(subscription["_pending"])
    changed = _copied(subscription)
    if details.get("items"):
        items = changed_items(world, subscription, details["items"])
        if behavior != "none" and subscription["status"] != "trialing":
            when = details.get("proration_date", world.now)
            found += lines.prorations(world, subscription, subscription["items"]["data"], items, when)
        changed["items"]["data"] = items
    if behavior != "always_invoice" or not details.get("items"):
        found += _renewal(world, changed)
    start, end = periods.period_of(subscription)
    shown = invoicing.composed(world, changed, [{**each} for each in found], "upcoming", "upcoming_" + changed["id"])
    shown.update(period_start=start, period_end=end, next_payment_attempt=end + invoicing.GRACE)
    return shown


def _copied(subscription: Obj) -> Obj:
    return {**public(subscription), "items": {**subscription["items"]}}


def _renewal(world: World, subscription: Obj) -> list[Obj]:
    start, end = periods.period_of(subscription)
    used = [] if subscription["status"] == "trialing" else lines.usage(world, subscription, start, end)
    if periods.ends_with_period(subscription):
        return used
    after = {**subscription, "items": {"data": [{**each} for each in subscription["items"]["data"]]}}
    periods.set_period(after, end)
    return lines.in_advance(world, after) + used


def left_to_bill(world: World, subscription: Obj, params: Obj) -> list[Obj]:
    """What a cancellation bills, if it is asked to: `invoice_now` for use and prorations, `prorate` for the credit."""
    if not params.get("invoice_now"):
        return []
    start = periods.period_of(subscription)[0]
    found = subscription["_pending"] + lines.usage(world, subscription, start, world.now)
    if params.get("prorate"):
        found += lines.prorations(world, subscription, subscription["items"]["data"], [], world.now)
    return found
