"""What a user has used of the runs of a month."""

from typing import ClassVar

from django.conf import settings
from django.db import models
from django.db.models import Q

from billing.models.budgets import Percent
from billing.querysets import RunNoticeQuerySet
from bloxserver.core.ids import new_id
from bloxserver.core.outbox import Mail


class RunBudget(models.Model):
    """How many executions a user has had accepted in a calendar month (UTC).

    Only tiers that are refused at their cap keep one: the row is the lock that makes the cap exact. On another tier it goes,
    and the first acceptance after the way back counts anew.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="run_budgets")
    period_start = models.DateField(help_text="The first day of the month.")
    runs = models.PositiveIntegerField(default=0)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["user", "period_start"], name="runbudget_one_a_month")]
        ordering = ["-period_start"]

    def __str__(self) -> str:
        return f"{self.user}: {self.runs} runs in {self.period_start:%B %Y}"


class DeletedRuns(models.Model):
    """How many executions, accepted from `starts_at` to the end of that day (UTC), the history no longer has.

    Runs are counted by their executions. What is deleted, with its flow or for its age, goes on counting here. A day on
    which a period of the user's subscription begins or ends has a row for each part, so that a period's runs are whole
    rows.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+", db_index=False)
    starts_at = models.DateTimeField(help_text="Midnight in UTC, or the start or end of a subscription's period.")
    runs = models.PositiveBigIntegerField(default=0)

    class Meta:
        constraints = [
            # Whoever deletes adds to the row of the day, or its part, by it; it also finds a user's days.
            models.UniqueConstraint(fields=["user", "starts_at"], name="deletedruns_one_a_day")
        ]
        ordering = ["-starts_at", "-id"]
        verbose_name_plural = "deleted runs"

    def __str__(self) -> str:
        return f"{self.user}: {self.runs} runs of {self.starts_at:%Y-%m-%d}"


class RunNotice(Mail):
    """A mail that tells a user of what a period has used of the runs that their tier allows.

    `runs` and `limit` are as they were when it was noticed.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+", db_index=False)
    period_start = models.DateTimeField()
    period_end = models.DateTimeField()
    percent = models.PositiveSmallIntegerField(choices=Percent.choices)
    runs = models.PositiveBigIntegerField()
    limit = models.PositiveBigIntegerField()

    objects: ClassVar[RunNoticeQuerySet] = RunNoticeQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        constraints = [
            # However many look at the same runs, one notices. It also finds a user's.
            models.UniqueConstraint(fields=["user", "period_start", "percent"], name="runnotice_once_a_period"),
            models.CheckConstraint(condition=Q(percent__in=Percent.values), name="runnotice_percent_known"),
        ]
        indexes = [models.Index(fields=["due_at"], name="runnotice_due", condition=Q(due_at__isnull=False))]
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"{self.percent} % of the runs from {self.period_start:%Y-%m-%d}"
