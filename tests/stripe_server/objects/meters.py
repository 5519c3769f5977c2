"""Meters: what customers have used, told event by event, and summed up for a period."""

from decimal import Decimal, InvalidOperation

from tests.stripe_server.clock import DAY
from tests.stripe_server.errors import StripeError, refused
from tests.stripe_server.lists import listed, page
from tests.stripe_server.world import Obj, World, assign, new_id

PAST, AHEAD = 35 * DAY, 300  # seconds within which an event's time may lie
UNIQUE = DAY  # an identifier is remembered for at least so long
WINDOWS = {"hour": 3600, "day": DAY}


def create(world: World, params: Obj) -> Obj:
    name = params["event_name"]
    if any(each["event_name"] == name and each["status"] == "active" for each in world.all("billing.meter")):
        message = f"There is already an active meter for event name `{name}`."
        raise refused(message, param="event_name", code="resource_already_exists")
    meter = {
        "id": new_id("mtr_test"),
        "object": "billing.meter",
        "created": world.now,
        "customer_mapping": {"event_payload_key": "stripe_customer_id", "type": "by_id"},
        "default_aggregation": {"formula": "sum"},
        "display_name": params["display_name"],
        "event_name": name,
        "event_time_window": None,
        "livemode": False,
        "status": "active",
        "status_transitions": {"deactivated_at": None},
        "updated": world.now,
        "value_settings": {"event_payload_key": "value"},
    }
    assign(meter, params)
    world.emit("billing.meter.created", world.add(meter))
    return meter


def retrieve(world: World, params: Obj, key: str) -> Obj:
    return world.get("billing.meter", key)


def update(world: World, params: Obj, key: str) -> Obj:
    with world.changing(world.get("billing.meter", key), "billing.meter.updated") as meter:
        assign(meter, params)
    return meter


def list_all(world: World, params: Obj) -> Obj:
    found = [each for each in world.all("billing.meter") if each["status"] == params.get("status", each["status"])]
    return page(found, params, "/v1/billing/meters")


def record(world: World, params: Obj) -> Obj:
    """Take one event of use; refuses what is known already, what lies too far from now, and what no meter asks for."""
    meter = _meter_for(world, params["event_name"])
    when = params.get("timestamp", world.now)
    _check_time(world, when)
    identifier = params.get("identifier") or new_id("mev")
    _check_new(world, identifier)
    _check_payload(world, meter, params["payload"])
    event = {
        "id": new_id("mev"),  # the table's key; the wire has none
        "object": "billing.meter_event",
        "created": world.now,
        "event_name": params["event_name"],
        "identifier": identifier,
        "livemode": False,
        "payload": params["payload"],
        "timestamp": when,
    }
    world.add(event)
    return {name: value for name, value in event.items() if name != "id"}


def _meter_for(world: World, name: str) -> Obj:
    for meter in world.all("billing.meter"):
        if meter["event_name"] == name and meter["status"] == "active":
            return meter
    raise refused(f"No active meter found for event name {name}.", param="event_name", code="resource_missing")


def _check_time(world: World, when: int) -> None:
    earliest, latest = world.now - PAST, world.now + AHEAD
    if when < earliest:
        message = "The event timestamp cannot be more than 35 days in past. "
        raise refused(message + f"Expected a timestamp greater than or equal to {earliest}.", param="timestamp")
    if when > latest:
        message = "The event timestamp cannot be more than 5 minutes in the future. "
        raise refused(message + f"Expected a timestamp less than or equal to {latest}.", param="timestamp")


def _check_new(world: World, identifier: str) -> None:
    """Stripe gives this refusal no code; clients go by the message."""
    for event in world.all("billing.meter_event"):
        if event["identifier"] == identifier and event["created"] > world.now - UNIQUE:
            kind = "invalid_request_error"
            raise StripeError(400, kind, f"An event already exists with identifier {identifier}.")


def _check_payload(world: World, meter: Obj, payload: Obj) -> None:
    customer, value = _keys(meter)
    for key in (customer, value):
        if key not in payload and not (key == value and meter["default_aggregation"]["formula"] == "count"):
            raise refused(f"Missing required payload key: {key}.", param=f"payload[{key}]", code="parameter_missing")
    world.get("customer", payload[customer], param=f"payload[{customer}]")
    try:
        Decimal(payload.get(value, "1"))
    except InvalidOperation:
        raise refused(f"Invalid value: {payload[value]} is no number.", param=f"payload[{value}]") from None


def _keys(meter: Obj) -> tuple[str, str]:
    return meter["customer_mapping"]["event_payload_key"], meter["value_settings"]["event_payload_key"]


def adjust(world: World, params: Obj) -> Obj:
    """Cancel an event of the last 24 hours."""
    identifier = params.get("cancel", {}).get("identifier", "")
    event = next((each for each in world.all("billing.meter_event") if each["identifier"] == identifier), None)
    if event is None or event["event_name"] != params["event_name"]:
        raise refused(f"No meter event found with identifier {identifier}.", code="resource_missing", status=404)
    if event["created"] < world.now - DAY:
        raise refused("Meter events can only be cancelled within 24 hours of Stripe receiving them.", param="cancel")
    event["_cancelled"] = True
    return {
        "object": "billing.meter_event_adjustment",
        "cancel": {"identifier": identifier},
        "event_name": params["event_name"],
        "livemode": False,
        "status": "pending",
        "type": params["type"],
    }


def used(world: World, meter: Obj, customer: str, start: int, end: int) -> Decimal:
    """What the meter shows for the customer's events with a time from `start` to before `end`."""
    whose, amount = _keys(meter)
    events = [
        each
        for each in world.all("billing.meter_event")
        if each["event_name"] == meter["event_name"] and each["payload"][whose] == customer
        if start <= each["timestamp"] < end and not each.get("_cancelled")
    ]
    match meter["default_aggregation"]["formula"]:
        case "count":
            return Decimal(len(events))
        case "last":
            latest = max(events, key=lambda each: each["timestamp"], default=None)
            return Decimal(latest["payload"][amount]) if latest else Decimal(0)
        case _:
            return sum((Decimal(each["payload"][amount]) for each in events), Decimal(0))


def summaries(world: World, params: Obj, key: str) -> Obj:
    """Usage from `start_time` to `end_time`, whole or in hours or days; windows without events are left out."""
    meter = world.get("billing.meter", key)
    start, end = params["start_time"], params["end_time"]
    if start % 60 or end % 60 or end <= start:
        raise refused("start_time and end_time must be aligned with minute boundaries, and grow.", param="start_time")
    step = WINDOWS.get(params.get("value_grouping_window", ""), end - start)
    data = []
    for begin in range(start, end, step):
        value = used(world, meter, params["customer"], begin, begin + step)
        if value or step == end - start:
            data.append(_summary(meter, value, begin, begin + step))
    return listed(data[::-1], f"/v1/billing/meters/{key}/event_summaries")


def _summary(meter: Obj, value: Decimal, start: int, end: int) -> Obj:
    return {
        "id": new_id("mtrusg_test"),
        "object": "billing.meter_event_summary",
        "aggregated_value": int(value) if value == int(value) else float(value),
        "end_time": end,
        "livemode": False,
        "meter": meter["id"],
        "start_time": start,
    }
