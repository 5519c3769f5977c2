"""An operation on many executions: what was asked, and what has become of each."""

from typing import ClassVar

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone

from bloxserver.core.ids import new_id
from flows.querysets import OwnedQuerySet


class Verb(models.TextChoices):
    RETRY = "retry"
    CANCEL = "cancel"


class OperationStatus(models.TextChoices):
    RUNNING = "running"
    DONE = "done"


class ItemStatus(models.TextChoices):
    PENDING = "pending"
    DONE = "done"
    FAILED = "failed"


class BulkOperation(models.Model):
    """The row is the queue, as everywhere here: workers take pending items until there are none."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    verb = models.CharField(max_length=10, choices=Verb.choices)
    from_failed = models.BooleanField(default=False, help_text="A retry that keeps the finished steps.")
    asked = models.JSONField(default=dict, help_text="The filters, as they came.")
    status = models.CharField(max_length=10, choices=OperationStatus.choices, default=OperationStatus.RUNNING)
    total = models.PositiveIntegerField()
    done = models.PositiveIntegerField(default=0)
    failed = models.PositiveIntegerField(default=0)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    completed_at = models.DateTimeField(null=True, blank=True)

    objects: ClassVar[OwnedQuerySet["BulkOperation"]] = OwnedQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(done__lte=models.F("total") - models.F("failed")), name="bulk_counts"),
            models.CheckConstraint(
                condition=Q(status="running", completed_at=None) | Q(status="done", completed_at__isnull=False),
                name="bulk_done_has_completion",
            ),
        ]
        indexes = [
            # What workers have to do.
            models.Index(fields=["id"], name="bulk_running", condition=Q(status="running")),
        ]
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"{self.verb} of {self.total:,}"


class BulkItem(models.Model):
    """One execution of an operation. Its id is a value: the item outlives the execution."""

    id = models.BigAutoField(primary_key=True)
    operation = models.ForeignKey(BulkOperation, on_delete=models.CASCADE, related_name="items", db_index=False)
    execution_id = models.UUIDField()
    status = models.CharField(max_length=10, choices=ItemStatus.choices, default=ItemStatus.PENDING)
    result_id = models.UUIDField(null=True, blank=True, help_text="The execution that a retry made.")
    code = models.CharField(max_length=50, blank=True)
    message = models.TextField(blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["operation", "execution_id"], name="bulk_execution_once")  # also its items
        ]
        indexes = [
            models.Index(fields=["operation", "id"], name="bulk_pending", condition=Q(status="pending")),
            models.Index(fields=["operation", "id"], name="bulk_failed", condition=Q(status="failed")),  # its errors
        ]
        ordering = ["id"]

    def __str__(self) -> str:
        return f"{self.execution_id}: {self.status}"
