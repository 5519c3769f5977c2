"""What starts a flow: webhooks, schedules and people."""

from typing import ClassVar

from cryptography.fernet import InvalidToken
from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone

from bloxserver.core.crypto import decrypt
from bloxserver.core.ids import new_id
from executions.models import TriggerType
from flows.models import Flow
from triggers.querysets import ReceiptQuerySet, TriggerQuerySet


class Trigger(models.Model):
    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    flow = models.ForeignKey(Flow, on_delete=models.CASCADE, related_name="triggers")
    type = models.CharField(max_length=10, choices=TriggerType.choices)
    name = models.CharField(max_length=100)
    config = models.JSONField(default=dict, help_text="As it came; `triggers.config` says what each type takes.")
    enabled = models.BooleanField(default=True)
    # A webhook's token: found by its hash, kept encrypted so that its owner can read the URL again.
    token_hash = models.CharField(max_length=64, null=True, blank=True, unique=True, editable=False)
    token_encrypted = models.TextField(blank=True, editable=False)
    next_moment = models.DateTimeField(
        null=True, blank=True, editable=False, help_text="The schedule's next moment; empty while it is not armed."
    )
    next_fire_at = models.DateTimeField(
        "next fire", null=True, blank=True, editable=False, help_text="When that moment is fired: its jitter later."
    )
    created_at = models.DateTimeField("created", default=timezone.now, editable=False)

    objects: ClassVar[TriggerQuerySet] = TriggerQuerySet.as_manager()  # type: ignore[assignment]
    owner_path = "flow__user"

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(type__in=TriggerType.values), name="trigger_type_known"),
            models.CheckConstraint(
                condition=~Q(type="webhook") | Q(token_hash__isnull=False), name="trigger_webhook_has_token"
            ),
            models.CheckConstraint(  # only an enabled schedule is armed
                condition=Q(next_fire_at=None, next_moment=None)
                | Q(type="schedule", enabled=True, next_fire_at__isnull=False, next_moment__isnull=False),
                name="trigger_armed_is_schedule",
            ),
        ]
        indexes = [
            models.Index(
                fields=["next_fire_at"], name="trigger_due", condition=Q(next_fire_at__isnull=False)
            ),  # the tick
            models.Index(fields=["flow", "created_at"], name="trigger_by_flow"),  # GET /flows/{id}/triggers
        ]
        ordering = ["created_at", "id"]

    def __str__(self) -> str:
        return self.name

    @property
    def webhook_token(self) -> str | None:
        """The secret part of a webhook's URL; None for other types.

        None too when the key that encrypted it has left `BLOX_ENCRYPTION_KEYS`: the URL still works, but nobody can be
        shown it again, so a new one has to be made.
        """
        try:
            return decrypt(self.token_encrypted) if self.token_encrypted else None
        except InvalidToken:
            return None

    @property
    def webhook_url(self) -> str | None:
        token = self.webhook_token
        return f"{settings.BLOX_PUBLIC_URL}/webhooks/{token}" if token else None


class Receipt(models.Model):
    """That a webhook call with this idempotency key has been accepted, and as which execution.

    Kept for 72 hours. The unique constraint is what makes fifty calls at once one execution: the row is written first,
    and whoever comes second waits for the first one's commit.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    trigger = models.ForeignKey(Trigger, on_delete=models.CASCADE, related_name="receipts")
    key = models.CharField(
        max_length=300, help_text="The caller's Idempotency-Key, or a provider's name and delivery id."
    )
    fingerprint = models.CharField(max_length=64, help_text="SHA-256 of what was sent.")
    execution_id = models.UUIDField(null=True, help_text="Empty only inside the transaction that accepts the call.")
    created_at = models.DateTimeField(default=timezone.now)

    objects: ClassVar[ReceiptQuerySet] = ReceiptQuerySet.as_manager()  # type: ignore[assignment]
    owner_path = "trigger__flow__user"

    class Meta:
        constraints = [models.UniqueConstraint(fields=["trigger", "key"], name="receipt_key_unique")]
        indexes = [models.Index(fields=["created_at"], name="receipt_age")]  # what has outlived its 72 hours
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return self.key
