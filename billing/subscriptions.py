"""The subscription that counts as the user's, as it is known here."""

from dataclasses import dataclass
from datetime import datetime

from accounts.models import User
from billing.entitlements import rank
from billing.models import Subscription

NONE = "none"


@dataclass(frozen=True, slots=True)
class SubscriptionState:
    """The fields of `Subscription` that a user sees; of who has none, the tier is the account's."""

    status: str
    tier: str
    pending_tier: str | None = None
    period_start: datetime | None = None
    period_end: datetime | None = None
    trial_ends_at: datetime | None = None
    cancel_at: datetime | None = None
    failed_payments: int = 0


def subscription_of(user: User) -> SubscriptionState:
    """Of several, which somebody has made at Stripe by hand, that of the highest tier, and the newest of those."""
    live = Subscription.objects.for_user(user).live()
    row = max(live, key=lambda each: rank(each.tier), default=None)
    if row is None:
        return SubscriptionState(status=NONE, tier=user.tier)
    return SubscriptionState(
        status=row.status,
        tier=row.tier,
        pending_tier=row.pending_tier or None,
        period_start=row.period_start,
        period_end=row.period_end,
        trial_ends_at=row.trial_ends_at,
        cancel_at=row.cancel_at,
        failed_payments=row.failed_payments,
    )
