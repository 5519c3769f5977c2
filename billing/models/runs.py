"""What a user has used of the runs of a month."""

from django.conf import settings
from django.db import models

from bloxserver.core.ids import new_id


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

    Runs are counted by their executions. What is deleted, with its flow or for its age, goes on counting here.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+", db_index=False)
    starts_at = models.DateTimeField(help_text="Midnight, in UTC.")
    runs = models.PositiveBigIntegerField(default=0)

    class Meta:
        constraints = [
            # Whoever deletes adds to the row of the day by it; it also finds a user's days.
            models.UniqueConstraint(fields=["user", "starts_at"], name="deletedruns_one_a_day")
        ]
        ordering = ["-starts_at", "-id"]
        verbose_name_plural = "deleted runs"

    def __str__(self) -> str:
        return f"{self.user}: {self.runs} runs of {self.starts_at:%Y-%m-%d}"
