"""Who is to be told of a failed execution."""

from typing import ClassVar

from django.db import models
from django.db.models import Q

from bloxserver.core.ids import new_id
from bloxserver.core.outbox import Delivery
from executions.models.execution import Execution
from executions.querysets import FailureNoticeQuerySet


class NoticeKind(models.TextChoices):
    EMAIL = "email", "on_failure: mail"
    FLOW = "flow", "on_failure: flow"
    URL = "url", "on_failure: POST"
    PAUSED = "paused", "mail about the pause"


class FailureNotice(Delivery):
    """Somebody who is to be told of a failed execution."""

    DONE = "done_at"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    execution = models.ForeignKey(Execution, on_delete=models.CASCADE, related_name="failure_notices")
    kind = models.CharField(max_length=10, choices=NoticeKind.choices)
    target = models.TextField(help_text="Addresses, a flow, or a URL.")
    done_at = models.DateTimeField(null=True, blank=True)
    started = models.UUIDField(null=True, blank=True, help_text="The execution of the other flow that it made.")

    objects: ClassVar[FailureNoticeQuerySet] = FailureNoticeQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(kind__in=NoticeKind.values), name="failure_notice_kind_known"),
            models.CheckConstraint(
                condition=Q(due_at__isnull=True) | Q(done_at__isnull=True), name="failure_notice_done_is_not_due"
            ),
            # However often what follows from a failure is looked at, it follows once. Also finds an execution's.
            models.UniqueConstraint(fields=["execution", "kind"], name="failure_notice_one_a_kind"),
            # Was this execution made by the failure of another?
            models.UniqueConstraint(
                fields=["started"], condition=Q(started__isnull=False), name="failure_notice_started_once"
            ),
        ]
        indexes = [models.Index(fields=["due_at"], name="failure_notice_due", condition=Q(due_at__isnull=False))]
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"{self.get_kind_display()} to {self.target}"

    @property
    def state(self) -> str:
        """`done`, `due` or `given up`."""
        if self.done_at is not None:
            return "done"
        return "due" if self.due_at is not None else "given up"
