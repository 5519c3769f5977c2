"""What a user has used of the runs that the tier allows."""

from django.conf import settings
from django.db import models

from bloxserver.core.ids import new_id


class RunBudget(models.Model):
    """How many executions a user has had accepted in a calendar month (UTC).

    Only tiers that are refused at their cap keep one: the row is the lock that makes the cap exact.
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
