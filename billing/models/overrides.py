"""What an operator has set otherwise than a user's tier has it."""

from datetime import datetime

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import Q
from django.utils import timezone

from billing.tiers import SETTABLE
from bloxserver.core.ids import new_id

TWICE = "This limit is set already; change that one."


def _is_possible() -> Q:
    """A limit of the table, at a value that it can have."""
    possible = Q()
    for name, limit in SETTABLE.items():
        possible |= Q(limit=name, value__isnull=False, value__gte=limit.least, value__lte=limit.most)
        if limit.may_be_unlimited:
            possible |= Q(limit=name, value__isnull=True)
    return possible


class LimitOverride(models.Model):
    """One limit of one user: it holds instead of the tier's, on whatever tier the user is, until it expires."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="limit_overrides", db_index=False
    )
    limit = models.CharField(max_length=40, choices=[(name, limit.label) for name, limit in SETTABLE.items()])
    value = models.BigIntegerField(null=True, blank=True, help_text="Empty: unlimited, which only runs a month can be.")
    expires_at = models.DateTimeField(null=True, blank=True, help_text="Empty: it holds until it is deleted.")
    reason = models.TextField(help_text="Why, for other operators.")
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        editable=False,
        on_delete=models.SET_NULL,
        related_name="+",
        db_index=False,
        help_text="The operator who set it.",
    )

    class Meta:
        constraints = [
            # It also finds a user's.
            models.UniqueConstraint(
                fields=["user", "limit"],
                name="limitoverride_once",
                violation_error_message=TWICE,
            ),
            models.CheckConstraint(
                condition=_is_possible(),
                name="limitoverride_possible",
                violation_error_message="This limit cannot have that value.",
            ),
        ]
        ordering = ["user", "limit"]

    def __str__(self) -> str:
        return f"{self.get_limit_display()}: {'unlimited' if self.value is None else f'{self.value:,}'}"

    def clean(self) -> None:
        """What the constraint says too, with the values that would do."""
        limit = SETTABLE.get(self.limit)
        if limit is None:
            return
        if not (limit.may_be_unlimited if self.value is None else limit.least <= self.value <= limit.most):
            raise ValidationError({"value": f"For {limit.label} it must be {limit.range}."})

    def is_active(self, now: datetime) -> bool:
        return self.expires_at is None or self.expires_at > now
