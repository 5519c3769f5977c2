"""Accepting executions: from the commit on they will run.

Whatever fires (a call of a webhook, a moment of a schedule, a person, a flow that calls another) makes a `Firing`, and
any number of those are accepted together in one transaction: what is read, locked, counted and written is so once for
all. One alone is a batch of one.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, TypeAlias
from uuid import UUID

from django.db import transaction

from accounts.models import User
from billing.services import limits_of, reserve_runs, usage_limit_exceeded
from bloxserver.core import advisory, bulk, json_text, pipeline
from bloxserver.core.errors import DomainError, NotFound
from executions.dispatch import ring_bell
from executions.errors import CallTooDeep, ConcurrencyLimit, FlowBusy, FlowNotRunning, PayloadTooLarge, UnknownListener
from executions.models import Execution, ExecutionPayload
from executions.services.cancellation import cancel_all
from executions.usage.counting import runs_of
from flows.models import Flow, FlowStatus
from flows.organism import OrganismInvalid
from flows.organism.spec import Organism
from flows.services import draft_version, load_organism, share_flows, variables_of

DEFAULT_SECONDS = 300.0  # of work, for an organism that names no timeout
# A webhook's megabyte can take six characters a byte as JSON, and a called flow gets a step's output, up to 5 MiB.
MAX_PAYLOAD_CHARACTERS = 8 * 1024 * 1024
MAX_DEPTH = 10  # of flows that call flows

Outcome: TypeAlias = bulk.Row | DomainError  # the execution that a firing has made, or why it is refused


@dataclass(slots=True, kw_only=True)
class Firing:
    """What is to be accepted: one execution of the flow's deployed version, of its draft, or of `version_id`.

    `flow` comes with its user. `payload` is JSON text; `trigger` is what expressions see as `trigger`, beside its type
    and name; `listener` tests that one listener of the draft alone; `variables` (JSON text) are the flow's own where
    none are given.
    """

    flow: Flow
    trigger_type: str
    payload: str = "null"
    trigger: Mapping[str, Any] = field(default_factory=dict)
    trigger_id: UUID | None = None
    trigger_name: str = ""
    scheduled_for: datetime | None = None
    draft: bool = False
    listener: str = ""
    parent: Execution | None = None
    retry_of: UUID | None = None
    version_id: UUID | None = None
    variables: str | None = None


def accept_execution(*, now: datetime, **firing: Any) -> Execution:
    """Accept one `Firing` of these fields. Raises what `accept` raises."""
    return accept(Firing(**firing), now=now)


def accept(firing: Firing, *, now: datetime) -> Execution:
    """Accept one. Raises what `accept_all` gives for one that is refused, or raises itself."""
    (outcome,) = accept_all([firing], now=now)
    if isinstance(outcome, DomainError):
        raise outcome
    execution = Execution(**outcome)
    execution.flow = firing.flow
    return execution


def accept_all(firings: Sequence[Firing], *, now: datetime, wait: bool = True) -> list[Outcome]:
    """Commit an execution for each firing and ring the bell; for each its execution's row, or why it is refused.

    Refusals are `FlowNotRunning` and `ConcurrencyLimit` (409), `UsageLimitExceeded` (402), `PayloadTooLarge` (413),
    `OrganismInvalid` and `UnknownListener` (400, drafts), `CallTooDeep` (400), `NotFound` (a flow that was deleted), and
    without `wait` `FlowBusy` where a flow is being started, stopped or edited at this moment. The whole raises
    `django.db.IntegrityError` where a (`trigger_id`, `scheduled_for`) has been fired before.

    Safe under concurrency: a stop at the same time by the flows' row locks, which firings share; a flow's limit by
    turns that its firings take (`_take_turns`); the month's cap by the budget's row lock; one firing a moment by a unique
    constraint. All take their locks in that order, and each kind in the order of ids.
    """
    with pipeline.transaction(savepoint=False):
        variables = share_flows([firing.flow for firing in firings if not firing.draft], wait=wait)
        outcomes = [
            _prepared(firing, now=now) if wait or firing.draft or firing.flow.pk in variables else FlowBusy()
            for firing in firings
        ]
        alive = _take_turns(firings, outcomes)
        _skip_where_full(firings, outcomes, alive)
        _refuse_over_budget(firings, outcomes, now=now)
        _cancel_the_oldest(firings, outcomes, alive, now=now)
        accepted = [
            (firing, row) for firing, row in zip(firings, outcomes, strict=True) if not isinstance(row, DomainError)
        ]
        payloads = list(_payloads(accepted, variables))
        bulk.insert_rows(Execution, [row for _, row in accepted])
        bulk.insert_rows(ExecutionPayload, payloads)
        if accepted:
            ring_bell()
    return outcomes


def _prepared(firing: Firing, *, now: datetime) -> Outcome:
    """The execution that is to be inserted, or why there is none."""
    try:
        _check_bounds(firing)
        version_id = _version(firing)
    except DomainError as error:
        return error
    flow, parent, organism = firing.flow, firing.parent, _organism(version_id)
    limits = limits_of(flow.user)
    return bulk.new(
        Execution,
        user_id=flow.user_id,
        flow_id=flow.pk,
        version_id=version_id,
        trigger_id=firing.trigger_id,
        trigger_name=firing.trigger_name,
        trigger_type=firing.trigger_type,
        scheduled_for=firing.scheduled_for,
        retry_of=firing.retry_of,
        is_draft=firing.draft,
        parent_id=parent.pk if parent else None,
        depth=parent.depth + 1 if parent else 0,
        flow_limit=organism.concurrency.limit if organism and organism.concurrency else None,
        priority=limits.priority,
        seconds_allowed=int(min((organism and organism.timeout) or DEFAULT_SECONDS, limits.execution_seconds)),
        started_at=now,
        due_at=now,
    )


def _check_bounds(firing: Firing) -> None:
    if len(firing.payload) > MAX_PAYLOAD_CHARACTERS:
        raise PayloadTooLarge(
            f"The payload has {len(firing.payload):,} characters; {MAX_PAYLOAD_CHARACTERS:,} are allowed."
        )
    if firing.parent is not None and firing.parent.depth >= MAX_DEPTH:
        raise CallTooDeep(f"Flows call flows more than {MAX_DEPTH} deep here; is there a circle?")


def _version(firing: Firing) -> UUID:
    if not firing.draft:
        return firing.version_id or _deployed_version(firing.flow)
    version_id = firing.version_id or draft_version(firing.flow).pk
    if firing.listener and firing.listener not in (names := load_organism(version_id).listeners):
        raise UnknownListener(f'There is no listener "{firing.listener}"; the draft has: {", ".join(names)}.')
    return version_id


def _deployed_version(flow: Flow) -> UUID:
    """Of a flow whose row is shared."""
    if flow.deleted_at is not None:
        raise NotFound("Not found.")
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


# A flow's limit. -----------------------------------------------------------------------------------------------------


def _limited(
    firings: Sequence[Firing], outcomes: Sequence[Outcome], *overlaps: str
) -> Iterator[tuple[int, Firing, UUID, int]]:
    """The firings, with position, execution and limit, of flows whose `organism.concurrency` has one of these overlaps.

    Test runs of the draft wait for their turn in the queue, and nobody's firing is refused for them.
    """
    for at, (firing, outcome) in enumerate(zip(firings, list(outcomes), strict=True)):
        if not isinstance(outcome, DomainError) and outcome["flow_limit"] is not None and not firing.draft:
            organism = _organism(outcome["version_id"])
            if organism and organism.concurrency and organism.concurrency.overlap in overlaps:
                yield at, firing, outcome["id"], outcome["flow_limit"]


def _take_turns(firings: Sequence[Firing], outcomes: Sequence[Outcome]) -> dict[UUID, list[UUID]]:
    """By limited flow, the executions that are alive, the oldest first; nobody adds to them until this commits.

    Firings share the flow's row lock, so each sees what others have committed and not what they are about to commit:
    those of such a flow take turns. The turn comes after the row lock, which starts and stops take alone.
    """
    alive: dict[UUID, list[UUID]] = {}
    for flow_id in sorted({firing.flow.pk for _, firing, _, _ in _limited(firings, outcomes, "skip", "cancel")}):
        advisory.take(advisory.Turns.FLOW_OVERLAP, flow_id)
        rows = Execution.objects.alive().filter(flow=flow_id, is_draft=False).order_by("started_at", "id")
        alive[flow_id] = list(rows.values_list("pk", flat=True))
    return alive


def _skip_where_full(firings: Sequence[Firing], outcomes: list[Outcome], alive: dict[UUID, list[UUID]]) -> None:
    for at, firing, execution_id, limit in _limited(firings, outcomes, "skip"):
        ids = alive[firing.flow.pk]
        if len(ids) < limit:
            ids.append(execution_id)
        else:
            outcomes[at] = ConcurrencyLimit(
                f'The flow "{firing.flow.name}" is limited to {limit} at once, and {len(ids)} of its executions have '
                "not ended; what comes meanwhile is skipped. Send it again later, or change organism.concurrency."
            )


def _cancel_the_oldest(
    firings: Sequence[Firing], outcomes: Sequence[Outcome], alive: dict[UUID, list[UUID]], *, now: datetime
) -> None:
    doomed: list[UUID] = []
    for _, firing, execution_id, limit in _limited(firings, outcomes, "cancel"):
        ids = alive[firing.flow.pk]
        ids.append(execution_id)
        while len(ids) > limit:
            doomed.append(ids.pop(0))
    if doomed:
        # After the commit: whoever ends an execution locks it, and perhaps its flow, and may hold what this waits for.
        by = "a newer firing of the flow (concurrency)"
        transaction.on_commit(partial(cancel_all, doomed, by=by, now=now), robust=True)


# The month's cap, and what goes in. -----------------------------------------------------------------------------------


def _refuse_over_budget(firings: Sequence[Firing], outcomes: list[Outcome], *, now: datetime) -> None:
    by_user: dict[User, list[int]] = defaultdict(list)
    for at, (firing, outcome) in enumerate(zip(firings, outcomes, strict=True)):
        if not isinstance(outcome, DomainError):
            by_user[firing.flow.user].append(at)
    for user in sorted(by_user, key=lambda user: user.pk):
        positions = by_user[user]
        granted = reserve_runs(user=user, count=len(positions), now=now, accepted=partial(runs_of, user))
        for at in positions[granted:]:
            outcomes[at] = usage_limit_exceeded(user, now=now)


def _payloads(accepted: Sequence[tuple[Firing, bulk.Row]], variables: Mapping[UUID, str]) -> Iterator[bulk.Row]:
    for firing, execution in accepted:
        in_scope = firing.variables or variables.get(firing.flow.pk)
        if in_scope is None:  # a draft's
            in_scope = json_text.dumps(variables_of([firing.flow])[firing.flow.pk])
        yield bulk.new(
            ExecutionPayload,
            execution_id=execution["id"],
            input=firing.payload,
            trigger=json_text.dumps({"type": firing.trigger_type, "name": firing.trigger_name, **firing.trigger}),
            variables=in_scope,
            only_listener=firing.listener,
        )
