"""How subscriptions end."""

from tests.stripe_server.billing import invoicing
from tests.stripe_server.world import Obj, World

ENDED = ("canceled", "incomplete_expired")


def end(world: World, subscription: Obj, *, reason: str | None) -> None:
    """Over, now; a schedule that steered it is over too."""
    subscription.update(status="canceled", ended_at=world.now, _pending=[])
    subscription["canceled_at"] = subscription["canceled_at"] or world.now
    subscription["cancellation_details"]["reason"] = reason
    for schedule in world.all("subscription_schedule"):
        if schedule["subscription"] == subscription["id"] and schedule["status"] == "active":
            schedule.update(status="canceled", canceled_at=world.now, current_phase=None)
            world.emit("subscription_schedule.canceled", schedule)
    for invoice in world.all("invoice"):
        if invoice["status"] in ("draft", "open") and invoicing.subscription_of(world, invoice) is subscription:
            invoice.update(auto_advance=False, next_payment_attempt=None, automatically_finalizes_at=None)
    world.emit("customer.subscription.deleted", subscription)


def expire(world: World, subscription: Obj) -> None:
    """The first payment did not come within 23 hours."""
    with world.changing(subscription, "customer.subscription.updated"):
        subscription.update(status="incomplete_expired", ended_at=world.now)
