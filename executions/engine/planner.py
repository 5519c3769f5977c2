"""Which messages follow from which: the rules of delivery, without a database and without a clock.

One `Plan` serves one scope: the execution's own run, or what lies behind one `ctx.call`. The same plan is driven by
steps as they finish and, when an execution resumes, by the steps that are on record: since keys are derived from where
a message comes from, both give the same deliveries.
"""

from collections import Counter
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from flows.blocks.base import Arrival
from flows.organism.graph import reachable_from
from flows.organism.spec import Listener, Organism


def derive_key(*parts: str) -> str:
    """A key for a delivery, step or scope from what it follows from: 24 hex characters (96 bits)."""
    return blake2b("/".join(parts).encode(), digest_size=12).hexdigest()


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message for one listener."""

    key: str
    listener: str
    payload: Any
    sender: str | None = None
    parents: tuple[str, ...] = ()
    inherits: bool = False  # the payload is the only parent's output, unchanged


@dataclass
class Plan:
    organism: Organism
    scope: str = ""  # "" for the execution's own run
    alone: bool = False  # a test of one listener: its output goes nowhere
    in_flight: dict[str, Delivery] = field(default_factory=dict)
    collected: dict[str, list[tuple[str, Arrival]]] = field(default_factory=dict)  # by merge: (sender's key, arrival)
    rounds: Counter[str] = field(default_factory=Counter)  # how often each merge has fired
    outputs: list[tuple[str, Any]] = field(default_factory=list)  # what output listeners gave
    leaves: list[tuple[str, Any]] = field(default_factory=list)  # what listeners without onward peers gave

    def start(self, listener: str, payload: Any, *, caller: tuple[str, str] | None = None) -> list[Delivery]:
        """The first message of the scope; `caller` is (listener, step key) of the block that called it."""
        sender, parent = caller or (None, "")
        self._send(listener, payload, sender=sender, parent=parent, key=derive_key(self.scope, parent, listener))
        return self._fire_merges(taking=self._take_sent())

    def finished(self, delivery: Delivery, value: Any, to: tuple[str, ...]) -> list[Delivery]:
        """What follows when a block has given `value` to the listeners `to`."""
        del self.in_flight[delivery.key]
        listener = self.organism.listeners[delivery.listener]
        if listener.block.name == "blox.output":
            self.outputs.append((listener.name, value))
        elif not listener.onward or self.alone:
            self.leaves.append((listener.name, value))
        for peer in () if self.alone else to:
            self._send(peer, value, sender=listener.name, parent=delivery.key, inherits=True)
        return self._fire_merges(taking=self._take_sent())

    def failed(self, delivery: Delivery, error: dict[str, Any], on_error: str) -> list[Delivery]:
        """What follows when a block has failed for good and its listener names an `on_error`."""
        del self.in_flight[delivery.key]
        self._send(on_error, error, sender=delivery.listener, parent=delivery.key)
        return self._fire_merges(taking=self._take_sent())

    @property
    def result(self) -> Any:
        """What the scope came to: one result as it is, several as an object by listener."""
        has_outputs = any(listener.block.name == "blox.output" for listener in self.organism.listeners.values())
        in_own_run = self.scope == "" and not self.alone
        results = self.outputs or ([] if has_outputs and in_own_run else self.leaves)
        if len(results) <= 1:
            return results[0][1] if results else None
        by_listener: dict[str, list[Any]] = {}
        for name, value in results:
            by_listener.setdefault(name, []).append(value)
        return {name: values[0] if len(values) == 1 else values for name, values in by_listener.items()}

    def _send(
        self, to: str, payload: Any, *, sender: str | None, parent: str, key: str | None = None, inherits: bool = False
    ) -> None:
        if self.organism.listeners[to].block.is_merge():
            self.collected.setdefault(to, []).append((parent, Arrival(sender or "", payload)))
            return
        key = key or derive_key(parent, to)
        parents = (parent,) if parent else ()
        self._sent.append(Delivery(key, to, payload, sender, parents, inherits))

    def __post_init__(self) -> None:
        self._sent: list[Delivery] = []

    def _take_sent(self) -> list[Delivery]:
        sent, self._sent = self._sent, []
        self.in_flight.update((delivery.key, delivery) for delivery in sent)
        return sent

    def _fire_merges(self, *, taking: list[Delivery]) -> list[Delivery]:
        """`taking`, and the merges that nothing still under way can reach.

        Where merges wait only for each other, the first in the file fires.
        """
        waiting = [name for name in self.organism.listeners if name in self.collected]
        ready = [name for name in waiting if not self._can_be_reached(name, waiting)]
        if waiting and not ready and not self.in_flight:
            ready = waiting[:1]
        return taking + [self._fire(name) for name in ready]

    def _can_be_reached(self, merge: str, waiting: list[str]) -> bool:
        others = [name for name in waiting if name != merge]
        under_way = [delivery.listener for delivery in self.in_flight.values()]
        return any(merge in reachable_from(self.organism, name) for name in (*others, *under_way))

    def _fire(self, merge: str) -> Delivery:
        arrivals = self.collected.pop(merge)
        self.rounds[merge] += 1
        key = derive_key(self.scope, "merge", merge, str(self.rounds[merge]))
        parents = tuple(parent for parent, _ in arrivals if parent)
        senders = {arrival.sender for _, arrival in arrivals}
        sender = senders.pop() if len(senders) == 1 else None
        delivery = Delivery(key, merge, [arrival for _, arrival in arrivals], sender or None, parents)
        self.in_flight[key] = delivery
        return delivery


def destinations(listener: Listener, chosen: tuple[str, ...] | None) -> tuple[str, ...]:
    """Where an output goes: to the peers that the block chose, else to all onward ones.

    Raises `ValueError` for a choice that is not among them: blocks come from other packages too.
    """
    if chosen is None:
        return listener.onward
    unknown = [name for name in chosen if name not in listener.peers and name not in listener.next]
    if unknown:
        raise ValueError(f"chose {', '.join(unknown)}, which is not among its peers")
    return tuple(dict.fromkeys(chosen))
