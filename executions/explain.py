"""Why an execution ran, on what, what it waited for, what went wrong, what it cost, and what a retry would do again.

`explain` is pure: a record (`explain_record.py`) in, answer out. All of it is told from what is on record; what is not
(the moment of each claim, say) is left out rather than guessed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from bloxserver.core import json_text
from executions.explain_record import Record
from executions.models import (
    START_FLOW,
    TURNED_AWAY,
    Execution,
    ExecutionStatus,
    State,
    Step,
    StepStatus,
    TriggerType,
)
from executions.origins import Origin
from flows.blocks.base import Effects
from flows.models import FlowStatus

WORKER_LOST = "worker_lost"


@dataclass(frozen=True, slots=True)
class Why:
    text: str
    trigger_type: str
    trigger_id: UUID | None
    trigger_name: str
    fired_at: str | None
    scheduled_for: datetime | None
    delivery_id: UUID | None
    delivery_key: str | None
    received_at: datetime | None
    address: str | None
    moment_id: UUID | None
    retry_of: UUID | None
    parent_id: UUID | None


@dataclass(frozen=True, slots=True)
class Version:
    number: int | None
    deployed_at: datetime | None
    is_deployed_now: bool


@dataclass(frozen=True, slots=True)
class Wait:
    """`until` is when it went on, or is due to; null while nobody knows."""

    cause: str  # queued, delay, retry, turned_away, call_flow, approval, crash
    listener: str | None
    since: datetime
    until: datetime | None
    seconds: float | None
    execution_id: UUID | None = None  # the called one
    reason: str | None = None  # why it was turned away


@dataclass(frozen=True, slots=True)
class Failure:
    listener: str
    step_id: UUID
    attempt: int
    code: str
    error: str
    at: datetime | None
    outcome: str  # tried_again, handled, failed


@dataclass(frozen=True, slots=True)
class Crashes:
    """`alone` counts workers that died when they had just taken it up, with nothing else to blame; three end it."""

    lease_has_expired: bool
    alone: int
    steps_under_way: int  # that a worker's death cut off
    text: str


@dataclass(frozen=True, slots=True)
class Cost:
    steps: int
    attempts: int
    seconds_worked: float
    seconds_allowed: int
    queued_ms: int | None
    duration_ms: int | None
    tokens_in: int
    tokens_out: int
    model_turns: int  # answers of models
    model_cost: Decimal  # US dollars, of those whose price is known
    unpriced_turns: int  # the others


@dataclass(frozen=True, slots=True)
class Effect:
    listener: str
    step_id: UUID
    effects: str
    status: str


@dataclass(frozen=True, slots=True)
class Retry:
    """What a retry would do: whether it is possible now, and of what is on record what would happen again, or be kept."""

    is_possible: bool
    text: str
    version: int | None
    again: list[Effect]
    kept: list[Effect]


@dataclass(frozen=True, slots=True)
class Explanation:
    execution_id: UUID
    status: str
    state: str
    text: str
    why: Why
    version: Version
    waits: list[Wait]
    failures: list[Failure]
    crashes: Crashes
    cost: Cost
    retry_from_start: Retry
    retry_from_failed: Retry
    is_complete: bool


def explain(record: Record, *, now: datetime) -> Explanation:
    execution = record.execution
    return Explanation(
        execution_id=execution.pk,
        status=execution.status,
        state=execution.state,
        text=_state_text(record, now),
        why=_why(execution, record.trigger, record.origin),
        version=_version(record),
        waits=sorted(_waits(record, now), key=lambda wait: wait.since),
        failures=[failure for step in record.steps for failure in _failures(step)],
        crashes=_crashes(record, now),
        cost=_cost(record),
        retry_from_start=_from_start(record),
        retry_from_failed=_from_failed(record),
        is_complete=record.is_complete,
    )


def _state_text(record: Record, now: datetime) -> str:
    execution = record.execution
    match execution.state:
        case State.QUEUED:
            if execution.claimed_at is None:
                return "It waits for a worker to take it."
            return "It has been worked on, and waits for a worker to go on with it."
        case State.WORKING:
            return f"The worker {execution.lease_owner} is at it."
        case State.PARKED:
            waiting = ", ".join(sorted({step.listener for step in record.steps if step.status == StepStatus.WAITING}))
            due = f" until {_iso(execution.due_at)}" if execution.due_at else ""
            return f"It waits{due} without holding a worker{f', in {waiting}' if waiting else ''}."
        case _:
            reason = f": {execution.error_message}" if execution.error_message else "."
            return f"It ended as {execution.status} at {_iso(execution.completed_at)}{reason}"


def _why(execution: Execution, trigger: Mapping[str, Any], origin: Origin) -> Why:
    return Why(
        text=_why_text(execution, trigger, origin),
        trigger_type=execution.trigger_type,
        trigger_id=execution.trigger_id,
        trigger_name=execution.trigger_name,
        fired_at=trigger.get("firedAt"),
        scheduled_for=execution.scheduled_for,
        delivery_id=origin.delivery_id,
        delivery_key=origin.delivery_key,
        received_at=origin.received_at,
        address=origin.address,
        moment_id=origin.moment_id,
        retry_of=execution.retry_of,
        parent_id=execution.parent_id,
    )


def _why_text(execution: Execution, trigger: Mapping[str, Any], origin: Origin) -> str:
    if execution.retry_of:
        return f"It repeats the execution {execution.retry_of}."
    if execution.parent_id:
        return f"The execution {execution.parent_id} called this flow."
    if execution.is_draft:
        return "Somebody tested the draft."
    named = f' "{execution.trigger_name}"' if execution.trigger_name else ""
    if execution.trigger_type == TriggerType.WEBHOOK:
        if not trigger.get("method"):
            return f"Somebody fired the webhook{named} by hand."
        sender = f" from {origin.address}" if origin.address else ""
        if origin.is_replay:
            came = f"which had come at {_iso(origin.received_at)}{sender} and been refused"
            return f"Somebody replayed the delivery {origin.delivery_id} of the webhook{named}, {came}."
        delivery = f", delivery {origin.delivery_id}" if origin.delivery_id else ""
        return f"A {trigger['method']} request came{sender} to the webhook{named}{delivery}."
    if execution.trigger_type == TriggerType.SCHEDULE:
        moment = f" for its moment {_iso(execution.scheduled_for)}" if execution.scheduled_for else " by hand"
        return f"The schedule{named} fired{moment}."
    return f"Somebody ran it by hand{f' through the trigger{named}' if named else ''}."


def _version(record: Record) -> Version:
    version = record.version
    return Version(
        number=version.number,
        deployed_at=version.created_at if version.number else None,
        is_deployed_now=record.flow.deployed_version_id == version.pk,
    )


def _waits(record: Record, now: datetime) -> Iterator[Wait]:
    execution = record.execution
    end = execution.completed_at or now
    yield _wait("queued", None, execution.started_at, execution.claimed_at or execution.completed_at)
    listeners = {step.key: step.listener for step in record.steps}
    for entry in record.journal:
        value, listener = json_text.loads(entry.value), listeners.get(entry.step_key)
        if entry.kind == START_FLOW:
            child = record.children.get(UUID(value))  # None: it has been pruned
            if child is not None:
                yield _wait("call_flow", listener, child.started_at, child.completed_at, child.pk)
            continue
        cause, reason = "retry" if entry.position.startswith("retry ") else "delay", None
        if entry.kind == TURNED_AWAY:
            cause, reason, value = TURNED_AWAY, f"{value['code']}: {value['reason']}", value["until"]
        due = datetime.fromisoformat(value)
        until = min(due, end) if execution.state == State.ENDED else due
        yield _wait(cause, listener, entry.created_at, until, reason=reason)
    for asked in record.approvals:
        over = asked.answered_at or execution.completed_at or asked.expires_at
        yield _wait(asked.kind, asked.listener, asked.asked_at, over)


def _wait(
    cause: str,
    listener: str | None,
    since: datetime,
    until: datetime | None,
    execution_id: UUID | None = None,
    reason: str | None = None,
) -> Wait:
    seconds = None if until is None else round(max(0.0, (until - since).total_seconds()), 3)
    return Wait(cause, listener, since, until, seconds, execution_id, reason)


def _failures(step: Step) -> Iterator[Failure]:
    if step.is_model_turn:  # the step that asked has failed with it, and says so
        return
    for entry in step.failures:
        at = datetime.fromisoformat(entry["at"])
        yield Failure(step.listener, step.pk, entry["attempt"], entry["code"], entry["error"], at, "tried_again")
    if step.status == StepStatus.ERROR:
        outcome = "handled" if step.is_handled_error else "failed"
        yield Failure(
            step.listener, step.pk, step.attempt, step.error_code, step.error or "", step.completed_at, outcome
        )


def _crashes(record: Record, now: datetime) -> Crashes:
    execution = record.execution
    cut_off = sum(
        failure.code == WORKER_LOST and failure.outcome != "handled"
        for step in record.steps
        for failure in _failures(step)
    )
    overdue = execution.lease_until is not None and execution.lease_until < now
    lost = bool(execution.lost_owner) or execution.claim_alone  # the owner was not kept by earlier releases
    expired = lost or overdue or execution.error_code == WORKER_LOST
    if not expired:
        text = "No worker has died while it worked on this execution, as far as is on record."
    elif overdue:
        text = f"The lease of {execution.lease_owner} has run out: another worker takes over within seconds."
    else:
        worker = f"The worker {execution.lost_owner}" if execution.lost_owner else "A worker"  # of before that was kept
        text = f"{worker} held it and gave no sign of life." + (
            f" Workers that died as soon as they had taken it up: {execution.crashes}." if execution.crashes else ""
        )
        if execution.state != State.ENDED and (execution.on_probation or execution.claim_alone):
            text += " Nothing else is claimed beside it until it has worked for some time."
    return Crashes(expired, execution.crashes, cut_off, text)


def _cost(record: Record) -> Cost:
    execution, steps = record.execution, record.steps
    own = [step for step in steps if not _is_copy(execution, step)]
    calls = [step.model_call for step in own if step.model_call and step.status == StepStatus.SUCCESS]
    costs = [Decimal(call["cost"]) for call in calls if call["cost"] is not None]
    return Cost(
        steps=len(steps),
        attempts=sum(step.attempt for step in steps),
        seconds_worked=round(execution.seconds_worked, 3),
        seconds_allowed=execution.seconds_allowed,
        queued_ms=execution.queued_ms,
        duration_ms=execution.duration_ms,
        tokens_in=sum(step.tokens_in for step in own),
        tokens_out=sum(step.tokens_out for step in own),
        model_turns=len(calls),
        model_cost=sum(costs, Decimal(0)),
        unpriced_turns=len(calls) - len(costs),
    )


def _is_copy(execution: Execution, step: Step) -> bool:
    """Of what an execution that this one repeats had finished, and paid for."""
    is_older = step.completed_at is not None and step.completed_at < execution.started_at
    return execution.retry_of is not None and is_older


def _from_start(record: Record) -> Retry:
    execution, flow = record.execution, record.flow
    deployed = flow.deployed_version
    again = [effect for step in record.steps if not step.is_model_turn and (effect := _effect(record, step))]
    possible, text = True, "Everything runs again, with the same payload"
    if execution.state != State.ENDED:
        possible, text = False, "It has not ended: cancel it, or wait for its end."
    elif execution.is_draft:
        text += ", on the draft as it is now."
    elif flow.status != FlowStatus.RUNNING or deployed is None:
        possible, text = False, f"The flow is {flow.status}: start it first."
    else:
        text += f", on version {deployed.number}, which is the deployed one."
    number = None if execution.is_draft or deployed is None else deployed.number
    return Retry(possible, text, number, again, [])


def _from_failed(record: Record) -> Retry:
    execution, flow = record.execution, record.flow
    kept_steps = [step for step in record.steps if step.status == StepStatus.SUCCESS or step.is_handled_error]
    keys = {step.key for step in kept_steps}
    # A model's turn goes with the step that asked, unless that runs again and the answer is kept.
    told = [
        step for step in record.steps if not (step.is_model_turn and (step.caller_key in keys or step.key not in keys))
    ]
    kept = [effect for step in told if step.key in keys and (effect := _effect(record, step))]
    again = [effect for step in told if step.key not in keys and (effect := _effect(record, step))]
    possible = True
    text = f"The {len(kept_steps)} steps that had finished are kept; the rest runs, on the same version as before."
    if execution.state != State.ENDED:
        possible, text = False, "It has not ended: cancel it, or wait for its end."
    elif execution.status == ExecutionStatus.SUCCESS:
        possible, text = False, "It succeeded: retry it from the start instead."
    elif not execution.is_draft and flow.status != FlowStatus.RUNNING:
        possible, text = False, f"The flow is {flow.status}: start it first."
    return Retry(possible, text, record.version.number, again, kept)


def _effect(record: Record, step: Step) -> Effect | None:
    """What the step did, or may have done, beyond computing; None where running it again changes nothing."""
    effects = record.effects.get(step.listener, Effects.NONE)
    return None if effects is Effects.NONE else Effect(step.listener, step.pk, effects.value, step.status)


def _iso(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}" if moment else "an unknown moment"
