"""Questions that wait for a person."""

from typing import ClassVar

from django.db import models
from django.db.models import Q
from django.utils import timezone

from bloxserver.core.ids import new_id
from executions.models.execution import Execution
from executions.querysets import ApprovalQuerySet


class ApprovalKind(models.TextChoices):
    APPROVAL = "approval"  # a block asks for a yes or a no
    CRASH = "crash"  # a worker died during a step with `on_crash: ask`: what is to become of the step?


class ApprovalAnswer(models.TextChoices):
    APPROVED = "approved"
    REJECTED = "rejected"
    RETRY = "retry"
    FAIL = "fail"
    SUCCEED = "succeed"


class Approval(models.Model):
    """A question of one step that waits for a person, by step and position as in the journal, and its answer.

    It can be answered while nobody has answered it, it has not expired, and its step is unfinished: `open` in the
    queryset. An answer is one conditional update and never changes.
    """

    owner_path = "execution__user"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    execution = models.ForeignKey(Execution, on_delete=models.CASCADE, related_name="approvals")
    step_key = models.CharField(max_length=32)
    position = models.CharField(max_length=32)
    kind = models.CharField(max_length=10, choices=ApprovalKind.choices)
    listener = models.CharField(max_length=63)
    message = models.TextField()
    notified = models.JSONField(default=list, help_text="Addresses that got a mail with a link to answer by.")
    asked_at = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField(null=True, blank=True, help_text="From then on it counts as rejected.")
    answer = models.CharField(max_length=10, choices=ApprovalAnswer.choices, blank=True, help_text="Empty: open.")
    by = models.CharField(max_length=300, blank=True, help_text='Who answered; "timeout" where nobody did.')
    comment = models.TextField(blank=True)
    output = models.TextField(null=True, blank=True, help_text="JSON: what a step is said to have succeeded with.")
    answered_at = models.DateTimeField(null=True, blank=True)

    objects: ClassVar[ApprovalQuerySet] = ApprovalQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["execution", "step_key", "position"], name="approval_position_unique"),
            models.CheckConstraint(
                condition=Q(kind="approval", answer__in=["", "approved", "rejected"])
                | Q(kind="crash", answer__in=["", "retry", "fail", "succeed"]),
                name="approval_answer_fits_kind",
            ),
            models.CheckConstraint(
                condition=Q(answer="", answered_at=None) | (~Q(answer="") & Q(answered_at__isnull=False)),
                name="approval_answered_has_time",
            ),
        ]
        indexes = [models.Index(fields=["-id"], name="approval_unanswered", condition=Q(answer=""))]  # the admin's list
        ordering = ["id"]

    def __str__(self) -> str:
        return f"{self.kind} of {self.listener}"

    @property
    def in_words(self) -> str:
        """The answer and who gave it."""
        return f"{self.by} decided: {self.answer}." + (f" {self.comment}" if self.comment else "")
