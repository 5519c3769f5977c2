"""The lines of an invoice: a period in advance, use in arrears, and what a change within a period is worth.

Nothing here changes the account: previews and invoices are made of the same lines.
"""

from decimal import Decimal

from tests.stripe_server.objects import meters
from tests.stripe_server.pricing import Charge, charges, rounded, total
from tests.stripe_server.world import Obj, World, new_id


def metered(item: Obj) -> bool:
    return bool(item["price"]["recurring"]["usage_type"] == "metered")


def in_advance(world: World, subscription: Obj, *, trial: bool = False) -> list[Obj]:
    """The items' current period: free while the subscription is on trial, without metered items."""
    found = []
    for item in filter(lambda each: not metered(each), subscription["items"]["data"]):
        name = world.get("product", item["price"]["product"])["name"]
        priced = [Charge(item["quantity"], Decimal(0), 0)] if trial else charges(item["price"], item["quantity"])
        for charge in priced:
            said = f"Trial period for {name}" if trial else f"{charge.quantity} × {name}"
            period = item["current_period_start"], item["current_period_end"]
            found.append(line(subscription, item, charge, period, said))
    return found


def usage(world: World, subscription: Obj, start: int, end: int) -> list[Obj]:
    """What the metered items' meters show from `start` to `end`, each tier a line; of an item that came later, from then on."""
    found = []
    for item in filter(metered, subscription["items"]["data"]):
        meter = world.get("billing.meter", item["price"]["recurring"]["meter"])
        shown = meters.used(world, meter, subscription["customer"], max(start, item["created"]), end)
        name = world.get("product", item["price"]["product"])["name"]
        for charge in charges(item["price"], max(0, rounded(shown))):
            found.append(line(subscription, item, charge, (start, end), f"{charge.quantity} × {name}"))
    return found


def prorations(world: World, subscription: Obj, old: list[Obj], new: list[Obj], when: int) -> list[Obj]:
    """Credit for the rest of the period of the items that were, and the charge for those that are."""
    kept = {each["id"]: each for each in new}
    before = {each["id"]: each for each in old}
    gone = [each for each in old if not _same(each, kept.get(each["id"]))]
    come = [each for each in new if not _same(each, before.get(each["id"]))]
    credit = [_prorated(world, subscription, item, when, -1) for item in gone if not metered(item)]
    return credit + [_prorated(world, subscription, item, when, 1) for item in come if not metered(item)]


def _same(item: Obj, other: Obj | None) -> bool:
    if other is None:
        return False
    return bool(item["price"]["id"] == other["price"]["id"] and item.get("quantity") == other.get("quantity"))


def _prorated(world: World, subscription: Obj, item: Obj, when: int, sign: int) -> Obj:
    start, end = item["current_period_start"], item["current_period_end"]
    share = Decimal(end - when) / Decimal(end - start)
    amount = sign * rounded(share * total(item["price"], item["quantity"]))
    name = world.get("product", item["price"]["product"])["name"]
    said = f"{'Unused' if sign < 0 else 'Remaining'} time on {name}"
    return line(subscription, item, Charge(item["quantity"], None, amount), (when, end), said, proration=True)


def line(
    subscription: Obj, item: Obj, charge: Charge, period: tuple[int, int], description: str, *, proration: bool = False
) -> Obj:
    price = item["price"]
    details = {
        "invoice_item": None,
        "proration": proration,
        "proration_details": {"credited_items": None},
        "subscription": subscription["id"],
        "subscription_item": item["id"],
    }
    kind = "subscription_item_details"
    return {
        "id": new_id("il"),
        "object": "line_item",
        "amount": charge.amount,
        "currency": subscription["currency"],
        "description": description,
        "discount_amounts": [],
        "discountable": not proration,
        "discounts": [],
        "invoice": None,
        "livemode": False,
        "metadata": dict(subscription["metadata"]),
        "parent": {"invoice_item_details": None, kind: details, "type": kind},
        "period": {"start": period[0], "end": period[1]},
        "pretax_credit_amounts": [],
        "pricing": {
            "price_details": {"price": price["id"], "product": price["product"]},
            "type": "price_details",
            "unit_amount_decimal": None if charge.unit is None else f"{charge.unit.normalize():f}",
        },
        "quantity": charge.quantity,
        "quantity_decimal": str(charge.quantity),
        "subscription": subscription["id"],
        "subtotal": charge.amount,
        "taxes": [],
    }
