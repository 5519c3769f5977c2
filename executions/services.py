"""What can be done with executions: accept, cancel, retry, wait for the end.

Accepted means it will run: the row is committed before anybody is told, and a worker finds it there.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

from django.db import transaction

from billing.services import limits_of, reserve_run
from bloxserver.core import advisory, json_text
from bloxserver.core.ids import new_id
from executions import endings, events
from executions.dispatch import ring_bell
from executions.errors import (
    CallTooDeep,
    ConcurrencyLimit,
    ExecutionEnded,
    ExecutionNotEnded,
    FlowNotRunning,
    NothingFailed,
    PayloadTooLarge,
    UnknownListener,
)
from executions.models import (
    Execution,
    ExecutionPayload,
    ExecutionStatus,
    JournalEntry,
    LargeOutput,
    State,
    Step,
    StepStatus,
)
from flows.models import Flow, FlowStatus
from flows.organism import OrganismInvalid
from flows.organism.spec import Concurrency, Organism
from flows.services import draft_version, load_organism, share_flow, variables_for

DEFAULT_SECONDS = 300.0  # of work, for an organism that names no timeout
# A webhook's megabyte can take six characters a byte as JSON, and a called flow gets a step's output, up to 5 MiB.
MAX_PAYLOAD_CHARACTERS = 8 * 1024 * 1024
DONE_KINDS = ("record", "transact")  # of journal entries: something was done
MAX_DEPTH = 10  # of flows that call flows


def accept_execution(
    *,
    flow: Flow,
    trigger_type: str,
    now: datetime,
    payload: str = "null",
    trigger: dict[str, Any] | None = None,
    trigger_id: UUID | None = None,
    trigger_name: str = "",
    scheduled_for: datetime | None = None,
    draft: bool = False,
    listener: str = "",
    parent: Execution | None = None,
    record: Callable[[Execution], None] | None = None,
) -> Execution:
    """Commit one execution of the flow's deployed version (or of its draft) and ring the bell.

    `payload` is JSON text; `trigger` is what expressions see as `trigger`; `listener` tests that one listener of the
    draft alone; `record` writes what has to be committed with the execution. Raises `FlowNotRunning` and
    `ConcurrencyLimit` (409), `UsageLimitExceeded` (402), `PayloadTooLarge` (413), `OrganismInvalid` and
    `UnknownListener` (400, drafts), `CallTooDeep` (400), and `django.db.IntegrityError` where (`trigger_id`,
    `scheduled_for`) has been fired.

    Safe under concurrency: the month's cap by a conditional update of the budget row, one firing a moment by a unique
    constraint, a stop at the same time by the flow's row lock, which firings share, the flow's limit by turns that
    firings take (`_make_room`).
    """
    if len(payload) > MAX_PAYLOAD_CHARACTERS:
        raise PayloadTooLarge(f"The payload has {len(payload):,} characters; {MAX_PAYLOAD_CHARACTERS:,} are allowed.")
    if parent is not None and parent.depth >= MAX_DEPTH:
        raise CallTooDeep(f"Flows call flows more than {MAX_DEPTH} deep here; is there a circle?")
    with transaction.atomic():
        version_id = _draft_version(flow) if draft else _deployed_version(flow)
        if listener and listener not in (names := load_organism(version_id).listeners):
            raise UnknownListener(f'There is no listener "{listener}"; the draft has: {", ".join(names)}.')
        execution = _insert(
            Execution(
                user_id=flow.user_id,
                flow=flow,
                version_id=version_id,
                trigger_id=trigger_id,
                trigger_name=trigger_name,
                trigger_type=trigger_type,
                scheduled_for=scheduled_for,
                is_draft=draft,
                parent_id=parent.pk if parent else None,
                depth=parent.depth + 1 if parent else 0,
            ),
            ExecutionPayload(
                input=payload,
                trigger=json_text.dumps({"type": trigger_type, "name": trigger_name, **(trigger or {})}),
                variables=json_text.dumps(variables_for(flow)),
                only_listener=listener,
            ),
            now=now,
        )
        if record is not None:
            record(execution)
    return execution


def _insert(execution: Execution, payload: ExecutionPayload, *, now: datetime) -> Execution:
    limits = limits_of(execution.flow.user)
    organism = _organism(execution.version_id)
    if organism is not None and organism.concurrency is not None:
        execution.flow_limit = organism.concurrency.limit
        if not execution.is_draft:
            _make_room(execution.flow, organism.concurrency, now=now)
    reserve_run(user=execution.flow.user, now=now)
    execution.priority = limits.priority
    wanted = (organism and organism.timeout) or DEFAULT_SECONDS
    execution.seconds_allowed = int(min(wanted, limits.execution_seconds))
    execution.started_at = execution.due_at = now
    execution.save(force_insert=True)
    payload.execution = execution
    payload.save(force_insert=True)
    ring_bell()
    return execution


def _draft_version(flow: Flow) -> UUID:
    return draft_version(flow).pk


def _deployed_version(flow: Flow) -> UUID:
    share_flow(flow)
    if not flow.user.is_active:
        raise FlowNotRunning("The account that this flow belongs to is closed.")
    if flow.status != FlowStatus.RUNNING or flow.deployed_version_id is None:
        raise FlowNotRunning(f'The flow "{flow.name}" is {flow.status}; start it first.')
    return flow.deployed_version_id


def _organism(version_id: UUID) -> Organism | None:
    try:
        return load_organism(version_id)
    except OrganismInvalid:  # a block is gone, say: the worker that claims it ends it with the reason
        return None


def _make_room(flow: Flow, concurrency: Concurrency, *, now: datetime) -> None:
    """Before a firing of the deployed version: refuse it, or cancel what is in its way, as `overlap` says.

    Raises `ConcurrencyLimit` (409). Firings share the flow's row lock, so each sees what others have committed and not
    what they are about to commit: those of such a flow take turns, until each commits. The turn comes after the row
    lock, which starts and stops take alone, and before all that one tenant's acceptances share. Test runs of the draft
    are not counted: they wait for their turn in the queue, and nobody's firing is refused for them.
    """
    if concurrency.overlap == "queue":
        return
    advisory.take(advisory.Turns.FLOW_OVERLAP, flow.pk)
    alive = Execution.objects.alive().filter(flow=flow, is_draft=False).order_by("started_at", "id")
    ids = list(alive.values_list("pk", flat=True))
    if len(ids) < concurrency.limit:
        return
    if concurrency.overlap == "skip":
        raise ConcurrencyLimit(
            f'The flow "{flow.name}" is limited to {concurrency.limit} at once, and {len(ids)} of its executions have '
            "not ended; what comes meanwhile is skipped. Send it again later, or change organism.concurrency."
        )
    oldest = ids[: len(ids) - concurrency.limit + 1]
    # After the commit: whoever ends an execution locks it, and perhaps its flow, and may hold what this one waits for.
    transaction.on_commit(partial(_cancel_all, oldest, now=now), robust=True)


def _cancel_all(ids: list[UUID], *, now: datetime) -> None:
    for execution in Execution.objects.filter(pk__in=ids).order_by("started_at", "id"):
        with suppress(ExecutionEnded):
            cancel_execution(execution=execution, by="a newer firing of the flow (concurrency)", now=now)


def cancel_execution(*, execution: Execution, by: str, now: datetime) -> Execution:
    """Cancel: at once where no worker holds it, else the worker is asked to. `by` completes "Canceled by".

    Raises `ExecutionEnded` (409). The row lock orders this against claims and against the worker's own writes.
    """
    reason = f"Canceled by {by}."[:300]
    with transaction.atomic():
        row = Execution.objects.select_for_update(of=("self",)).get(pk=execution.pk)
        if row.state == State.ENDED:
            raise ExecutionEnded(f"The execution has already ended as {row.status}; there is nothing to cancel.")
        if row.state == State.WORKING:
            if row.cancel_requested_at is None:
                row.cancel_requested_at, row.cancel_reason = now, reason
                row.save(update_fields=["cancel_requested_at", "cancel_reason"])
        else:
            row.cancel_requested_at, row.cancel_reason = now, reason
            row.save(update_fields=["cancel_requested_at", "cancel_reason"])
            endings.end_unheld(row, endings.canceled(reason), now=now)
    row.refresh_from_db()
    return row


def retry_execution(*, execution: Execution, from_failed: bool, now: datetime) -> Execution:
    """A new execution of the same payload: from the start, or with all that finished kept on record.

    From the start it runs the deployed version (a draft's test run: the draft as it is now); from the failed step it
    runs the same version as before. Raises `ExecutionNotEnded`, `NothingFailed`, and what acceptance raises.
    """
    if execution.state != State.ENDED:
        raise ExecutionNotEnded("The execution is still running; cancel it or wait for its end before retrying it.")
    if from_failed and execution.status == ExecutionStatus.SUCCESS:
        raise NothingFailed("The execution succeeded; retry it from the start instead.")
    flow, payload = execution.flow, execution.payload
    with transaction.atomic():
        version_id = _draft_version(flow) if execution.is_draft else _deployed_version(flow)
        if from_failed:
            version_id = execution.version_id
        retry = _insert(
            Execution(
                user_id=execution.user_id,
                flow=flow,
                version_id=version_id,
                trigger_id=execution.trigger_id,
                trigger_name=execution.trigger_name,
                trigger_type=execution.trigger_type,
                is_draft=execution.is_draft,
                retry_of=execution.pk,
            ),
            ExecutionPayload(
                input=payload.input,
                trigger=payload.trigger,
                variables=payload.variables if from_failed else json_text.dumps(variables_for(flow)),
                only_listener=payload.only_listener,
            ),
            now=now,
        )
        if from_failed:
            _copy_what_finished(execution, retry)
    return retry


def _copy_what_finished(execution: Execution, retry: Execution) -> None:
    """Steps that succeeded, or whose failure was handled, with their journal: the retry resumes after them.

    Of a step that had not finished, what it did is kept (effects recorded, transactions committed), not what it waited
    for: a delay is waited for again, a flow that failed is called again.
    """
    steps = [step for step in execution.steps.all() if step.status == StepStatus.SUCCESS or step.is_handled_error]
    by_key = {step.key: step for step in steps}
    journal = [entry for entry in execution.journal.all() if entry.step_key in by_key or entry.kind in DONE_KINDS]
    large = [
        (output.step.key, output.text) for output in LargeOutput.objects.filter(step__in=steps).select_related("step")
    ]
    for step in steps:
        step.id, step.execution = new_id(), retry
    for entry in journal:
        entry.id, entry.execution = new_id(), retry
    Step.objects.bulk_create(steps)
    LargeOutput.objects.bulk_create(LargeOutput(step=by_key[key], text=text) for key, text in large)
    JournalEntry.objects.bulk_create(journal)


def wait_for_end(execution_id: UUID, seconds: float) -> Execution | None:
    """Wait up to `seconds` for the execution's end; None when it has not come. Must not be called in a transaction."""
    deadline = time.monotonic() + seconds
    with events.watch(execution_id) as changes:
        while True:
            execution = Execution.objects.select_related("payload").get(pk=execution_id)
            if execution.state == State.ENDED:
                return execution
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return None
            changes.wait(remaining)
