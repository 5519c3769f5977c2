"""Events: what has happened, for those who missed the webhooks."""

from tests.stripe_server.lists import page
from tests.stripe_server.world import Obj, World


def retrieve(world: World, params: Obj, key: str) -> Obj:
    return world.get("event", key)


def list_all(world: World, params: Obj) -> Obj:
    wanted = params.get("types") or ([params["type"]] if "type" in params else None)
    found = [each for each in world.all("event") if wanted is None or _matches(each["type"], wanted)]
    return page(found, params, "/v1/events")


def _matches(kind: str, wanted: list[str]) -> bool:
    """A type by name, or a group of types as `invoice.*`."""
    return any(kind == each or (each.endswith("*") and kind.startswith(each[:-1])) for each in wanted)
