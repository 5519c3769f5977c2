"""Invoices from draft to open, and the amounts on them."""

from tests.stripe_server.billing import lines
from tests.stripe_server.clock import HOUR
from tests.stripe_server.lists import listed
from tests.stripe_server.world import Obj, World, new_id, nulls

GRACE = HOUR  # between a renewal's draft and its finalization; use that is told late still counts

EMPTY = """
    account_name account_tax_ids application automatically_finalizes_at custom_fields customer_account
    customer_address customer_phone customer_shipping default_payment_method default_source description due_date
    effective_at ending_balance footer from_invoice hosted_invoice_url invoice_pdf last_finalization_error
    latest_revision next_payment_attempt number on_behalf_of receipt_number rendering shipping_cost
    shipping_details statement_descriptor test_clock webhooks_delivered_at
"""
EMPTY_LISTS = """
    customer_tax_ids default_tax_rates discounts total_discount_amounts total_pretax_credit_amounts total_taxes
"""
ZEROS = """
    amount_overpaid amount_paid amount_shipping attempt_count post_payment_credit_notes_amount
    pre_payment_credit_notes_amount starting_balance
"""


def composed(world: World, subscription: Obj, found: list[Obj], reason: str, key: str) -> Obj:
    """An invoice of the lines, as a draft; the account does not know it yet."""
    customer = world.get("customer", subscription["customer"])
    for each in found:
        each["invoice"] = key
    invoice = {
        "id": key,
        "object": "invoice",
        **nulls(EMPTY),
        **{name: [] for name in EMPTY_LISTS.split()},
        **dict.fromkeys(ZEROS.split(), 0),
        "account_country": "US",
        "attempted": False,
        "auto_advance": True,
        "automatic_tax": {
            "disabled_reason": None,
            "enabled": False,
            "liability": None,
            "provider": None,
            "status": None,
        },
        "billing_reason": reason,
        "collection_method": subscription["collection_method"],
        "created": world.now,
        "currency": subscription["currency"],
        "customer": customer["id"],
        "customer_email": customer["email"],
        "customer_name": customer["name"],
        "customer_tax_exempt": "none",
        "issuer": {"type": "self"},
        "lines": listed(found, f"/v1/invoices/{key}/lines"),
        "livemode": False,
        "metadata": {},
        "parent": _parent(subscription),
        "payment_settings": nulls("default_mandate payment_method_options payment_method_types"),
        "period_end": world.now,
        "period_start": world.now,
        "status": "draft",
        "status_transitions": nulls("finalized_at marked_uncollectible_at paid_at voided_at"),
        "_payments": listed([], "/v1/invoice_payments"),
    }
    sum_up(invoice, customer)
    return invoice


def _parent(subscription: Obj) -> Obj:
    details = {"metadata": dict(subscription["metadata"]), "subscription": subscription["id"]}
    return {"quote_details": None, "subscription_details": details, "type": "subscription_details"}


def sum_up(invoice: Obj, customer: Obj) -> None:
    """Totals of the lines; a credit balance of the customer's (negative) pays before the card does."""
    total = sum(each["amount"] for each in invoice["lines"]["data"])
    balance = customer["balance"]
    due = max(0, total + balance)
    same = dict.fromkeys(("subtotal", "subtotal_excluding_tax", "total", "total_excluding_tax"), total)
    invoice.update(same, starting_balance=balance, amount_due=due, amount_remaining=due)


def draft(world: World, subscription: Obj, found: list[Obj], reason: str, period: tuple[int, int] | None = None) -> Obj:
    """A new draft, which becomes the subscription's latest invoice; the caller emits `invoice.created`.

    `period` is the one that a renewal closes: use within it is counted again when the invoice is finalized.
    """
    invoice = composed(world, subscription, found, reason, new_id("in"))
    if period is not None:
        invoice.update(period_start=period[0], period_end=period[1], automatically_finalizes_at=world.now + GRACE)
        invoice["_usage"] = period
    subscription["latest_invoice"] = invoice["id"]
    return world.add(invoice)


def finalize(world: World, invoice: Obj) -> None:
    """Fix the lines and the amounts, give it a number, and open it."""
    customer = world.get("customer", invoice["customer"])
    if "_usage" in invoice:
        _count_again(world, invoice)
    sum_up(invoice, customer)
    left = min(0, invoice["total"] + customer["balance"])
    with world.changing(customer, "customer.updated"):
        number = customer["next_invoice_sequence"]
        customer.update(balance=left, next_invoice_sequence=number + 1)
    secret = f"https://invoice.stripe.com/i/acct_1/test_{invoice['id'][3:]}"
    invoice.update(
        status="open",
        number=f"{customer['invoice_prefix']}-{number:04}",
        effective_at=world.now,
        ending_balance=left,
        automatically_finalizes_at=None,
        hosted_invoice_url=secret,
        invoice_pdf=f"{secret.replace('invoice.', 'pay.')}/pdf",
    )
    invoice["status_transitions"]["finalized_at"] = world.now
    world.emit("invoice.finalized", invoice)


def _count_again(world: World, invoice: Obj) -> None:
    subscription = subscription_of(world, invoice)
    kept = [each for each in invoice["lines"]["data"] if not each.get("_metered")]
    invoice["lines"]["data"] = kept + usage_lines(world, subscription, invoice["_usage"])
    for each in invoice["lines"]["data"]:
        each["invoice"] = invoice["id"]


def usage_lines(world: World, subscription: Obj, period: tuple[int, int]) -> list[Obj]:
    return [{**each, "_metered": True} for each in lines.usage(world, subscription, *period)]


def subscription_of(world: World, invoice: Obj) -> Obj:
    return world.get("subscription", invoice["parent"]["subscription_details"]["subscription"])
