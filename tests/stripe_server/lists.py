"""Pages of a list, and the expansion of ids into the objects that they name."""

from collections.abc import Callable, Iterable
from typing import Any

from tests.stripe_server.errors import missing, refused
from tests.stripe_server.world import Obj, World, public

COMPARE: dict[str, Callable[[int, int], bool]] = {
    "gt": int.__gt__,
    "gte": int.__ge__,
    "lt": int.__lt__,
    "lte": int.__le__,
}


def page(items: Iterable[Obj], params: Obj, url: str) -> Obj:
    """A page of the items, newest first: `limit` (10), `starting_after`, `ending_before`, `created`."""
    found = [each for each in reversed(list(items)) if _created_within(each, params.get("created"))]
    limit = params.get("limit", 10)
    if not 1 <= limit <= 100:
        raise refused("Invalid integer: must be between 1 and 100", param="limit", code="parameter_invalid_integer")
    if after := params.get("starting_after"):
        found = found[_place(found, after, "starting_after") + 1 :]
    if before := params.get("ending_before"):
        found = found[: _place(found, before, "ending_before")]
        return listed(found[-limit:], url, has_more=len(found) > limit)
    return listed(found[:limit], url, has_more=len(found) > limit)


def listed(data: list[Obj], url: str, *, has_more: bool = False) -> Obj:
    return {"object": "list", "data": data, "has_more": has_more, "url": url}


def _place(found: list[Obj], key: str, param: str) -> int:
    for place, each in enumerate(found):
        if each["id"] == key:
            return place
    raise missing("object", key, param=param, status=400)


def _created_within(obj: Obj, wanted: Any) -> bool:
    if wanted is None or isinstance(wanted, int):
        return wanted is None or obj.get("created") == wanted
    return all(COMPARE[how](obj["created"], bound) for how, bound in wanted.items())


def rendered(world: World, obj: Obj, expand: list[str]) -> Obj:
    """The object as it goes over the wire, with the asked ids replaced by objects."""
    shown = _shown(obj)
    for path in expand:
        _expand(world, shown, path.split("."), path)
    return public(shown)


def _shown(value: Any) -> Any:
    """A copy that still has the server's own fields: some of them are included when they are asked for."""
    if isinstance(value, dict):
        return {key: _shown(each) for key, each in value.items()}
    return [_shown(each) for each in value] if isinstance(value, list) else value


def _expand(world: World, node: Any, path: list[str], whole: str) -> None:
    if isinstance(node, list):
        for each in node:
            _expand(world, each, path, whole)
        return
    name, *rest = path
    if not isinstance(node, dict) or (name not in node and f"_{name}" not in node):
        raise refused(f"This property cannot be expanded ({whole}).", param="expand")
    value = node.get(name, node.get(f"_{name}"))
    if isinstance(value, str) and (found := world.anything(value)) is not None:
        value = _shown(found)
    elif isinstance(value, list):
        value = [_shown(world.anything(each)) if isinstance(each, str) else each for each in value]
    node[name] = value
    if rest and value is not None:
        _expand(world, value, rest, whole)
