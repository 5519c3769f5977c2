"""What Stripe says of a customer, as values."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from accounts.models import Tier
from billing.models import SubscriptionStatus
from billing.stripe.client import client, is_missing
from billing.stripe.prices import tier_of_price

MOST = 100  # of a customer's subscriptions, the newest first; older ones have long ended
UNPAID: tuple[Literal["open"], Literal["uncollectible"]] = ("open", "uncollectible")


@dataclass(frozen=True, slots=True)
class SubscriptionRead:
    """The fields of `Subscription` that are Stripe's."""

    stripe_id: str
    status: str
    tier: str
    price_lookup_key: str
    price_unknown: bool  # then the tier is not known either
    period_start: datetime | None
    period_end: datetime | None
    trial_ends_at: datetime | None
    cancel_at: datetime | None
    canceled_at: datetime | None  # when the end was asked for
    ended_at: datetime | None
    pending_tier: str
    failed_payments: int
    created_at: datetime

    @property
    def is_trial_period(self) -> bool:
        """Whether the period that is under way, or was the last, belongs to the trial."""
        start, end = self.period_start, self.trial_ends_at
        return start is not None and end is not None and start < end


@dataclass(frozen=True, slots=True)
class CustomerRead:
    email: str
    subscriptions: list[SubscriptionRead]
    complete: bool  # no other subscription is, or has ever been, the customer's
    deleted: bool = False  # by somebody at Stripe
    missing: bool = False  # from Stripe altogether: it was made with a key of another account, or of test data

    @property
    def is_gone(self) -> bool:
        """Nothing can be sold to it any more."""
        return self.deleted or self.missing


def read_customer(stripe_id: str) -> CustomerRead:
    """What Stripe has of the customer now. Raises the SDK's errors, but for a customer that is missing."""
    from stripe import InvalidRequestError

    try:
        customer = client().v1.customers.retrieve(stripe_id).to_dict()
    except InvalidRequestError as error:
        if not is_missing(error):
            raise
        return CustomerRead(email="", subscriptions=[], complete=True, missing=True)
    listed = client().v1.subscriptions.list({"customer": stripe_id, "status": "all", "limit": MOST})
    return CustomerRead(
        email=customer.get("email") or "",
        subscriptions=[_subscription(subscription.to_dict()) for subscription in listed.data],
        complete=not listed.has_more,
        deleted=bool(customer.get("deleted")),
    )


def _subscription(data: Mapping[str, Any]) -> SubscriptionRead:
    item, tier = tier_item(data)
    # Since 2025 the period is the item's: each may have its own.
    start, end = moment(item.get("current_period_start")), moment(item.get("current_period_end"))
    cancel_at = moment(data.get("cancel_at")) or (end if data.get("cancel_at_period_end") else None)
    ended_at = moment(data.get("ended_at"))
    return SubscriptionRead(
        stripe_id=data["id"],
        status=data["status"],
        tier=tier or Tier.FREE,
        price_lookup_key=item.get("price", {}).get("lookup_key") or "",
        price_unknown=tier is None,
        period_start=start,
        period_end=end,
        trial_ends_at=moment(data.get("trial_end")),
        cancel_at=None if ended_at else cancel_at,
        canceled_at=moment(data.get("canceled_at")),
        ended_at=ended_at,
        pending_tier="" if ended_at else _pending_tier(data, tier, cancel_at),
        failed_payments=_failed_payments(data),
        created_at=datetime.fromtimestamp(data["created"], UTC),
    )


def tier_item(data: Mapping[str, Any]) -> tuple[Mapping[str, Any], Tier | None]:
    """The item that is paid for a tier, and which; None where nobody here knows."""
    items = data["items"]["data"]
    for item in items:
        tier = tier_of_price(item["price"])
        if tier is not None:
            return item, tier
    return (items[0] if items else {}), None


def _pending_tier(data: Mapping[str, Any], tier: str | None, cancel_at: datetime | None) -> str:
    """What the end of the period brings: free where it is cancelled, else what a schedule says, empty for no change, and
    for a price that is not known: it will keep the tier."""
    if cancel_at is not None:
        return Tier.FREE
    if not data.get("schedule"):
        return ""
    schedule = client().v1.subscription_schedules.retrieve(id_of(data["schedule"]) or "").to_dict()
    current = (schedule.get("current_phase") or {}).get("end_date") or 0
    for phase in schedule["phases"]:
        if phase["start_date"] >= current:
            prices = (client().v1.prices.retrieve(id_of(item["price"]) or "").to_dict() for item in phase["items"])
            following = next(filter(None, map(tier_of_price, prices)), None)
            return "" if following in (None, tier) else following
    return ""


def _failed_payments(data: Mapping[str, Any]) -> int:
    """How often the most tried of the unpaid invoices has been. Of a subscription that is paid for, none.

    Not of the latest alone: where Stripe leaves a subscription past due, each period has a new one, not tried yet.
    """
    if data["status"] not in (SubscriptionStatus.PAST_DUE, SubscriptionStatus.UNPAID):
        return 0
    unpaid: list[int] = []
    for status in UNPAID:
        listed = client().v1.invoices.list({"subscription": data["id"], "status": status, "limit": MOST})
        unpaid += [invoice.attempt_count for invoice in listed.data]
    return max(unpaid, default=0)


def id_of(reference: Any) -> str | None:
    """Stripe gives another object by its id, or whole where it was asked to."""
    return reference.get("id") if isinstance(reference, Mapping) else reference


def moment(seconds: Any) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
