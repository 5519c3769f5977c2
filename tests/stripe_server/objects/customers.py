"""Customers, and the cards that they pay with."""

from tests.stripe_server.billing import ending
from tests.stripe_server.errors import refused
from tests.stripe_server.lists import page
from tests.stripe_server.world import Obj, World, assign, new_id, nulls

ADDRESS = "city country line1 line2 postal_code state"


def create(world: World, params: Obj) -> Obj:
    customer = world.add(_new(world))
    assign(customer, params)
    world.emit("customer.created", customer)
    return customer


def _new(world: World) -> Obj:
    return {
        "id": (key := new_id("cus")),
        "object": "customer",
        **nulls("address currency default_source description discount email name phone shipping test_clock"),
        "balance": 0,
        "created": world.now,
        "delinquent": False,
        "invoice_prefix": key[-8:].upper(),
        "invoice_settings": nulls("custom_fields default_payment_method footer rendering_options"),
        "livemode": False,
        "metadata": {},
        "next_invoice_sequence": 1,
        "preferred_locales": [],
        "tax_exempt": "none",
    }


def living(world: World, key: str, *, param: str = "") -> Obj:
    """The customer, unless deleted; a deleted one exists for retrieval alone."""
    customer = world.get("customer", key, param=param)
    if customer.get("deleted"):
        raise refused(f"No such customer: '{key}'", param=param or "id", code="resource_missing", status=404)
    return customer


def retrieve(world: World, params: Obj, key: str) -> Obj:
    return world.get("customer", key)


def update(world: World, params: Obj, key: str) -> Obj:
    with world.changing(living(world, key), "customer.updated") as customer:
        if method := params.get("invoice_settings", {}).get("default_payment_method"):
            world.get("payment_method", method, param="invoice_settings[default_payment_method]")
        assign(customer, params)
    return customer


def delete(world: World, params: Obj, key: str) -> Obj:
    """Delete for good; what the customer subscribes to is canceled at once."""
    customer = living(world, key)
    for subscription in world.all("subscription"):
        if subscription["customer"] == key and subscription["status"] not in ending.ENDED:
            ending.end(world, subscription, reason="cancellation_requested")
    world.emit("customer.deleted", customer)
    world.tables["customer"][key] = {"id": key, "object": "customer", "deleted": True}
    return world.tables["customer"][key]


def list_all(world: World, params: Obj) -> Obj:
    found = [each for each in world.all("customer") if not each.get("deleted")]
    if "email" in params:
        found = [each for each in found if each["email"] == params["email"]]
    return page(found, params, "/v1/customers")


def attach_card(world: World, customer: Obj) -> Obj:
    """A card of the customer's, as Checkout or the portal takes it."""
    address = nulls(ADDRESS)
    method = {
        "id": new_id("pm"),
        "object": "payment_method",
        "allow_redisplay": "limited",
        "billing_details": {"address": address, **nulls("name phone tax_id"), "email": customer["email"]},
        "card": _card(),
        "created": world.now,
        "customer": customer["id"],
        "customer_account": None,
        "livemode": False,
        "metadata": {},
        "type": "card",
    }
    world.emit("payment_method.attached", world.add(method))
    return method


def _card() -> Obj:
    return {
        "brand": "visa",
        "checks": {"address_line1_check": None, "address_postal_code_check": None, "cvc_check": "pass"},
        "country": "US",
        "display_brand": "visa",
        "exp_month": 12,
        "exp_year": 2040,
        "fingerprint": "Xt5EWLLDS7FJjR1c",
        "funding": "credit",
        "generated_from": None,
        "last4": "4242",
        "networks": {"available": ["visa"], "preferred": None},
        "regulated_status": "unregulated",
        "three_d_secure_usage": {"supported": True},
        "wallet": None,
    }


def retrieve_method(world: World, params: Obj, key: str) -> Obj:
    return world.get("payment_method", key)


def list_methods(world: World, params: Obj) -> Obj:
    found = [each for each in world.all("payment_method") if each["customer"] == params.get("customer")]
    return page(found, params, "/v1/payment_methods")
