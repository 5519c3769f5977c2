"""What a customer's page shows beside the limits: the subscription, and what has lately come of it."""

from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.http import HttpRequest

from accounts.models import Tier, User
from billing.models import BillingMail, FlowCapReview, OverageReport, StripeCustomer, StripeEvent, Subscription
from billing.stripe.dashboard import customer_page, invoices_page, subscription_page
from bloxserver.core.admin import status_pill

ROWS = 10  # of each kind; the links lead to all
SUBSCRIPTIONS = 3
TONES = {"trialing": "good", "active": "good", "past_due": "bad", "unpaid": "bad", "incomplete": "busy"}
NO_KEY = "The server has no key of Stripe's (STRIPE_API_KEY): subscriptions can be neither read again nor ended here."
NO_CUSTOMER = "Stripe does not know this user: they have never been at the checkout."


@dataclass(frozen=True, slots=True)
class ShownSubscription:
    row: Subscription
    pill: str
    url: str
    tier: str
    pending_tier: str


def stripe_page(user: User) -> dict[str, Any]:
    """The template's context of the subscription's panel: all that live, then those that have ended, the newest first."""
    live = list(Subscription.objects.for_user(user).live())
    most = max(SUBSCRIPTIONS, len(live))
    customer = StripeCustomer.objects.filter(user=user).first()
    return {
        "stripe_customer": customer,
        "customer_url": customer and customer_page(customer.stripe_id),
        "invoices_url": customer and invoices_page(customer.stripe_id),
        "subscriptions": [_shown(row) for row in [*live, *Subscription.objects.for_user(user).ended()][:most]],
        "live_subscriptions": len(live),
        "why_no_actions": why_no_actions(customer),
    }


def why_no_actions(customer: StripeCustomer | None) -> str:
    """Why nothing can be done at Stripe for the user; empty where something can."""
    if not settings.STRIPE_API_KEY:
        return NO_KEY
    return "" if customer else NO_CUSTOMER


def lately(user: User, request: HttpRequest) -> dict[str, Any]:
    """The template's context of the tables below: the last rows of each kind."""
    customers = StripeCustomer.objects.filter(user=user).values("stripe_id")
    events = StripeEvent.objects.filter(customer__in=customers).defer("payload")
    return {
        "reports": _with_pills(OverageReport.objects.filter(user=user)[:ROWS]),
        "events": _with_pills(events[:ROWS]),
        "mails": _with_pills(BillingMail.objects.filter(user=user).select_related("review")[:ROWS]),
        "reviews": _with_pills(FlowCapReview.objects.filter(user=user)[:ROWS]),
        "may_replay": request.user.has_perm("billing.change_stripeevent"),
    }


def subscription_pill(status: str) -> str:
    return status_pill(status, TONES.get(status, ""))


def _shown(row: Subscription) -> ShownSubscription:
    return ShownSubscription(
        row=row,
        pill=subscription_pill(row.status),
        url=subscription_page(row.stripe_id),
        tier=Tier(row.tier).label,
        pending_tier=Tier(row.pending_tier).label if row.pending_tier else "",
    )


def _with_pills(rows: Any) -> list[tuple[Any, str]]:
    return [(row, status_pill(_state(row))) for row in rows]


def _state(row: Any) -> str:
    if isinstance(row, StripeEvent):
        return row.state
    if isinstance(row, FlowCapReview):
        return "done" if row.done_at else "due" if row.due_at else "given up"
    if row.sent_at:
        return "sent"
    if row.due_at:
        return "due"
    return "waiting" if _waits(row) else "given up"


def _waits(row: Any) -> bool:
    """A mail that names flows is not due before somebody has stopped them."""
    review = getattr(row, "review", None) if isinstance(row, BillingMail) else None
    return review is not None and review.done_at is None
