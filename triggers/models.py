"""What starts a flow: webhooks, schedules and people."""

from typing import ClassVar

from cryptography.fernet import InvalidToken
from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone

from bloxserver.core.crypto import decrypt
from bloxserver.core.encrypted import EncryptedField
from bloxserver.core.ids import new_id
from executions.models import TriggerType
from flows.models import Flow
from triggers.querysets import DeliveryQuerySet, MomentQuerySet, TriggerManager, TriggerQuerySet


class Trigger(models.Model):
    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    flow = models.ForeignKey(Flow, on_delete=models.CASCADE, related_name="triggers")
    type = models.CharField(max_length=10, choices=TriggerType.choices)
    name = models.CharField(max_length=100)
    config = models.JSONField(default=dict, help_text="As it came; `triggers.config` says what each type takes.")
    enabled = models.BooleanField(default=True)
    # A webhook's token: found by its hash, kept encrypted so that its owner can read the URL again.
    token_hash = models.CharField(max_length=64, null=True, blank=True, unique=True, editable=False)
    token_encrypted = EncryptedField(blank=True)
    next_moment = models.DateTimeField(
        null=True, blank=True, editable=False, help_text="The schedule's next moment; empty while it is not armed."
    )
    next_fire_at = models.DateTimeField(
        "next fire", null=True, blank=True, editable=False, help_text="When that moment is fired: its jitter later."
    )
    created_at = models.DateTimeField("created", default=timezone.now, editable=False)
    ledgers_pruned_at = models.DateTimeField(null=True, editable=False, help_text="When its old ledger rows last went.")
    deleted_at = models.DateTimeField(
        null=True, blank=True, editable=False, help_text="It is gone for everybody; its long ledgers still have to go."
    )

    objects: ClassVar[TriggerQuerySet] = TriggerManager()
    with_deleted: ClassVar[TriggerQuerySet] = TriggerQuerySet.as_manager()  # type: ignore[assignment]
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
            models.Index(fields=["ledgers_pruned_at"], name="trigger_pruned"),  # whose turn it is in prune_ledgers
            # What `prune_ledgers` has to clear away.
            models.Index(fields=["deleted_at"], name="trigger_deleted", condition=Q(deleted_at__isnull=False)),
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


class Verdict(models.TextChoices):
    """What became of a delivery. A `code` beside it says it more exactly."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    FLOW_STOPPED = "flow_stopped"
    DISABLED = "disabled"
    OVER_LIMIT = "over_limit"
    THROTTLED = "throttled"
    BAD_SIGNATURE = "bad_signature"
    KEY_REUSED = "key_reused"
    TOO_LARGE = "too_large"
    INVALID = "invalid"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    FAILED = "failed"


class Delivery(models.Model):
    """One call of a webhook, whatever became of it. While it is `held` and has an execution, it is its key's receipt.

    The row of an accepted call is committed with its execution, and that of a replayed one changed with it. The unique
    constraint on receipts is what makes fifty calls at once with one key one execution: whoever comes second waits for
    the first one's commit, and is a duplicate then.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    trigger = models.ForeignKey(Trigger, on_delete=models.CASCADE, related_name="deliveries")
    received_at = models.DateTimeField("received", default=timezone.now)
    verdict = models.CharField(max_length=20, choices=Verdict.choices)
    code = models.CharField(max_length=64, blank=True, help_text="The code of the error that the caller was answered.")
    reason = models.CharField(max_length=500, blank=True, help_text="Why it was refused, in words for the owner.")
    address = models.GenericIPAddressField("from", null=True, blank=True)
    method = models.CharField(max_length=16)
    size = models.PositiveBigIntegerField(help_text="Bytes of the body; of one that was not read, what it claimed.")
    key = models.CharField(
        max_length=300,
        null=True,  # NULLs are distinct, so the constraint is about those that have one
        blank=True,
        help_text="The caller's Idempotency-Key, or a provider's name and delivery id.",
    )
    fingerprint = models.CharField(max_length=64, blank=True, help_text="SHA-256 of what was sent under the key.")
    execution_id = models.UUIDField(
        null=True, blank=True, help_text="What it made, by itself or by a replay; of a duplicate, the first one's."
    )
    replayed_at = models.DateTimeField("replayed", null=True, blank=True)
    request = models.TextField(
        blank=True, help_text="JSON for a replay: headers, query and payload. Empty if not kept."
    )
    held = models.BooleanField(default=False, help_text="Its key counts and its request is kept: for 72 hours.")
    # In a flood of refusals one row stands for many: of this verdict and code, in the minute that starts then.
    minute = models.DateTimeField(null=True, blank=True, help_text="Set where the row stands for many calls.")
    times = models.PositiveBigIntegerField(default=1)

    objects: ClassVar[DeliveryQuerySet] = DeliveryQuerySet.as_manager()  # type: ignore[assignment]
    owner_path = "trigger__flow__user"

    class Meta:
        verbose_name_plural = "deliveries"
        constraints = [
            models.UniqueConstraint(
                fields=["trigger", "key"],
                condition=Q(held=True, execution_id__isnull=False),
                name="delivery_key_unique",
            ),
            models.UniqueConstraint(
                fields=["trigger", "minute", "verdict", "code"],
                condition=Q(minute__isnull=False),
                name="delivery_flood_unique",
            ),
            models.CheckConstraint(condition=Q(verdict__in=Verdict.values), name="delivery_verdict_known"),
            models.CheckConstraint(
                condition=~Q(verdict="accepted") | Q(execution_id__isnull=False), name="delivery_accepted_has_execution"
            ),
        ]
        indexes = [
            models.Index(fields=["trigger", "-received_at", "-id"], name="delivery_list"),  # its list; prune_ledgers
            models.Index(  # its list by verdict; one that is accepted pays nothing for it
                fields=["trigger", "verdict", "-received_at", "-id"],
                name="delivery_refused",
                condition=~Q(verdict="accepted"),
            ),
            models.Index(fields=["received_at"], name="delivery_held", condition=Q(held=True)),  # release_deliveries
            models.Index(  # which replay made an execution; one that is accepted pays nothing for it
                fields=["execution_id"], name="delivery_replayed", condition=Q(replayed_at__isnull=False)
            ),
        ]
        ordering = ["-received_at", "-id"]

    def __str__(self) -> str:
        return f"{self.method} {self.verdict}"

    @property
    def replayable(self) -> bool:
        """Whether what it sent is still kept, and has made no execution yet."""
        return self.held and self.execution_id is None


class Outcome(models.TextChoices):
    FIRED = "fired"
    CAUGHT_UP = "caught_up"
    SKIPPED = "skipped"
    MISSED = "missed"
    REFUSED = "refused"


class Moment(models.Model):
    """What became of one moment of a schedule, or of a long row of moments that were missed together.

    Written by the tick in the transaction that fires and moves the schedule on.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    trigger = models.ForeignKey(Trigger, on_delete=models.CASCADE, related_name="moments")
    moment = models.DateTimeField(help_text="What the cron expression names, without jitter.")
    outcome = models.CharField(max_length=10, choices=Outcome.choices)
    code = models.CharField(max_length=64, blank=True, help_text="The error's code, where it was refused.")
    reason = models.CharField(max_length=500, blank=True, help_text="Why, in words.")
    lateness = models.FloatField(help_text="Seconds from when it was due, jitter included, until this was decided.")
    execution_id = models.UUIDField(null=True, blank=True)
    until = models.DateTimeField(
        null=True, blank=True, help_text="Set where the row stands for all moments from its own to this one."
    )
    count = models.PositiveIntegerField(
        null=True, default=1, help_text="How many moments the row stands for; empty: more than were counted."
    )
    created_at = models.DateTimeField("decided", default=timezone.now)

    objects: ClassVar[MomentQuerySet] = MomentQuerySet.as_manager()  # type: ignore[assignment]
    owner_path = "trigger__flow__user"

    class Meta:
        constraints = [
            # Also the index of its list and of prune_ledgers.
            models.UniqueConstraint(fields=["trigger", "moment"], name="moment_unique"),
            models.CheckConstraint(condition=Q(outcome__in=Outcome.values), name="moment_outcome_known"),
            models.CheckConstraint(
                condition=Q(outcome__in=("fired", "caught_up"), execution_id__isnull=False)
                | Q(outcome__in=("skipped", "missed", "refused"), execution_id=None),
                name="moment_fired_has_execution",
            ),
        ]
        indexes = [
            models.Index(  # its list by outcome; one that is fired pays nothing for it
                fields=["trigger", "outcome", "-moment"], name="moment_not_fired", condition=~Q(outcome="fired")
            ),
        ]
        ordering = ["-moment"]

    def __str__(self) -> str:
        return f"{self.moment:%Y-%m-%d %H:%M} {self.outcome}"
