"""Products and their prices."""

from decimal import Decimal
from typing import Any

from tests.stripe_server.errors import refused
from tests.stripe_server.lists import page
from tests.stripe_server.world import Obj, World, assign, new_id, nulls

CURRENCIES = frozenset("usd eur gbp jpy krw chf cad aud sek nok dkk pln czk huf inr brl mxn nzd sgd hkd".split())


def create_product(world: World, params: Obj) -> Obj:
    key = params.get("id") or new_id("prod")
    if key in world.tables.get("product", {}):
        raise refused("Product already exists.", param="id", code="resource_already_exists")
    product = {
        "id": key,
        "object": "product",
        "active": True,
        "created": world.now,
        **nulls("default_price description package_dimensions shippable statement_descriptor tax_code unit_label url"),
        "images": [],
        "livemode": False,
        "marketing_features": [],
        "metadata": {},
        "name": params["name"],
        "type": "service",
        "updated": world.now,
    }
    assign(product, params)
    world.emit("product.created", world.add(product))
    return product


def retrieve_product(world: World, params: Obj, key: str) -> Obj:
    return world.get("product", key)


def update_product(world: World, params: Obj, key: str) -> Obj:
    with world.changing(world.get("product", key), "product.updated") as product:
        if "default_price" in params:
            world.get("price", params["default_price"], param="default_price")
        assign(product, params)
        product["updated"] = world.now
    return product


def list_products(world: World, params: Obj) -> Obj:
    found = world.all("product")
    if "active" in params:
        found = [each for each in found if each["active"] == params["active"]]
    if "ids" in params:
        found = [each for each in found if each["id"] in params["ids"]]
    return page(found, params, "/v1/products")


def create_price(world: World, params: Obj) -> Obj:
    product = params.get("product") or create_product(world, params.get("product_data", {}))["id"]
    world.get("product", product, param="product")
    _check_amount(params)
    _take_lookup_key(world, params)
    price = _price(world, params, product)
    assign(price, params, skip="product_data recurring tiers transfer_lookup_key unit_amount unit_amount_decimal")
    world.emit("price.created", world.add(price))
    return price


def _price(world: World, params: Obj, product: str) -> Obj:
    amount = params.get("unit_amount_decimal", params.get("unit_amount"))
    return {
        "id": new_id("price"),
        "object": "price",
        "active": True,
        "billing_scheme": "per_unit",
        "created": world.now,
        "currency": params["currency"],
        **nulls("custom_unit_amount lookup_key nickname tiers_mode transform_quantity"),
        "livemode": False,
        "metadata": {},
        "product": product,
        "recurring": _recurring(world, params["recurring"]) if "recurring" in params else None,
        "tax_behavior": "unspecified",
        "type": "recurring" if "recurring" in params else "one_time",
        **_amount(amount),
        "_tiers": [_tier(each) for each in params.get("tiers", [])],
    }


def _amount(value: Any, name: str = "unit_amount") -> Obj:
    """`unit_amount` is null where the decimal one is no whole number of the smallest coin."""
    if value is None:
        return {name: None, f"{name}_decimal": None}
    exact = Decimal(value)
    whole = int(exact) if exact == exact.to_integral_value() else None
    return {name: whole, f"{name}_decimal": f"{exact.normalize():f}"}


def _tier(given: Obj) -> Obj:
    unit = given.get("unit_amount_decimal", given.get("unit_amount"))
    flat = given.get("flat_amount_decimal", given.get("flat_amount"))
    up_to = None if given["up_to"] == "inf" else given["up_to"]
    return {**_amount(flat, "flat_amount"), **_amount(unit), "up_to": up_to}


def _recurring(world: World, given: Obj) -> Obj:
    usage, meter = given.get("usage_type", "licensed"), given.get("meter")
    if usage == "metered" and meter is None:
        raise refused("Prices with usage_type=metered must be backed by meters.", param="recurring[meter]")
    if meter is not None:
        if usage != "metered":
            message = "recurring[meter] can only be set if recurring[usage_type] is metered"
            raise refused(message, param="recurring[meter]")
        world.get("billing.meter", meter, param="recurring[meter]")
    count = given.get("interval_count", 1)
    return {
        "interval": given["interval"],
        "interval_count": count,
        "meter": meter,
        "trial_period_days": given.get("trial_period_days"),
        "usage_type": usage,
    }


def _check_amount(params: Obj) -> None:
    tiered = params.get("billing_scheme") == "tiered"
    given = [name for name in ("unit_amount", "unit_amount_decimal") if name in params]
    if params["currency"] not in CURRENCIES:
        raise refused(f"Invalid currency: {params['currency']}.", param="currency")
    if tiered and ("transform_quantity" in params or given):
        wrong = given[0] if given else "transform_quantity"
        raise refused(f"You cannot set `{wrong}` when `billing_scheme` is `tiered`.", param=wrong)
    if tiered and ("tiers_mode" not in params or not _well_tiered(params.get("tiers", []))):
        message = "Tiered prices need `tiers_mode`, and `tiers` in growing order of which the last goes up to `inf`."
        raise refused(message, param="tiers")
    if not tiered and len(given) != 1:
        message = "You must provide exactly one of `unit_amount`, `unit_amount_decimal`, or `custom_unit_amount`."
        raise refused(message, param="unit_amount", code="parameter_missing")


def _well_tiered(tiers: list[Obj]) -> bool:
    *bounded, last = [each["up_to"] for each in tiers] or [None]
    return last == "inf" and "inf" not in bounded and bounded == sorted(set(bounded))


def _take_lookup_key(world: World, params: Obj) -> None:
    """It is of one price, be that archived or not."""
    key = params.get("lookup_key")
    holders = [each for each in world.all("price") if key and each["lookup_key"] == key]
    if holders and not params.get("transfer_lookup_key"):
        message = f"A price (`{holders[0]['id']}`) already uses that lookup key."
        raise refused(message, param="lookup_key", code="resource_already_exists")
    for holder in holders:
        with world.changing(holder, "price.updated"):
            holder["lookup_key"] = None


def retrieve_price(world: World, params: Obj, key: str) -> Obj:
    return world.get("price", key)


def update_price(world: World, params: Obj, key: str) -> Obj:
    price = world.get("price", key)
    if params.get("lookup_key") != price["lookup_key"]:
        _take_lookup_key(world, params)
    with world.changing(price, "price.updated"):
        assign(price, params, skip="transfer_lookup_key")
    return price


def list_prices(world: World, params: Obj) -> Obj:
    found = world.all("price")
    for name in ("active", "currency", "product", "type"):
        if name in params:
            found = [each for each in found if each[name] == params[name]]
    if "lookup_keys" in params:
        found = [each for each in found if each["lookup_key"] in params["lookup_keys"]]
    for name, value in params.get("recurring", {}).items():
        found = [each for each in found if each["recurring"] and each["recurring"][name] == value]
    return page(found, params, "/v1/prices")


def plan_of(price: Obj) -> Obj:
    """The older form of a recurring price, that subscription items still carry."""
    same = "id active billing_scheme created currency livemode metadata nickname product tiers_mode"
    recurring = "interval interval_count meter trial_period_days usage_type"
    transform = price["transform_quantity"]
    return {
        "object": "plan",
        **{name: price[name] for name in same.split()},
        **{name: price["recurring"][name] for name in recurring.split()},
        "amount": price["unit_amount"],
        "amount_decimal": price["unit_amount_decimal"],
        "transform_usage": dict(transform) if transform else None,
    }
