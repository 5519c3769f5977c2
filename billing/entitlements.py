"""Which tier subscriptions bring. Pure."""

from collections.abc import Iterable
from typing import Protocol

from accounts.models import Tier
from billing.models import SubscriptionStatus
from billing.tiers import TIERS

MOST_FAILED_PAYMENTS = 3  # with so many the tier is free, until the invoice is paid after all


class Subscribed(Protocol):
    """A row, or what was read of Stripe."""

    @property
    def status(self) -> str: ...
    @property
    def tier(self) -> str: ...
    @property
    def failed_payments(self) -> int: ...


def tier_of(subscription: Subscribed) -> str:
    match subscription.status:
        case SubscriptionStatus.TRIALING | SubscriptionStatus.ACTIVE:
            return subscription.tier
        case SubscriptionStatus.PAST_DUE if subscription.failed_payments < MOST_FAILED_PAYMENTS:
            return subscription.tier
        case _:
            return Tier.FREE


def best_tier(subscriptions: Iterable[Subscribed]) -> str:
    """The highest that any of them brings."""
    return max((tier_of(each) for each in subscriptions), key=rank, default=Tier.FREE)


def rank(tier: str) -> int:
    """The higher the tier, the higher."""
    return -TIERS[tier].priority
