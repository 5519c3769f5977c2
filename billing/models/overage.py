"""The ledger of the runs over the included limit that Stripe has been told of."""

from typing import ClassVar

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone

from billing.querysets import OverageReportQuerySet
from bloxserver.core.ids import new_id


class OverageReport(models.Model):
    """Some more runs of a period over its limit, written before Stripe is told: due while `due_at` is set.

    The sum of a period's rows is what the period has been found to be over by. Stripe takes an `identifier` once.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="overage_reports", db_index=False
    )
    period_start = models.DateTimeField()
    sequence = models.PositiveIntegerField(help_text="From 1 on, within the period.")
    value = models.PositiveBigIntegerField(help_text="Runs.")
    identifier = models.CharField(max_length=100, unique=True)
    used_at = models.DateTimeField(help_text="The moment that Stripe is told, within the period.")
    created_at = models.DateTimeField(default=timezone.now)
    due_at = models.DateTimeField(null=True, blank=True, help_text="Of the next attempt; empty when sent or given up.")
    attempts = models.PositiveSmallIntegerField(default=0)
    first_sent_at = models.DateTimeField(null=True, blank=True, help_text="The first attempt.")
    sent_at = models.DateTimeField(null=True, blank=True)
    error = models.TextField(blank=True, help_text="Why the last attempt failed.")

    objects: ClassVar[OverageReportQuerySet] = OverageReportQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        constraints = [
            # Two counts at a time cannot both add the same runs; it also finds a period's rows.
            models.UniqueConstraint(fields=["user", "period_start", "sequence"], name="overagereport_in_order"),
            models.CheckConstraint(condition=Q(value__gt=0), name="overagereport_of_some"),
            models.CheckConstraint(condition=Q(sent_at=None) | Q(due_at=None), name="overagereport_sent_is_not_due"),
        ]
        indexes = [models.Index(fields=["due_at"], name="overagereport_due", condition=Q(due_at__isnull=False))]
        ordering = ["-period_start", "-sequence"]

    def __str__(self) -> str:
        return f"{self.user}: {self.value} runs"
