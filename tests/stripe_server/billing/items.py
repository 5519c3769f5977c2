"""The items of a subscription, and what a change in the API's terms makes of them."""

from tests.stripe_server.billing import lines
from tests.stripe_server.billing.periods import period_of
from tests.stripe_server.errors import not_played, refused
from tests.stripe_server.objects import catalogue
from tests.stripe_server.world import Obj, World, new_id

FIELDS = {"id", "price", "quantity", "deleted", "metadata"}


def changed_items(world: World, subscription: Obj, wanted: list[Obj]) -> list[Obj]:
    """The items as they would be: one with an `id` is swapped or `deleted`, one without is added. Changes nothing."""
    items = {each["id"]: {**each} for each in subscription["items"]["data"]}
    for number, given in enumerate(wanted):
        _check_given(given, items, number)
        if given.get("deleted"):
            del items[given["id"]]
            continue
        item = items.get(given.get("id", "")) or _new_item(world, subscription)
        items[item["id"]] = _counted(_priced(world, item, given, number), given, number)
    _check_together(list(items.values()))
    return list(items.values())


def _check_given(given: Obj, items: dict[str, Obj], number: int) -> None:
    at = f"items[{number}]"
    for name in given.keys() - FIELDS:
        raise not_played(f"{at}[{name}]")
    if "id" in given and given["id"] not in items:
        raise refused(f"No such subscription item: '{given['id']}'", param=f"{at}[id]", code="resource_missing")
    if "id" not in given and "price" not in given:
        raise refused(f"Missing required param: {at}[price].", param=f"{at}[price]", code="parameter_missing")


def _priced(world: World, item: Obj, given: Obj, number: int) -> Obj:
    if "price" not in given:
        return item
    price = world.get("price", given["price"], param=f"items[{number}][price]")
    _check_price(price, number)
    return {**item, "price": price, "plan": catalogue.plan_of(price)}  # the price itself: it is shown as it is now


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
    if lines.metered(item):
        if "quantity" in given:
            message = "Quantity should not be specified where usage_type is metered."
            raise refused(message, param=f"items[{number}][quantity]")
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
