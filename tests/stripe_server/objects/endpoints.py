"""Webhook endpoints as the API keeps them. Where events really go is a control of the server: `send_webhooks_to`."""

from tests.stripe_server.errors import refused
from tests.stripe_server.lists import page
from tests.stripe_server.world import Obj, World, assign, new_id, nulls


def create(world: World, params: Obj) -> Obj:
    """The answer alone has the signing secret."""
    _check(params)
    endpoint = {
        "id": new_id("we"),
        "object": "webhook_endpoint",
        **nulls("api_version application description"),
        "created": world.now,
        "enabled_events": [],
        "livemode": False,
        "metadata": {},
        "status": "enabled",
        "url": "",
    }
    assign(endpoint, params)
    world.add(endpoint)
    return {**endpoint, "secret": new_id("whsec")}


def list_all(world: World, params: Obj) -> Obj:
    return page(world.all("webhook_endpoint"), params, "/v1/webhook_endpoints")


def retrieve(world: World, params: Obj, key: str) -> Obj:
    return world.get("webhook_endpoint", key)


def update(world: World, params: Obj, key: str) -> Obj:
    endpoint = world.get("webhook_endpoint", key)
    _check(params)
    assign(endpoint, params)
    return endpoint


def _check(params: Obj) -> None:
    if not str(params.get("url", "https://")).startswith(("http://", "https://")):
        raise refused("Invalid URL: An explicit scheme (such as https) must be provided.", param="url")
