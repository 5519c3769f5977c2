"""Invoices, as the API reads them."""

from tests.stripe_server.billing import changing, charging, ending
from tests.stripe_server.billing.invoicing import subscription_of
from tests.stripe_server.errors import declined, not_played, refused
from tests.stripe_server.lists import page
from tests.stripe_server.world import Obj, World


def retrieve(world: World, params: Obj, key: str) -> Obj:
    return world.get("invoice", key)


def list_all(world: World, params: Obj) -> Obj:
    found = world.all("invoice")
    for name in ("customer", "status", "collection_method"):
        if name in params:
            found = [each for each in found if each[name] == params[name]]
    if "subscription" in params:
        found = [each for each in found if subscription_of(world, each)["id"] == params["subscription"]]
    return page(found, params, "/v1/invoices")


def list_lines(world: World, params: Obj, key: str) -> Obj:
    lines = world.get("invoice", key)["lines"]["data"]
    return page(lines[::-1], params, f"/v1/invoices/{key}/lines")


def pay(world: World, params: Obj, key: str) -> Obj:
    """Try to collect now."""
    invoice = world.get("invoice", key)
    if invoice["status"] == "paid":
        raise refused("Invoice is already paid", code="invoice_already_paid")
    subscription = subscription_of(world, invoice)
    if invoice["status"] == "draft":
        charging.settle(world, subscription, invoice)
    else:
        charging.attempt(world, subscription, invoice)
    if invoice["status"] != "paid":
        raise declined()
    return invoice


def create_preview(world: World, params: Obj) -> Obj:
    details = params.get("subscription_details", {})
    for name in set(params) - {"customer", "subscription", "subscription_details", "expand"}:
        raise not_played(f"previews with {name}")
    for name in set(details) - {"items", "proration_behavior", "proration_date"}:
        raise not_played(f"previews with subscription_details[{name}]")
    return changing.preview(world, _subscription(world, params), details)


def _subscription(world: World, params: Obj) -> Obj:
    if "subscription" in params:
        return world.get("subscription", params["subscription"], param="subscription")
    for subscription in world.all("subscription"):
        if subscription["customer"] == params.get("customer") and subscription["status"] not in ending.ENDED:
            return subscription
    message = f"No upcoming invoices for customer: {params.get('customer')}"
    raise refused(message, code="invoice_upcoming_none", status=404)
