"""Rules of the graph that listeners make. Pure: names and edges in, names out."""

from collections.abc import Iterable, Mapping
from typing import Any

from flows.organism.spec import Listener, Organism


def reachable_from(organism: Organism, name: str) -> frozenset[str]:
    """The listeners that a message at `name` can still lead to, itself only where a loop leads back.

    Messages go through `peers`, `next` and `on_error`. What a block only calls (an item of `for_each`, an agent's tools) runs
    in a scope of its own and sends nothing on from there. Kept by the organism, which never changes.
    """
    known = organism.reaches.get(name)
    if known is None:
        known = closure(name, {listener.name: message_targets(listener) for listener in organism.listeners.values()})
        organism.reaches[name] = known
    return known


def message_targets(listener: Listener) -> tuple[str, ...]:
    return (*listener.onward, *((listener.on_error,) if listener.on_error else ()))


def closure(start: str, targets: Mapping[str, Iterable[str]]) -> frozenset[str]:
    """Every name that can be reached from `start` in one or more moves."""
    reached: set[str] = set()
    pending = list(targets.get(start, ()))
    while pending:
        name = pending.pop()
        if name not in reached:
            reached.add(name)
            pending.extend(targets.get(name, ()))
    return frozenset(reached)


def node(name: str, *, handler: str | None, title: str, description: str, entry: bool) -> dict[str, Any]:
    """A listener as the canvas draws it."""
    return {"id": name, "handler": handler, "title": title, "description": description, "entry": entry}


def edge(source: str, target: str, kind: str) -> dict[str, Any]:
    """A connection as the canvas draws it; `kind` is peer, tool, next or on_error."""
    return {"id": f"{source}:{kind}:{target}", "source": source, "target": target, "kind": kind}
