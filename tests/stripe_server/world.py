"""All that one Stripe account holds: objects by kind, the events of each change, and the settings of its billing."""

import copy
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.stripe_server.clock import Clock
from tests.stripe_server.errors import missing, not_played

Obj = dict[str, Any]
API_VERSION = "2026-10-28.endive"


@dataclass(slots=True)
class Settings:
    """How the account bills; in Stripe these stand in the dashboard."""

    retry_days: tuple[int, ...] = (3, 5, 7)  # after the first attempt at an invoice
    after_retries: Literal["cancel", "unpaid", "past_due"] = "cancel"
    upcoming_days: int = 7  # between `invoice.upcoming` and the renewal
    last_waits: bool = (
        False  # whether the invoice of a subscription that ends with its period has the hour of grace too
    )


@dataclass(slots=True)
class World:
    clock: Clock
    publish: Callable[[Obj], None] = lambda event: None
    settings: Settings = field(default_factory=Settings)
    tables: dict[str, dict[str, Obj]] = field(default_factory=dict)
    declining: set[str] = field(default_factory=set)  # customers whose cards are refused
    request: Obj = field(default_factory=lambda: {"id": None, "idempotency_key": None})

    @property
    def now(self) -> int:
        return self.clock.now

    def all(self, kind: str) -> list[Obj]:
        """Every object of the kind, oldest first."""
        return list(self.tables.get(kind, {}).values())

    def add(self, obj: Obj) -> Obj:
        self.tables.setdefault(obj["object"], {})[obj["id"]] = obj
        return obj

    def get(self, kind: str, key: str, *, param: str = "") -> Obj:
        """The object, or a 404; a 400 where the id came in the parameter `param`."""
        obj = self.tables.get(kind, {}).get(key)
        if obj is None:
            name = kind.replace("_", " ")
            raise missing(name, key, param=param, status=400) if param else missing(name, key)
        return obj

    def anything(self, key: str) -> Obj | None:
        """The object with this id, of whatever kind."""
        return next((table[key] for table in self.tables.values() if key in table), None)

    def emit(self, kind: str, obj: Obj, previous: Obj | None = None) -> Obj:
        """Note an event with the object as it is now, and hand it to the webhooks."""
        data = {"object": public(obj)} | ({"previous_attributes": previous} if previous else {})
        event = {
            "id": new_id("evt"),
            "object": "event",
            "api_version": API_VERSION,
            "created": self.now,
            "data": data,
            "livemode": False,
            "pending_webhooks": 1,
            "request": dict(self.request),
            "type": kind,
        }
        self.publish(self.add(event))
        return event

    @contextmanager
    def changing(self, obj: Obj, kind: str) -> Iterator[Obj]:
        """Emit `kind` at the end, with the values from before of what has changed; nothing when nothing has."""
        before = public(obj)
        yield obj
        after = public(obj)
        if previous := {key: before.get(key) for key in after if before.get(key) != after[key]}:
            self.emit(kind, obj, previous)


def new_id(prefix: str) -> str:
    return f"{prefix}_1{secrets.token_hex(12)[:23]}"


def public(value: Any) -> Any:
    """A copy of an object as it goes over the wire: names that begin with `_` are the server's own."""
    if isinstance(value, dict):
        return {key: public(each) for key, each in value.items() if not key.startswith("_")}
    return [public(each) for each in value] if isinstance(value, list) else copy.copy(value)


def nulls(names: str) -> Obj:
    return dict.fromkeys(names.split())


PLAYED_AS: dict[str, Any] = {  # what would change who pays what is played in one way only
    "automatic_tax": {"enabled": False},
    "collection_method": "charge_automatically",
    **dict.fromkeys(
        """
        add_invoice_items application_fee_percent billing_schedules billing_thresholds custom_unit_amount days_until_due
        default_tax_rates discounts on_behalf_of pause_collection pending_invoice_item_interval transfer_data
        """.split(),
        "",
    ),
}


def assign(obj: Obj, params: Obj, *, skip: str = "") -> None:
    """Take over parameters that are named as the object's fields; "" unsets, metadata merges, hashes merge.

    What is neither a field nor in `skip` (handled by the caller) is refused as not played.
    """
    for name, value in params.items():
        if name in ("expand", *skip.split()):
            continue
        if name not in obj or value != PLAYED_AS.get(name, value):
            raise not_played(name)
        if name == "metadata":
            obj[name] = merged(obj[name], value)
        elif isinstance(value, dict) and isinstance(obj[name], dict):
            assign(obj[name], value)
        else:
            obj[name] = None if value == "" else value


def merged(metadata: dict[str, str] | None, given: dict[str, str] | Literal[""]) -> dict[str, str]:
    """Metadata after an update: an empty value takes a key away, an empty string takes all."""
    if given == "":
        return {}
    return {key: value for key, value in {**(metadata or {}), **given}.items() if value != ""}
