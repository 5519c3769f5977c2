"""How many executions have ended, kept by the database itself."""

from django.conf import settings
from django.db import models

from executions.models.execution import ExecutionStatus
from flows.models import Flow


class ExecutionTally(models.Model):
    """How many executions of a flow have ended with a status, and for how long they were worked on: the sum of its rows.

    A database trigger adds a row for each end (`tally.py`), so that no counter is fought over; the clock folds them
    into one from time to time. Pruning adds negative ones.
    """

    # Values that the trigger copies: the execution's own foreign keys have been checked.
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+", db_constraint=False, db_index=False
    )
    flow = models.ForeignKey(Flow, on_delete=models.CASCADE, related_name="+", db_constraint=False, db_index=False)
    status = models.CharField(max_length=10, choices=ExecutionStatus.choices)
    runs = models.IntegerField()
    milliseconds = models.BigIntegerField()

    class Meta:
        indexes = [models.Index(fields=["user", "flow"], name="tally_by_flow")]  # totals of a list, a flow's stats
        verbose_name_plural = "execution tallies"

    def __str__(self) -> str:
        return f"{self.runs} {self.status}"
