"""Executions and their payloads: outbox, queue, lock and log in one place."""

from typing import ClassVar

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone

from bloxserver.core.ids import new_id
from executions.querysets import ExecutionQuerySet
from flows.models import Flow, FlowVersion


class TriggerType(models.TextChoices):
    WEBHOOK = "webhook"
    SCHEDULE = "schedule"
    MANUAL = "manual"


class ExecutionStatus(models.TextChoices):
    """What a client sees. Waiting in the queue is `running`; a cancelled execution is `error`."""

    RUNNING = "running"
    SUCCESS = "success"
    ERROR = "error"
    TIMEOUT = "timeout"


class State(models.TextChoices):
    """What the engine sees."""

    QUEUED = "queued"  # a worker may claim it from `due_at` on
    WORKING = "working"  # a worker holds the lease
    PARKED = "parked"  # it waits without a worker: for `due_at`, or for another execution's end
    ENDED = "ended"


class Execution(models.Model):
    """One run of a flow's version. Narrow: payloads lie in `ExecutionPayload`.

    Every write after a claim is conditional on `fence`, which grows with each claim and each expiry of a lease: a
    worker that lost its lease updates zero rows, and drops what it did.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    # Without indexes of their own: those of the lists begin with them.
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+", db_index=False)
    flow = models.ForeignKey(Flow, on_delete=models.CASCADE, related_name="executions", db_index=False)
    version = models.ForeignKey(FlowVersion, on_delete=models.RESTRICT, related_name="+")  # its index: may it go?
    # Values, not foreign keys: history outlives the trigger.
    trigger_id = models.UUIDField(null=True, blank=True)
    trigger_name = models.CharField(max_length=100, blank=True)
    trigger_type = models.CharField(max_length=10, choices=TriggerType.choices)
    scheduled_for = models.DateTimeField(null=True, blank=True, help_text="The moment of the schedule that this fires.")
    retry_of = models.UUIDField(null=True, blank=True, help_text="The execution that this one repeats.")
    parent_id = models.UUIDField(
        null=True, blank=True, help_text="The execution whose call_flow, or whose failure, made this one."
    )
    depth = models.PositiveSmallIntegerField(default=0, help_text="How many such parents stand above it.")
    is_draft = models.BooleanField(default=False, help_text="A test run of the draft.")

    status = models.CharField(max_length=10, choices=ExecutionStatus.choices, default=ExecutionStatus.RUNNING)
    error_code = models.CharField(max_length=50, blank=True)
    error_message = models.TextField(null=True, blank=True)
    follow_up_due = models.BooleanField(
        default=False,
        db_default=False,  # for those who insert and know nothing of it: an older worker during a roll-out
        help_text="It failed, and what follows from that is still to be seen to.",
    )
    started_at = models.DateTimeField("accepted at", default=timezone.now)
    claimed_at = models.DateTimeField("first claimed at", null=True, blank=True)
    completed_at = models.DateTimeField(null=True, blank=True)

    state = models.CharField(max_length=10, choices=State.choices, default=State.QUEUED)
    priority = models.PositiveSmallIntegerField(default=9, help_text="By tier; the lowest is claimed first.")
    flow_limit = models.PositiveIntegerField(
        null=True, blank=True, help_text="How many of its flow may be worked on at once: `organism.concurrency`."
    )
    due_at = models.DateTimeField(null=True, blank=True, default=timezone.now)
    lease_owner = models.CharField(max_length=100, blank=True)
    lease_until = models.DateTimeField(null=True, blank=True)
    fence = models.PositiveIntegerField(default=0)
    on_probation = models.BooleanField(
        default=False,
        db_default=False,  # for an older clock during a roll-out, as below
        help_text="A lease on it has expired: nothing else is claimed beside it until it has worked for some time.",
    )
    claim_alone = models.BooleanField(
        default=False, help_text="A lease on it has expired on probation, too: it gets a worker to itself."
    )
    expiries = models.PositiveSmallIntegerField(
        default=0, db_default=0, help_text="Leases on it that have expired since it was last parked or handed back."
    )
    crashes = models.PositiveSmallIntegerField(
        default=0, help_text="Leases that expired on probation with nothing else to blame; three end it."
    )
    lost_owner = models.CharField(
        max_length=100, blank=True, default="", db_default="", help_text="The last worker whose lease on it expired."
    )
    deadline_at = models.DateTimeField(
        null=True, blank=True, help_text="While worked on: when its seconds of work are used up."
    )
    seconds_allowed = models.PositiveIntegerField(default=300)
    seconds_worked = models.FloatField(default=0)
    cancel_requested_at = models.DateTimeField(null=True, blank=True)
    cancel_reason = models.CharField(max_length=300, blank=True)

    objects: ClassVar[ExecutionQuerySet] = ExecutionQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(state__in=State.values), name="execution_state_known"),
            models.CheckConstraint(condition=Q(status__in=ExecutionStatus.values), name="execution_status_known"),
            # Nothing is held as being worked on without a lease.
            models.CheckConstraint(
                condition=Q(state="working", lease_until__isnull=False) | (~Q(state="working") & Q(lease_until=None)),
                name="execution_working_has_lease",
            ),
            models.CheckConstraint(
                condition=Q(state="ended", completed_at__isnull=False) | (~Q(state="ended") & Q(completed_at=None)),
                name="execution_ended_has_completion",
            ),
            models.CheckConstraint(
                condition=(Q(state="ended") & ~Q(status="running")) | (~Q(state="ended") & Q(status="running")),
                name="execution_status_follows_state",
            ),
            # A moment of a schedule makes one execution, however many clocks tick.
            models.UniqueConstraint(
                fields=["trigger_id", "scheduled_for"],
                condition=Q(scheduled_for__isnull=False),
                name="execution_one_a_moment",
            ),
        ]
        indexes = [
            models.Index(fields=["flow", "-started_at", "-id"], name="execution_by_flow"),  # GET /flows/{id}/executions
            # GET /executions, and backwards what `prune_history` looks for: a user's oldest.
            models.Index(fields=["user", "-started_at", "-id"], name="execution_by_user"),
            # The same lists of failures alone, which may be few among very many; what succeeds pays nothing for them.
            models.Index(
                fields=["flow", "-started_at", "-id"],
                name="execution_failed_by_flow",
                condition=Q(status__in=["error", "timeout"]),
            ),
            models.Index(
                fields=["user", "-started_at", "-id"],
                name="execution_failed_by_user",
                condition=Q(status__in=["error", "timeout"]),
            ),
            models.Index(  # the admin's list of them
                fields=["status", "-id"], name="execution_failed", condition=Q(status__in=["error", "timeout"])
            ),
            models.Index(  # the claim: from lane to lane, and along each
                fields=["priority", "user", "flow", "due_at"], name="execution_queue", condition=Q(state="queued")
            ),
            models.Index(fields=["due_at"], name="execution_parked", condition=Q(state="parked")),  # the wake-up
            models.Index(  # the claim: who holds how many leases
                fields=["user", "flow"], name="execution_slots", condition=Q(state="working")
            ),
            models.Index(fields=["lease_until"], name="execution_leased", condition=Q(state="working")),  # the sweeper
            models.Index(  # is anything of this flow, or this parent, still alive?
                fields=["flow", "state"], name="execution_alive", condition=~Q(state="ended")
            ),
            models.Index(  # the last ten ends of a flow: have all of them failed?
                fields=["flow", "-completed_at"],
                name="execution_last_ended",
                condition=Q(state="ended", is_draft=False, cancel_requested_at__isnull=True),
            ),
            # Failures that nobody has seen to yet.
            models.Index(fields=["id"], name="execution_follow_up", condition=Q(follow_up_due=True)),
        ]
        ordering = ["-started_at", "-id"]

    def __str__(self) -> str:
        return f"{self.trigger_type} {self.id}"

    @property
    def duration_ms(self) -> int | None:
        """From a worker's first claim to the end, in milliseconds."""
        if self.completed_at is None:
            return None
        return max(0, round((self.completed_at - (self.claimed_at or self.completed_at)).total_seconds() * 1000))

    @property
    def queued_ms(self) -> int | None:
        """From acceptance to a worker's first claim, in milliseconds."""
        if self.claimed_at is None:
            return None
        return max(0, round((self.claimed_at - self.started_at).total_seconds() * 1000))


class ExecutionPayload(models.Model):
    """What went into an execution and came out of it. All JSON is kept as text, as it came."""

    execution = models.OneToOneField(Execution, on_delete=models.CASCADE, primary_key=True, related_name="payload")
    input = models.TextField(default="null", help_text="JSON: the payload that the entry listener gets.")
    output = models.TextField(null=True, blank=True, help_text="JSON: the result.")
    response = models.TextField(
        null=True, blank=True, help_text="JSON: what a respond block says to a waiting webhook."
    )
    trigger = models.TextField(default="{}", help_text="JSON: name, headers, query, method and firedAt of the firing.")
    variables = models.TextField(default="{}", help_text="JSON: the variables as they were at acceptance.")
    only_listener = models.CharField(max_length=63, blank=True, help_text="A test of this one listener alone.")

    def __str__(self) -> str:
        return f"payload of {self.execution_id}"
