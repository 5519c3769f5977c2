"""What time brings: ends of trials and periods, warnings before them, invoices that fall due, phases of schedules."""

from collections.abc import Callable, Iterator
from functools import partial

from tests.stripe_server.billing import changing, charging, ending, invoicing, periods, subscribing
from tests.stripe_server.clock import DAY, HOUR
from tests.stripe_server.objects import checkout, schedules
from tests.stripe_server.world import Obj, World

Happening = tuple[int, int, Callable[[], None]]  # when, its turn among those of the same second, what is done
PATIENCE = 23 * HOUR  # for a first payment


def next_happening(world: World, until: int) -> Happening | None:
    """The earliest thing that falls due by `until`."""
    due = (each for each in _happenings(world) if each[0] <= until)
    return min(due, key=lambda each: each[:2], default=None)


def _happenings(world: World) -> Iterator[Happening]:
    for subscription in world.all("subscription"):
        yield from _of_subscription(world, subscription)
    for invoice in world.all("invoice"):
        yield from _of_invoice(world, invoice)
    for schedule in world.all("subscription_schedule"):
        if schedule["status"] == "active":
            yield schedule["current_phase"]["end_date"], 0, partial(schedules.next_phase, world, schedule)
    for session in world.all("checkout.session"):
        if session["status"] == "open":
            yield session["expires_at"], 0, partial(checkout.expire_now, world, session)


def _of_subscription(world: World, it: Obj) -> Iterator[Happening]:
    if it["status"] == "incomplete":
        yield it["created"] + PATIENCE, 1, lambda: ending.expire(world, it)
    if it["status"] in (*ending.ENDED, "incomplete", "paused"):
        return
    period_end = periods.period_of(it)[1]
    if it["cancel_at"] and it["cancel_at"] < period_end:
        yield it["cancel_at"], 1, lambda: ending.end(world, it, reason="cancellation_requested")
    if it["status"] == "trialing":
        if it.get("_warned") != it["trial_end"]:
            yield it["trial_end"] - subscribing.WARNING, 2, lambda: subscribing.warn_of_trial_end(world, it)
        yield it["trial_end"], 2, lambda: subscribing.end_trial(world, it)
        return
    if it.get("_announced") != period_end and not periods.ends_with_period(it):
        yield period_end - world.settings.upcoming_days * DAY, 2, lambda: _announce(world, it, period_end)
    yield period_end, 3, lambda: subscribing.renew(world, it)


def _announce(world: World, subscription: Obj, period_end: int) -> None:
    subscription["_announced"] = period_end
    shown = changing.preview(world, subscription, {})
    world.emit("invoice.upcoming", {name: value for name, value in shown.items() if name != "id"})


def _of_invoice(world: World, it: Obj) -> Iterator[Happening]:
    subscription = invoicing.subscription_of(world, it)
    if it["status"] == "draft" and it["automatically_finalizes_at"]:
        yield it["automatically_finalizes_at"], 4, lambda: charging.settle(world, subscription, it)
    if it["status"] == "open" and it["next_payment_attempt"]:
        yield it["next_payment_attempt"], 4, lambda: charging.attempt(world, subscription, it)
