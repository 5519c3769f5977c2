"""Executions, their payloads, steps and journal: outbox, queue, lock and log in one place."""

from typing import ClassVar

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone

from bloxserver.core.ids import new_id
from executions.querysets import ApprovalQuerySet, ExecutionQuerySet, FailureNoticeQuerySet, StepQuerySet
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
    claim_alone = models.BooleanField(default=False, help_text="A lease on it has expired: it gets a worker to itself.")
    crashes = models.PositiveSmallIntegerField(
        default=0, help_text="Leases that expired while it had a worker to itself."
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


LARGE_OUTPUT_CHARACTERS = 64 * 1024


class StepStatus(models.TextChoices):
    RUNNING = "running"  # its effect is under way
    WAITING = "waiting"  # it waits: for a time, a retry, or for what it called
    SUCCESS = "success"
    ERROR = "error"


class Step(models.Model):
    """One delivery: one message, given to one listener, whose block ran once to its end (in one attempt or several).

    `key` names the delivery by where it came from, so that a resumed execution plans the same keys again and finds
    what is on record. `number` grows with every write to a step of the execution: it orders the trace, and an event
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


class JournalEntry(models.Model):
    """The recorded result of one thing that a block asked of its run, by step and position.

    A block that runs again after a crash or a wait gets the recorded result and does not act twice.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    # The unique position below begins with it.
    execution = models.ForeignKey(Execution, on_delete=models.CASCADE, related_name="journal", db_index=False)
    step_key = models.CharField(max_length=32)
    position = models.CharField(max_length=32)
    kind = models.CharField(max_length=20, help_text="What was asked: record, transact, sleep, ask, start_flow.")
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


class NoticeKind(models.TextChoices):
    EMAIL = "email", "on_failure: mail"
    FLOW = "flow", "on_failure: flow"
    URL = "url", "on_failure: POST"
    PAUSED = "paused", "mail about the pause"


class FailureNotice(models.Model):
    """Somebody who is to be told of a failed execution, until it is done or given up.

    Queue and log in one: it is due while `due_at` is set. A claim counts the attempt and moves `due_at` on, so that
    what a dying worker leaves undone is tried again.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    execution = models.ForeignKey(Execution, on_delete=models.CASCADE, related_name="failure_notices")
    kind = models.CharField(max_length=10, choices=NoticeKind.choices)
    target = models.TextField(help_text="Addresses, a flow, or a URL.")
    attempts = models.PositiveSmallIntegerField(default=0)
    due_at = models.DateTimeField(
        null=True, blank=True, default=timezone.now, help_text="Of the next attempt; empty when done or given up."
    )
    done_at = models.DateTimeField(null=True, blank=True)
    error = models.TextField(blank=True, help_text="Why the last attempt failed.")
    started = models.UUIDField(null=True, blank=True, help_text="The execution of the other flow that it made.")
    created_at = models.DateTimeField(default=timezone.now)

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


from executions.bulk.models import BulkItem, BulkOperation  # noqa: E402, F401 - Django looks for models here
