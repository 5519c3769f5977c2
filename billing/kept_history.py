"""For how many days a user's history is kept: after a fall of the tier as before, for a while."""

from collections.abc import Collection
from datetime import datetime, timedelta
from uuid import UUID

from accounts.models import User
from billing.models import FlowCapReview
from billing.services import limits_on

GRACE = timedelta(days=30)  # the mails of a fall say so


def history_days(users: Collection[User], *, now: datetime) -> dict[UUID, int]:
    """By the id of each user, of the highest tier that they were on at any time of the last `GRACE`; what an operator has set
    holds instead of every tier's. One query."""
    falls = FlowCapReview.objects.filter(user__in=users, created_at__gt=now - GRACE).exclude(from_tier="")
    tiers = {user.pk: {user.tier} for user in users}
    for user_id, tier in falls.values_list("user_id", "from_tier"):
        tiers[user_id].add(tier)
    return {
        user_id: max(limits_on(tier, user_id=user_id, now=now).history_days for tier in been_on)
        for user_id, been_on in tiers.items()
    }
