"""The period that a subscription is in. It stands on the items, which all share one."""

from tests.stripe_server.clock import next_boundary
from tests.stripe_server.world import Obj, World


def period_of(subscription: Obj) -> tuple[int, int]:
    """When the current period began, and when it ends."""
    item = subscription["items"]["data"][0]
    return item["current_period_start"], item["current_period_end"]


def ends_with_period(subscription: Obj) -> bool:
    """Whether the subscription was told to end by the end of its period."""
    at = subscription["cancel_at"]
    return at is not None and at <= period_of(subscription)[1]


def set_period(subscription: Obj, start: int, end: int | None = None) -> None:
    """To `end`, else to the next boundary of the subscription's rhythm."""
    recurring = subscription["items"]["data"][0]["price"]["recurring"]
    interval, step = recurring["interval"], recurring["interval_count"]
    end = end or next_boundary(subscription["billing_cycle_anchor"], interval, step, start)
    for item in subscription["items"]["data"]:
        item.update(current_period_start=start, current_period_end=end)


def restart_period(world: World, subscription: Obj) -> None:
    """A new period, and a new rhythm, from now on."""
    subscription["billing_cycle_anchor"] = world.now
    set_period(subscription, world.now)
