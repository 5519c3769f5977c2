"""What becomes of what is known of a user's limits when an operator changes them, or the user comes to another tier."""

from typing import Any

from django.db import transaction
from django.db.models.signals import post_delete, post_save
from django.dispatch import receiver
from django.utils import timezone

from accounts.models import User
from accounts.signals import tier_changed
from billing import overrides
from billing.models import LimitOverride, RunBudget
from billing.months import month_of


@receiver([post_save, post_delete], sender=LimitOverride)
def forget_overrides(**_: Any) -> None:
    transaction.on_commit(overrides.forget)


@receiver(tier_changed)
def count_runs_anew(user: User, **_: Any) -> None:
    """Only some tiers count runs as they are accepted: the row does not know of those accepted on another. Without it the
    next acceptance counts what the month has had."""
    RunBudget.objects.filter(user=user, period_start__gte=month_of(timezone.now())).delete()
