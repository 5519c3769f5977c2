"""Steps: one row a delivery, and their large outputs."""

from typing import ClassVar

from django.db import models
from django.db.models import Q

from bloxserver.core.ids import new_id
from executions.models.execution import Execution
from executions.querysets import StepQuerySet

LARGE_OUTPUT_CHARACTERS = 64 * 1024
MODEL_BLOCK = "blox.model"  # the `block` of a model's turn, which is in no catalogue


class StepStatus(models.TextChoices):
    RUNNING = "running"  # its effect is under way
    WAITING = "waiting"  # it waits: for a time, a retry, or for what it called
    SUCCESS = "success"
    ERROR = "error"


class Step(models.Model):
    """One delivery: one message, given to one listener, whose block ran once to its end (in one attempt or several).

    A model's turn is a step, too: its `block` is `MODEL_BLOCK`, and its scope lies below the step that asked. `key` names
    the delivery by where it came from, so that a resumed execution plans the same keys again and finds what is on
    record. `number` grows with every write to a step of the execution: it orders the trace, and an event
    stream resumes after it.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    # The unique key below begins with it.
    execution = models.ForeignKey(Execution, on_delete=models.CASCADE, related_name="steps", db_index=False)
    key = models.CharField(max_length=32)
    scope = models.CharField(
        max_length=64, blank=True, help_text="Empty, or the step's key and position that called this one."
    )
    parents = models.JSONField(default=list, help_text="Keys of the steps whose output this one received.")
    number = models.PositiveIntegerField()
    listener = models.CharField(max_length=63)
    block = models.CharField(max_length=100)
    from_listener = models.CharField(max_length=63, null=True, blank=True)
    status = models.CharField(max_length=10, choices=StepStatus.choices)
    attempt = models.PositiveSmallIntegerField(default=1)
    input = models.TextField(null=True, blank=True, help_text="JSON; null where it is what the only parent gave.")
    output = models.TextField(null=True, blank=True, help_text="JSON; null where it is large and so stored apart.")
    is_output_apart = models.BooleanField(default=False)
    sent_to = models.JSONField(default=list, help_text="The listeners to which the output, or the error, went.")
    error = models.TextField(null=True, blank=True)
    error_code = models.CharField(max_length=50, blank=True)
    failures = models.JSONField(default=list, help_text="The attempts before this one: attempt, code, error, at.")
    notes = models.JSONField(default=list, help_text="What its author should know: values that had to be replaced.")
    due_at = models.DateTimeField(null=True, blank=True, help_text="While waiting: when it goes on.")
    started_at = models.DateTimeField()
    completed_at = models.DateTimeField(null=True, blank=True)
    tokens_in = models.PositiveIntegerField(default=0)
    tokens_out = models.PositiveIntegerField(default=0)
    model_call = models.JSONField(
        null=True,
        blank=True,
        help_text="Of a model's turn: model, provider, own_key, cost in US dollars, latency_ms, cached, stop, path.",
    )

    objects: ClassVar[StepQuerySet] = StepQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["execution", "key"], name="step_key_unique"),  # also finds a run's steps
            models.CheckConstraint(condition=Q(status__in=StepStatus.values), name="step_status_known"),
        ]
        indexes = [models.Index(fields=["execution", "number"], name="step_in_order")]  # the trace, the event stream
        ordering = ["number"]

    def __str__(self) -> str:
        return f"{self.listener} ({self.status})"

    @property
    def output_text(self) -> str | None:
        """The output as JSON text, wherever it is stored."""
        return self.large_output.text if self.is_output_apart else self.output

    @property
    def caller_key(self) -> str:
        """The key of the step that called this one, or asked the model; empty in the execution's own run."""
        return self.scope.rpartition(":")[0]

    @property
    def is_model_turn(self) -> bool:
        return self.block == MODEL_BLOCK

    @property
    def is_handled_error(self) -> bool:
        """It failed, and its listener's `on_error` got what had gone wrong."""
        return self.status == StepStatus.ERROR and bool(self.sent_to)

    @property
    def duration_ms(self) -> int | None:
        if self.completed_at is None:
            return None
        return max(0, round((self.completed_at - self.started_at).total_seconds() * 1000))


class LargeOutput(models.Model):
    """An output of more than `LARGE_OUTPUT_CHARACTERS`, apart from its step: a trace that is paged must stay light."""

    step = models.OneToOneField(Step, on_delete=models.CASCADE, primary_key=True, related_name="large_output")
    text = models.TextField(help_text="JSON.")

    def __str__(self) -> str:
        return f"output of {self.step_id}"


class SpokenText(models.Model):
    """A piece of what a model has said in a turn that is under way, for who watches; gone with the turn's end.

    Only where there is no Redis. What a worker that died has left is in nobody's way, and goes with the execution.
    """

    id = models.BigAutoField(primary_key=True)  # in the order in which it was said
    step = models.ForeignKey(Step, on_delete=models.CASCADE, related_name="spoken_texts")
    attempt = models.PositiveSmallIntegerField()
    seq = models.PositiveIntegerField(help_text="From 1; where it is 1 again, the answer begins anew.")
    text = models.TextField()

    def __str__(self) -> str:
        return f"{self.seq} of {self.step_id}"
