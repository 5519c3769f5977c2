"""What blocks asked of their run, and were answered."""

from django.db import models
from django.utils import timezone

from bloxserver.core.ids import new_id
from executions.models.execution import Execution

# Kinds of entries that others than the engine read.
SLEEP, START_FLOW, MODEL, ASK, FAILED_CALL = "sleep", "start_flow", "model", "ask", "failed_call"
TURNED_AWAY = "turned_away"  # until when a step waits for its turn, for how many seconds, and why


class JournalEntry(models.Model):
    """The recorded result of one thing that a block asked of its run, by step and position.

    A block that runs again after a crash or a wait gets the recorded result and does not act twice.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    # The unique position below begins with it.
    execution = models.ForeignKey(Execution, on_delete=models.CASCADE, related_name="journal", db_index=False)
    step_key = models.CharField(max_length=32)
    position = models.CharField(max_length=32)
    kind = models.CharField(
        max_length=20,
        help_text="What was asked: record, transact, sleep, ask, start_flow, model, failed_call, turned_away.",
    )
    value = models.TextField(help_text="JSON.")
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["execution", "step_key", "position"], name="journal_position_unique")
        ]
        ordering = ["created_at"]
        verbose_name_plural = "journal entries"

    def __str__(self) -> str:
        return f"{self.kind} at {self.position}"
