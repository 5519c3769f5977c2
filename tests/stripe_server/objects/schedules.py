"""Schedules: what a subscription will turn into, phase by phase. They are made from a running subscription."""

from tests.stripe_server.billing import changing, charging, ending, periods
from tests.stripe_server.billing.items import changed_items
from tests.stripe_server.clock import after_periods
from tests.stripe_server.errors import not_played, refused
from tests.stripe_server.lists import page
from tests.stripe_server.objects.catalogue import plan_of
from tests.stripe_server.world import Obj, World, assign, new_id, nulls

UPDATED = "subscription_schedule.updated"


def create(world: World, params: Obj) -> Obj:
    if "from_subscription" not in params:
        raise not_played("schedules that make their own subscription")
    for name in set(params) - {"from_subscription", "expand", "metadata"}:
        raise refused(f"You cannot set `{name}` if `from_subscription` is set.", param=name)
    subscription = world.get("subscription", params["from_subscription"], param="from_subscription")
    if subscription["schedule"] or subscription["status"] in ending.ENDED:
        message = "You cannot migrate a subscription that is already attached to a schedule, or canceled."
        raise refused(message, param="from_subscription")
    if subscription["cancel_at"] or subscription["status"] not in ("trialing", "active", "past_due"):
        raise not_played("a schedule of a subscription that is to end, or that is not under way")
    schedule = world.add(_new(world, subscription))
    world.emit("subscription_schedule.created", schedule)
    with world.changing(subscription, "customer.subscription.updated"):
        subscription["schedule"] = schedule["id"]
    return schedule


def _new(world: World, subscription: Obj) -> Obj:
    start, end = periods.period_of(subscription)
    items = [_phase_item(world, _as_given(each), 0) for each in subscription["items"]["data"]]
    return {
        "id": new_id("sub_sched"),
        "object": "subscription_schedule",
        **nulls("application canceled_at completed_at customer_account released_at released_subscription test_clock"),
        "billing_mode": {"flexible": {"proration_discounts": "included"}, "type": "flexible"},
        "created": world.now,
        "current_phase": {"end_date": end, "start_date": start},
        "customer": subscription["customer"],
        "default_settings": _default_settings(),
        "end_behavior": "release",
        "livemode": False,
        "metadata": {},
        "phases": [_phase(subscription, items, start, end)],
        "status": "active",
        "subscription": subscription["id"],
    }


def _default_settings() -> Obj:
    return {
        **nulls(
            "application_fee_percent billing_thresholds default_payment_method description on_behalf_of transfer_data"
        ),
        "automatic_tax": {"disabled_reason": None, "enabled": False, "liability": None},
        "billing_cycle_anchor": "automatic",
        "collection_method": "charge_automatically",
        "invoice_settings": {
            **nulls("account_tax_ids custom_fields days_until_due description footer"),
            "issuer": {"type": "self"},
        },
    }


def _phase(subscription: Obj, items: list[Obj], start: int, end: int) -> Obj:
    empty = """
        application_fee_percent billing_cycle_anchor billing_thresholds collection_method default_payment_method
        description invoice_settings on_behalf_of transfer_data
    """
    return {
        **nulls(empty),
        "add_invoice_items": [],
        "currency": subscription["currency"],
        "default_tax_rates": [],
        "discounts": [],
        "end_date": end,
        "items": items,
        "metadata": {},
        "proration_behavior": "create_prorations",
        "start_date": start,
        "trial_end": subscription["trial_end"] if start < (subscription["trial_end"] or 0) else None,
    }


def follow(world: World, subscription: Obj) -> None:
    """The subscription was given other prices itself: the phase under way has them too, those to come stay."""
    schedule = world.get("subscription_schedule", subscription["schedule"])
    with world.changing(schedule, UPDATED):
        phase = _under_way(schedule)
        phase["items"] = [_phase_item(world, _as_given(each), 0) for each in subscription["items"]["data"]]


def _under_way(schedule: Obj) -> Obj:
    now = schedule["current_phase"]["start_date"]
    return next(phase for phase in schedule["phases"] if phase["start_date"] == now)


def _as_given(item: Obj) -> Obj:
    return {"price": item["price"]["id"]} | ({"quantity": item["quantity"]} if "quantity" in item else {})


def _phase_item(world: World, given: Obj, number: int) -> Obj:
    for name in given.keys() - {"price", "quantity", "metadata"}:
        raise not_played(f"phases[{number}][items][{name}]")
    if "price" not in given:
        raise refused("Missing required param: price.", param=f"phases[{number}][items]", code="parameter_missing")
    price = world.get("price", given["price"], param=f"phases[{number}][items][0][price]")
    metered = price["recurring"]["usage_type"] == "metered"
    item = {
        "billing_thresholds": None,
        "discounts": [],
        "metadata": given.get("metadata", {}),
        "plan": plan_of(price)["id"],
        "price": price["id"],
        "tax_rates": [],
    }
    return item if metered else item | {"quantity": given.get("quantity", 1)}


def retrieve(world: World, params: Obj, key: str) -> Obj:
    return world.get("subscription_schedule", key)


def list_all(world: World, params: Obj) -> Obj:
    found = world.all("subscription_schedule")
    if "customer" in params:
        found = [each for each in found if each["customer"] == params["customer"]]
    return page(found, params, "/v1/subscription_schedules")


def _active(world: World, key: str) -> Obj:
    schedule = world.get("subscription_schedule", key)
    if schedule["status"] != "active":
        message = f"You cannot update a subscription schedule that is currently in the `{schedule['status']}` status. "
        raise refused(message + "It must be in the `not_started` or `active` status.", param="schedule")
    return schedule


def update(world: World, params: Obj, key: str) -> Obj:
    """The phases are replaced; the one under way stays, with its start, and may get another end."""
    schedule = _active(world, key)
    with world.changing(schedule, UPDATED):
        if "phases" in params:
            _replace_phases(world, schedule, params["phases"])
        assign(schedule, params, skip="phases proration_behavior")
    return schedule


def _replace_phases(world: World, schedule: Obj, given: list[Obj]) -> None:
    now = schedule["current_phase"]
    subscription = world.get("subscription", schedule["subscription"])
    phases: list[Obj] = []
    start = given[0].get("start_date", now["start_date"])
    if start != now["start_date"]:
        message = "The subscription schedule update is missing at least one phase with a `start_date` to anchor end "
        raise refused(message + "dates to, or the current phase's start date was changed.", param="phases[0]")
    for number, each in enumerate(given):
        phases.append(_planned(world, subscription, each, number, start))
        start = phases[-1]["end_date"]
    if phases[0]["trial_end"] != _under_way(schedule)["trial_end"]:
        raise not_played(
            "a trial that ends, or moves, since the phase under way leaves `trial_end` out or names another"
        )
    if _prices(phases[0]) != [it["price"]["id"] for it in subscription["items"]["data"]]:
        raise not_played("another price in the phase that is under way: update the subscription")
    schedule["phases"] = phases
    schedule["current_phase"] = {"end_date": phases[0]["end_date"], "start_date": phases[0]["start_date"]}


def _planned(world: World, subscription: Obj, given: Obj, number: int, start: int) -> Obj:
    if given.get("start_date", start) != start:
        raise refused("Each phase must start when the one before it ends.", param=f"phases[{number}][start_date]")
    if {"end_date", "duration"} <= set(given):
        message = "You may only specify one of these parameters: end_date, duration."
        raise refused(message, param=f"phases[{number}][duration]")
    items = [_phase_item(world, each, number) for each in given["items"]]
    end = given.get("end_date") or _lasting(world, items, given.get("duration"), start)
    if end == "now" or end <= start:
        raise refused("A phase must end after its start.", param=f"phases[{number}][end_date]")
    if given.get("billing_cycle_anchor") == "phase_start":
        raise not_played(f"phases[{number}][billing_cycle_anchor]=phase_start")
    phase = {**_phase(subscription, items, start, end), "trial_end": None}
    assign(phase, given, skip="items duration end_date start_date")
    return phase


def _lasting(world: World, items: list[Obj], duration: Obj | None, start: int) -> int:
    """The end of a phase that lasts the duration, or one period of its price."""
    rule = duration or world.get("price", items[0]["price"])["recurring"]
    return after_periods(start, rule["interval"], rule.get("interval_count", 1))


def _prices(phase: Obj) -> list[str]:
    return [item["price"] for item in phase["items"]]


def next_phase(world: World, schedule: Obj) -> None:
    """The phase under way is over: enter the next, or end as `end_behavior` says."""
    subscription = world.get("subscription", schedule["subscription"])
    done = schedule["current_phase"]["end_date"]
    following = next((phase for phase in schedule["phases"] if phase["start_date"] == done), None)
    if following is None:
        _finish(world, schedule, subscription)
        return
    with world.changing(schedule, UPDATED):
        schedule["current_phase"] = {"end_date": following["end_date"], "start_date": done}
    _enter(world, subscription, following, done)


def _enter(world: World, subscription: Obj, phase: Obj, when: int) -> None:
    kept = {item["price"]["id"]: item["id"] for item in subscription["items"]["data"]}
    wanted = [
        {key: each[key] for key in ("price", "quantity") if key in each}
        | ({"id": kept[each["price"]]} if each["price"] in kept else {})
        for each in phase["items"]
    ]
    gone = [{"id": key, "deleted": True} for price, key in kept.items() if price not in _prices(phase)]
    invoice = None
    with world.changing(subscription, "customer.subscription.updated"):
        items = changed_items(world, subscription, gone + wanted)
        if when >= periods.period_of(subscription)[1]:  # the renewal that follows bills the new prices
            subscription["items"]["data"] = items
        else:
            invoice = changing.change_items(
                world, subscription, items, {"proration_behavior": phase["proration_behavior"]}
            )
        subscription["metadata"] |= phase["metadata"]
    if invoice is not None:
        charging.bill_now(world, subscription, invoice)


def _finish(world: World, schedule: Obj, subscription: Obj) -> None:
    if schedule["end_behavior"] != "cancel":
        _release(world, schedule)
        return
    schedule.update(status="completed", completed_at=world.now, current_phase=None)
    world.emit("subscription_schedule.completed", schedule)
    ending.end(world, subscription, reason="cancellation_requested")


def release(world: World, params: Obj, key: str) -> Obj:
    return _release(world, _active(world, key))


def _release(world: World, schedule: Obj) -> Obj:
    """The subscription goes on as it is, on its own."""
    subscription = world.get("subscription", schedule["subscription"])
    schedule.update(
        status="released",
        released_at=world.now,
        released_subscription=subscription["id"],
        subscription=None,
        current_phase=None,
    )
    world.emit("subscription_schedule.released", schedule)
    with world.changing(subscription, "customer.subscription.updated"):
        subscription["schedule"] = None
    return schedule


def cancel(world: World, params: Obj, key: str) -> Obj:
    schedule = _active(world, key)
    ending.end(world, world.get("subscription", schedule["subscription"]), reason="cancellation_requested")
    return schedule
