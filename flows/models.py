"""Flows, their versions, and what a flow may read while it runs: variables, secrets and key-values."""

from hashlib import sha256
from typing import ClassVar

from django.conf import settings
from django.core.validators import MaxLengthValidator
from django.db import models
from django.utils import timezone

from bloxserver.core.encrypted import EncryptedField
from bloxserver.core.ids import new_id
from flows.querysets import FlowManager, FlowQuerySet, OwnedQuerySet

NAME_TAKEN = "This name is stored already; change that one."


def yaml_digest(organism_yaml: str) -> str:
    """The SHA-256 of the text, in hexadecimal: equal digests are equal YAML."""
    return sha256(organism_yaml.encode()).hexdigest()


class FlowStatus(models.TextChoices):
    STOPPED = "stopped"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    ERROR = "error"


class Flow(models.Model):
    """A user's flow: the draft that is edited, and which version of it is deployed."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="flows")
    name = models.CharField(max_length=100)
    description = models.TextField(null=True, blank=True, validators=[MaxLengthValidator(500)])
    organism_yaml = models.TextField("organism.yaml", help_text="The draft. Starting the flow freezes it as a version.")
    canvas_state = models.JSONField(null=True, blank=True, help_text="The React Flow canvas, kept as it came.")
    status = models.CharField(max_length=10, choices=FlowStatus.choices, default=FlowStatus.STOPPED)
    error_message = models.TextField(null=True, blank=True)
    deployed_version = models.ForeignKey(
        "FlowVersion", on_delete=models.SET_NULL, null=True, blank=True, editable=False, related_name="+"
    )
    container_id = models.CharField(
        "deployment",
        max_length=64,
        null=True,
        blank=True,
        editable=False,
        help_text="The id of the deployment that is running.",
    )
    deployed_at = models.DateTimeField(
        null=True, blank=True, editable=False, help_text="When it was last started; failures are counted from here on."
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    updated_at = models.DateTimeField(default=timezone.now, editable=False)
    deleted_at = models.DateTimeField(
        null=True, blank=True, editable=False, help_text="It is gone for everybody; its long history still has to go."
    )

    objects: ClassVar[FlowQuerySet] = FlowManager()
    with_deleted: ClassVar[FlowQuerySet] = FlowQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        indexes = [
            models.Index(fields=["user", "-updated_at", "-id"], name="flow_by_user"),  # GET /flows
            # The sweeper's look for flows whose last execution has ended.
            models.Index(fields=["id"], name="flow_stopping", condition=models.Q(status="stopping")),
            # What `prune_history` has to clear away, and what lists of executions leave out.
            models.Index(fields=["user"], name="flow_deleted", condition=models.Q(deleted_at__isnull=False)),
        ]
        constraints = [
            models.CheckConstraint(condition=models.Q(status__in=FlowStatus.values), name="flow_status_known"),
            models.CheckConstraint(
                # Firings are bound to the deployed version, so a running flow always has one.
                condition=~models.Q(status="running") | models.Q(container_id__isnull=False),
                name="flow_running_has_deployment",
            ),
        ]
        ordering = ["-updated_at", "-id"]

    def __str__(self) -> str:
        return self.name

    @property
    def has_undeployed_changes(self) -> bool:
        """Whether the draft's YAML is not the deployed one. A canvas that was moved changes nothing that runs."""
        return self.deployed_version is None or self.deployed_version.digest != yaml_digest(self.organism_yaml)


class FlowVersion(models.Model):
    """An immutable copy of a flow's YAML and canvas.

    Numbered when it was deployed; without a number when a person test-ran the draft.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    flow = models.ForeignKey(Flow, on_delete=models.CASCADE, related_name="versions")
    number = models.PositiveIntegerField(null=True)
    organism_yaml = models.TextField("organism.yaml")
    canvas_state = models.JSONField(null=True, blank=True)
    digest = models.CharField(max_length=64, editable=False, help_text="SHA-256 of the YAML.")
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, editable=False, related_name="+"
    )

    objects: ClassVar[OwnedQuerySet["FlowVersion"]] = OwnedQuerySet.as_manager()  # type: ignore[assignment]
    owner_path = "flow__user"

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["flow", "number"], name="flowversion_number_unique"),
            models.UniqueConstraint(
                fields=["flow", "digest"], condition=models.Q(number=None), name="flowversion_one_draft_a_digest"
            ),
        ]
        ordering = ["-number"]

    def __str__(self) -> str:
        return f"version {self.number}" if self.number else "draft"


class Variable(models.Model):
    """A value that a flow reads as `vars.NAME`; one without a flow serves all of the tenant's flows."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="variables")
    flow = models.ForeignKey(Flow, on_delete=models.CASCADE, null=True, blank=True, related_name="variables")
    name = models.CharField(max_length=64)
    value = models.TextField(help_text="JSON.")
    updated_at = models.DateTimeField(default=timezone.now, editable=False)

    objects: ClassVar[OwnedQuerySet["Variable"]] = OwnedQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["flow", "name"], name="variable_of_flow_unique", violation_error_message=NAME_TAKEN
            ),
            models.UniqueConstraint(
                fields=["user", "name"],
                condition=models.Q(flow=None),
                name="variable_of_user_unique",
                violation_error_message=NAME_TAKEN,
            ),
        ]
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class Secret(models.Model):
    """A value that a block may be given as `secrets.NAME`. Stored encrypted; never shown again."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="secrets")
    flow = models.ForeignKey(Flow, on_delete=models.CASCADE, null=True, blank=True, related_name="secrets")
    name = models.CharField(max_length=64)
    encrypted_value = EncryptedField()
    updated_at = models.DateTimeField(default=timezone.now, editable=False)

    objects: ClassVar[OwnedQuerySet["Secret"]] = OwnedQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["flow", "name"], name="secret_of_flow_unique", violation_error_message=NAME_TAKEN
            ),
            models.UniqueConstraint(
                fields=["user", "name"],
                condition=models.Q(flow=None),
                name="secret_of_user_unique",
                violation_error_message=NAME_TAKEN,
            ),
        ]
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class KeyValue(models.Model):
    """What the `key_value` block keeps for a flow between its executions."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    flow = models.ForeignKey(Flow, on_delete=models.CASCADE, related_name="key_values")
    key = models.CharField(max_length=255)
    value = models.TextField(help_text="JSON.")
    expires_at = models.DateTimeField(null=True, blank=True)
    updated_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["flow", "key"], name="keyvalue_key_unique")]
        ordering = ["key"]

    def __str__(self) -> str:
        return self.key


class AgentMemory(models.Model):
    """What an agent with `memory: flow` was told and answered in earlier executions, under one key."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    # The unique key below begins with it.
    flow = models.ForeignKey(Flow, on_delete=models.CASCADE, related_name="memories", db_index=False)
    listener = models.CharField(max_length=63)
    key = models.CharField(
        max_length=255, blank=True, help_text="As the agent's config gives it; empty where it gives none."
    )
    messages = models.TextField(help_text="JSON: the exchanges, the oldest first, each {user, answer, at}.")
    size = models.PositiveIntegerField(help_text="Bytes of the messages.")
    updated_at = models.DateTimeField(default=timezone.now, editable=False)

    objects: ClassVar[OwnedQuerySet["AgentMemory"]] = OwnedQuerySet.as_manager()  # type: ignore[assignment]
    owner_path = "flow__user"

    class Meta:
        constraints = [models.UniqueConstraint(fields=["flow", "listener", "key"], name="agentmemory_key_unique")]
        # The list of a flow's memories, and which of too many goes first.
        indexes = [models.Index(fields=["flow", "-updated_at", "-id"], name="agentmemory_latest")]
        ordering = ["-updated_at", "-id"]
        verbose_name_plural = "agent memories"

    def __str__(self) -> str:
        return f"{self.listener}: {self.key or 'everybody'}"
