"""The customer's card is charged: paid, or refused and tried again."""

from tests.stripe_server.billing import ending, invoicing
from tests.stripe_server.clock import DAY
from tests.stripe_server.world import Obj, World, new_id, nulls

LATE = ("past_due", "unpaid", "incomplete")


def can_pay(world: World, subscription: Obj) -> bool:
    customer = world.get("customer", subscription["customer"])
    method = subscription["default_payment_method"] or customer["invoice_settings"]["default_payment_method"]
    return method is not None and customer["id"] not in world.declining


def bill_now(world: World, subscription: Obj, invoice: Obj) -> None:
    """Send out a fresh draft at once: no hour of grace."""
    world.emit("invoice.created", invoice)
    settle(world, subscription, invoice)


def settle(world: World, subscription: Obj, invoice: Obj) -> None:
    """Finalize a draft and try to be paid."""
    invoicing.finalize(world, invoice)
    attempt(world, subscription, invoice)


def attempt(world: World, subscription: Obj, invoice: Obj) -> None:
    """Charge once; an invoice of nothing is paid without a charge."""
    invoice["attempted"] = True
    if invoice["amount_due"] == 0:
        _paid(world, subscription, invoice)
        return
    invoice["attempt_count"] += 1
    if can_pay(world, subscription):
        _paid(world, subscription, invoice)
    else:
        _refused(world, subscription, invoice)


def _paid(world: World, subscription: Obj, invoice: Obj) -> None:
    due = invoice["amount_due"]
    invoice.update(status="paid", amount_paid=due, amount_remaining=0, next_payment_attempt=None, auto_advance=False)
    invoice["status_transitions"]["paid_at"] = world.now
    payment = _payment(world, invoice) if due else None
    world.emit("invoice.paid", invoice)
    world.emit("invoice.payment_succeeded", invoice)
    if payment is not None:
        world.emit("invoice_payment.paid", payment)
    if subscription["latest_invoice"] == invoice["id"]:
        _recover(world, subscription)


def _payment(world: World, invoice: Obj) -> Obj:
    amount = invoice["amount_due"]
    payment = {
        "id": new_id("inpay"),
        "object": "invoice_payment",
        "amount_paid": amount,
        "amount_requested": amount,
        "created": world.now,
        "currency": invoice["currency"],
        "invoice": invoice["id"],
        "is_default": True,
        "livemode": False,
        "payment": {"payment_intent": new_id("pi"), "type": "payment_intent"},
        "status": "paid",
        "status_transitions": {**nulls("canceled_at"), "paid_at": world.now},
    }
    invoice["_payments"]["data"].append(world.add(payment))
    return payment


def _recover(world: World, subscription: Obj) -> None:
    customer = world.get("customer", subscription["customer"])
    with world.changing(customer, "customer.updated"):
        customer["delinquent"] = False
    with world.changing(subscription, "customer.subscription.updated"):
        if subscription["status"] in LATE:
            on_trial = (subscription["trial_end"] or 0) > world.now
            subscription["status"] = "trialing" if on_trial else "active"


def _refused(world: World, subscription: Obj, invoice: Obj) -> None:
    first = subscription["status"] == "incomplete"
    invoice["next_payment_attempt"] = None if first else _next_attempt(world, invoice)
    world.emit("invoice.payment_failed", invoice)
    if first:
        return
    customer = world.get("customer", subscription["customer"])
    with world.changing(customer, "customer.updated"):
        customer["delinquent"] = True
    with world.changing(subscription, "customer.subscription.updated"):
        if subscription["status"] in ("active", "trialing"):
            subscription["status"] = "past_due"
    if invoice["next_payment_attempt"] is None:
        _give_up(world, subscription, invoice)


def _next_attempt(world: World, invoice: Obj) -> int | None:
    """The retries are counted in days from the first attempt."""
    started = invoice.setdefault("_first_attempt", world.now)
    days = world.settings.retry_days[invoice["attempt_count"] - 1 :]
    return started + days[0] * DAY if days else None


def _give_up(world: World, subscription: Obj, invoice: Obj) -> None:
    invoice["auto_advance"] = False
    match world.settings.after_retries:
        case "cancel":
            ending.end(world, subscription, reason="payment_failed")
        case "unpaid":
            with world.changing(subscription, "customer.subscription.updated"):
                subscription["status"] = "unpaid"
