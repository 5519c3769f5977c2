"""The billing portal: what customers may do there, and the links that lead them in."""

from tests.stripe_server.errors import refused
from tests.stripe_server.lists import page
from tests.stripe_server.objects.customers import living
from tests.stripe_server.world import Obj, World, assign, new_id, nulls


def create_configuration(world: World, params: Obj) -> Obj:
    key = new_id("bpc")
    configuration = {
        "id": key,
        "object": "billing_portal.configuration",
        "active": True,
        **nulls("application default_return_url name"),
        "business_profile": nulls("headline privacy_policy_url terms_of_service_url"),
        "created": world.now,
        "features": _features(),
        "is_default": not world.all("billing_portal.configuration"),
        "livemode": False,
        "login_page": {"enabled": False, "url": None},
        "metadata": {},
        "updated": world.now,
    }
    _assign(world, configuration, params)
    world.emit("billing_portal.configuration.created", world.add(configuration))
    return configuration


def _features() -> Obj:
    return {
        "customer_update": {"allowed_updates": [], "enabled": False},
        "invoice_history": {"enabled": False},
        "payment_method_update": {"enabled": False, "payment_method_configuration": None},
        "subscription_cancel": {
            "cancellation_reason": {"enabled": False, "options": []},
            "enabled": False,
            "mode": "at_period_end",
            "proration_behavior": "none",
        },
        "subscription_update": {
            "billing_cycle_anchor": None,
            "default_allowed_updates": [],
            "enabled": False,
            "_products": [],  # shown when it is asked for
            "proration_behavior": "none",
            "schedule_at_period_end": {"conditions": []},
            "trial_update_behavior": "end_trial",
        },
    }


def _assign(world: World, configuration: Obj, params: Obj) -> None:
    given = {**params, "features": {name: dict(value) for name, value in params.get("features", {}).items()}}
    products = given["features"].get("subscription_update", {}).pop("products", None) or []
    for number, product in enumerate(products):
        for price in product.get("prices", []):
            world.get("price", price, param=f"features[subscription_update][products][{number}][prices]")
    assign(configuration, given)
    if products:
        configuration["features"]["subscription_update"]["_products"] = products
    if configuration["login_page"]["enabled"]:
        configuration["login_page"]["url"] = f"https://billing.stripe.com/p/login/test_{configuration['id'][4:]}"


def update_configuration(world: World, params: Obj, key: str) -> Obj:
    configuration = world.get("billing_portal.configuration", key)
    with world.changing(configuration, "billing_portal.configuration.updated"):
        _assign(world, configuration, params)
        configuration["updated"] = world.now
    return configuration


def retrieve_configuration(world: World, params: Obj, key: str) -> Obj:
    return world.get("billing_portal.configuration", key)


def list_configurations(world: World, params: Obj) -> Obj:
    found = world.all("billing_portal.configuration")
    for name in ("active", "is_default"):
        if name in params:
            found = [each for each in found if each[name] == params[name]]
    return page(found, params, "/v1/billing_portal/configurations")


def create_session(world: World, params: Obj) -> Obj:
    customer = living(world, params["customer"], param="customer")
    configuration = _configuration(world, params.get("configuration"))
    key = new_id("bps")
    session = {
        "id": key,
        "object": "billing_portal.session",
        "configuration": configuration["id"],
        "created": world.now,
        "customer": customer["id"],
        **nulls("customer_account flow locale on_behalf_of"),
        "livemode": False,
        "return_url": params.get("return_url", configuration["default_return_url"]),
        "url": f"https://billing.stripe.com/p/session/test_{key[4:]}",
    }
    assign(session, params, skip="flow_data")
    world.emit("billing_portal.session.created", world.add(session))
    return session


def _configuration(world: World, key: str | None) -> Obj:
    if key is not None:
        return world.get("billing_portal.configuration", key, param="configuration")
    for configuration in world.all("billing_portal.configuration"):
        if configuration["is_default"]:
            return configuration
    message = "No configuration provided and your test mode default configuration has not been created."
    raise refused(message, param="configuration")
