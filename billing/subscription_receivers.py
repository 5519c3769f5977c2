"""What billing does when a tier changes, by whomever, and when an account is deleted."""

from datetime import datetime
from typing import Any

from django.dispatch import receiver
from django.utils import timezone

from accounts.models import User
from accounts.signals import tier_changed, user_deleted
from billing.models import StripeCustomer
from billing.notices import note_downgrade
from billing.tiers import TIERS


@receiver(tier_changed)
def look_at_flows(user: User, before: str, after: str, now: datetime, **_: Any) -> None:
    """A lower cap may have more flows running than it allows. What an operator has set for the user, the review knows."""
    if TIERS[after].flows < TIERS[before].flows:
        note_downgrade(user=user, before=before, now=now)


@receiver(user_deleted)
def end_subscriptions(user: User, **_: Any) -> None:
    """Stripe would go on charging: the clock sees to it, since no network belongs into a transaction."""
    StripeCustomer.objects.filter(user=user).update(close_due_at=timezone.now(), email="")
