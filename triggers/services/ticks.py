"""The tick: firing the schedules that are due.

It takes due triggers a batch at a time under their row locks, and in one transaction makes their executions and moves
them on; the unique constraint on an execution's (trigger, moment) stands behind it. So any number of clocks, and threads of
one, fires each moment once. What became of each moment is written in that transaction too: fired, caught up, skipped,
missed or refused.

Locks are taken in the order flow, then trigger, as a start or a stop of the flow takes them; what another has is left to
it, or to the next tick.
"""

import logging
import time
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import DatabaseError, connection

from bloxserver.core import bulk, pipeline
from bloxserver.core.errors import DomainError
from executions.errors import ConcurrencyLimit, ExecutionEnded
from executions.models import Execution, TriggerType
from executions.services import Firing, accept_all, cancel_execution
from flows.models import Flow
from triggers import cron
from triggers.config import ScheduleConfig
from triggers.errors import InvalidTriggerConfig
from triggers.models import Moment, Outcome, Trigger
from triggers.services.schedules import context, disable, schedule_config, schedule_payload

logger = logging.getLogger(__name__)

BATCH = 1_000  # triggers in one transaction
THREADS = 2  # where more than that are due: PostgreSQL writes one batch while the next is prepared
TICK_SECONDS = 5.0  # then the rest is left to the next tick, so that the sweeper gets its turn
CATCH_UP_BATCH = 50  # moments of one trigger in one tick
ON_TIME = timedelta(seconds=60)  # a moment fired later than this is caught up, or missed for `catchUp: none`
MISSED_ROWS = 50  # moments missed at once that get a row each; more share one
MISSED_COUNTED = 10_000  # of those that share a row: 10 ms a thousand, in the tick


def tick(*, now: datetime) -> int:
    """Fire every schedule that is due, and say how many executions that made.

    Bounded in seconds; what is left is still due at the next tick. What keeps one trigger from firing is logged and does
    not keep the others; only a database that is away ends the tick.
    """
    deadline = time.monotonic() + TICK_SECONDS
    fired = 0
    done: set[UUID] = set()  # a trigger that cannot be fired stays due, and is not tried twice in one tick
    while time.monotonic() < deadline:
        ids = _due(now, done)
        if not ids:
            break
        done.update(ids)
        fired += _fire_batch(ids, now=now) if len(ids) <= BATCH else _fire_batches(ids, now=now)
    return fired


def _due(now: datetime, done: Collection[UUID]) -> list[UUID]:
    most = 2 * THREADS * BATCH
    rows = Trigger.objects.due(now).order_by("next_fire_at").values_list("pk", flat=True)
    return [pk for pk in rows[: most + len(done)] if pk not in done][:most]


def _fire_batches(ids: Sequence[UUID], *, now: datetime) -> int:
    def fire(batch: Sequence[UUID]) -> int:
        try:
            return _fire_batch(batch, now=now)
        finally:
            connection.close()  # the thread's own

    batches = [ids[at : at + BATCH] for at in range(0, len(ids), BATCH)]
    with ThreadPoolExecutor(THREADS if connection.vendor == "postgresql" else 1, thread_name_prefix="tick") as threads:
        return sum(threads.map(fire, batches))


def _fire_batch(ids: Sequence[UUID], *, now: datetime) -> int:
    """Fire them together, or each alone where one of them is in the way of that."""
    try:
        return _fire_due(ids, now=now, alone=len(ids) == 1)
    except Exception as error:
        if isinstance(error, DatabaseError) and not connection.is_usable():
            raise
        if len(ids) == 1:
            logger.exception("The schedule %s could not be fired; it is tried again at the next tick.", ids[0])
            return 0
    return sum(_fire_batch([each], now=now) for each in ids)


def _fire_due(ids: Sequence[UUID], *, now: datetime, alone: bool) -> int:
    with pipeline.transaction():
        turns = [turn for trigger in _lock(ids, now=now) if (turn := _turn(trigger, now=now)) is not None]
        if alone:  # because of this, perhaps
            _leave_out_what_was_fired(turns)
        _fire(turns, now=now)
        ledger = [row for turn in turns for row in turn.ledger]
        bulk.insert_rows(Moment, ledger, ignore_conflicts=True)  # a clock was set back
        bulk.update(
            Trigger,
            [(turn.trigger.pk, turn.next_moment, turn.next_moment + turn.offset) for turn in turns],
            where=("id",),
            set=("next_moment", "next_fire_at"),
        )
    # After the commit, and not under the flow's lock: whoever ends an execution may lock its flow next.
    for turn in turns:
        for execution in turn.overlapped:
            with suppress(ExecutionEnded):
                by = f'the schedule "{turn.trigger.name}", which fired again'
                cancel_execution(execution=execution, by=by, now=now)
    return sum(row["execution_id"] is not None for row in ledger)


@dataclass(slots=True)
class _Due:
    """What firing has to know of a trigger that is due: values, since instances of the model cost a tick twice as much."""

    pk: UUID
    flow: Flow
    name: str
    config: dict[str, Any]
    next_moment: datetime


def _lock(ids: Sequence[UUID], *, now: datetime) -> list[_Due]:
    """Those that are still due, each with its flow and owner, except what another clock, or a start or stop, has now.

    A flow is read once, however many schedules it has.
    """
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute(_LOCK, [list(ids), now])
            ids = [pk for (pk,) in cursor.fetchall()]
    due = Trigger.objects.due(now).filter(pk__in=ids)
    rows = list(due.values_list("pk", "flow_id", "name", "config", "next_moment"))
    flows = Flow.objects.without_bodies().select_related("user").in_bulk({flow_id for _, flow_id, *_ in rows})
    return [_Due(pk, flows[flow_id], *rest) for pk, flow_id, *rest in rows if flow_id in flows]


_LOCK = """
SELECT due.id FROM triggers_trigger due JOIN flows_flow ON flows_flow.id = due.flow_id
WHERE due.id = ANY (%s) AND due.next_fire_at <= %s
FOR NO KEY UPDATE OF due SKIP LOCKED FOR SHARE OF flows_flow SKIP LOCKED
"""


@dataclass(slots=True)
class _Turn:
    """One trigger's part in a batch."""

    trigger: _Due
    config: ScheduleConfig
    now: datetime
    offset: timedelta
    moments: list[datetime] = field(default_factory=list)  # to fire
    next_moment: datetime = field(init=False)
    ledger: list[bulk.Row] = field(default_factory=list)  # rows of `Moment`
    overlapped: list[Execution] = field(default_factory=list)  # to be cancelled

    def note(
        self,
        moment: datetime,
        outcome: Outcome,
        reason: str = "",
        *,
        code: str = "",
        execution_id: UUID | None = None,
        until: datetime | None = None,
        count: int | None = 1,
    ) -> None:
        self.ledger.append(
            bulk.new(
                Moment,
                trigger_id=self.trigger.pk,
                moment=moment,
                outcome=outcome,
                reason=reason[:500],
                code=code,
                lateness=max(0.0, (self.now - moment - self.offset).total_seconds()),
                execution_id=execution_id,
                until=until,
                count=count,
                created_at=self.now,
            )
        )

    def is_late(self, moment: datetime) -> bool:
        return self.now - self.offset - moment > ON_TIME


def _turn(trigger: _Due, *, now: datetime) -> _Turn | None:
    """Which moments of the trigger are to be fired, and when it is due next; None where its config cannot be read."""
    try:
        config = schedule_config(trigger.config)
    except InvalidTriggerConfig as error:
        refused = _Turn(trigger, ScheduleConfig(cron="@yearly"), now, timedelta(0))
        refused.note(trigger.next_moment, Outcome.REFUSED, error.message, code=error.code)
        bulk.insert_rows(Moment, refused.ledger, ignore_conflicts=True)
        disable(Trigger.objects.get(pk=trigger.pk), error)
        return None
    turn = _Turn(trigger, config, now, cron.offset(trigger.pk, config.jitter))
    last = _choose(turn, trigger.next_moment)
    turn.next_moment = config.schedule.next(last)
    return turn


def _choose(turn: _Turn, first: datetime) -> datetime:
    """Choose the moments to fire, as `catchUp` says; gives the last of those that are thereby done with."""
    config, until = turn.config, max(first, turn.now - turn.offset)
    if config.catch_up == "all":
        turn.moments = config.schedule.between(first, until, limit=CATCH_UP_BATCH)
        return turn.moments[-1]
    latest = first if config.schedule.next(first) > until else config.schedule.latest(first, until)
    if config.catch_up == "none" and turn.is_late(latest):
        _miss(turn, first, latest, "It came due while no clock ran, and catchUp is none.")
        return latest
    if latest != first:
        before = latest - timedelta(microseconds=1)
        _miss(turn, first, before, f"It came due while no clock ran; catchUp is {config.catch_up}.")
    turn.moments = [latest]
    return latest


def _miss(turn: _Turn, first: datetime, until: datetime, reason: str) -> None:
    """A row for each moment missed from `first` to `until`, or one for all where there are many."""
    logger.warning("The schedule %s missed its moments from %s to %s.", turn.trigger.pk, first, until)
    schedule = turn.config.schedule
    moments = schedule.between(first, until, limit=MISSED_COUNTED + 1)
    if len(moments) <= MISSED_ROWS:
        for moment in moments:
            turn.note(moment, Outcome.MISSED, reason)
        return
    exact = len(moments) <= MISSED_COUNTED
    last = moments[-1] if exact else schedule.latest(first, until)
    turn.note(first, Outcome.MISSED, reason, until=last, count=len(moments) if exact else None)


def _fire(turns: Sequence[_Turn], *, now: datetime) -> None:
    """Accept an execution for each chosen moment, all at once, but for those that must look at the one before."""
    for chosen in _rounds(turns):
        alive = _alive([turn for turn, _ in chosen if turn.config.overlap != "queue"])
        wanted: list[tuple[_Turn, datetime]] = []
        for turn, moment in chosen:
            before = alive.get(turn.trigger.pk, [])
            if before and turn.config.overlap == "skip":
                turn.note(moment, Outcome.SKIPPED, f"Execution {before[0].pk} was still running; overlap is skip.")
            else:
                wanted.append((turn, moment))
        outcomes = accept_all(_firings(wanted, now=now), now=now)
        for (turn, moment), outcome in zip(wanted, outcomes, strict=True):
            if not isinstance(outcome, DomainError):
                late = turn.is_late(moment)
                turn.note(moment, Outcome.CAUGHT_UP if late else Outcome.FIRED, execution_id=outcome["id"])
                if turn.config.overlap == "cancel":
                    turn.overlapped = alive.get(turn.trigger.pk, [])  # among them what an earlier round has made
            elif isinstance(outcome, ConcurrencyLimit):  # the flow's own `overlap: skip`
                turn.note(moment, Outcome.SKIPPED, outcome.message)
            else:
                turn.note(moment, Outcome.REFUSED, outcome.message, code=outcome.code)
                logger.warning("The schedule %s did not fire %s: %s", turn.trigger.pk, moment, outcome.message)


def _leave_out_what_was_fired(turns: Sequence[_Turn]) -> None:
    """A clock was set back, and a moment comes again: it has its execution."""
    for turn in turns:
        made = Execution.objects.filter(trigger_id=turn.trigger.pk, scheduled_for__in=turn.moments)
        fired = set(made.values_list("scheduled_for", flat=True))
        turn.moments = [moment for moment in turn.moments if moment not in fired]


def _rounds(turns: Sequence[_Turn]) -> Iterator[list[tuple[_Turn, datetime]]]:
    yield [(turn, moment) for turn in turns if turn.config.overlap == "queue" for moment in turn.moments]
    ordered = [turn for turn in turns if turn.config.overlap != "queue"]
    for number in range(max((len(turn.moments) for turn in ordered), default=0)):
        yield [(turn, turn.moments[number]) for turn in ordered if number < len(turn.moments)]


def _alive(turns: Sequence[_Turn]) -> dict[UUID, list[Execution]]:
    """What each trigger has made and has not ended."""
    if not turns:
        return {}
    rows = Execution.objects.alive().filter(
        flow__in={turn.trigger.flow.pk for turn in turns}, trigger_id__in=[turn.trigger.pk for turn in turns]
    )
    alive: dict[UUID, list[Execution]] = {}
    for row in rows:
        assert row.trigger_id is not None
        alive.setdefault(row.trigger_id, []).append(row)
    return alive


def _firings(wanted: Sequence[tuple[_Turn, datetime]], *, now: datetime) -> list[Firing]:
    payloads = {moment: schedule_payload(moment) for _, moment in wanted}  # most share one
    trigger = context(now=now)
    return [
        Firing(
            flow=turn.trigger.flow,
            trigger_type=TriggerType.SCHEDULE,
            trigger_id=turn.trigger.pk,
            trigger_name=turn.trigger.name,
            scheduled_for=moment,
            payload=payloads[moment],
            trigger=trigger,
        )
        for turn, moment in wanted
    ]
