"""Schedules: arming them while their flow runs, and firing what is due.

A trigger that is armed has a `next_moment` (what its cron says) and a `next_fire_at` (that moment, its jitter later).
The tick takes each due trigger under its row lock, and in one transaction makes the execution and moves both on; the
unique constraint on an execution's (trigger, moment) stands behind it. So any number of clocks fires each moment once.
What became of each moment is written in that transaction too: fired, caught up, skipped, missed or refused.

Locks are taken in the order flow, then trigger, as a start or a stop of the flow takes them.
"""

import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from uuid import UUID

from django.db import DatabaseError, IntegrityError, transaction

from bloxserver.core import json_text
from bloxserver.core.errors import DomainError
from executions.errors import ConcurrencyLimit, ExecutionEnded
from executions.models import Execution
from executions.services import accept_execution, cancel_execution
from flows.models import Flow, FlowStatus
from triggers import cron
from triggers.config import ScheduleConfig, read_config
from triggers.errors import InvalidTriggerConfig
from triggers.models import Moment, Outcome, Trigger

logger = logging.getLogger(__name__)

TICK_BATCH = 500  # triggers
TICK_SECONDS = 5.0  # then the rest is left to the next tick, so that the sweeper gets its turn
CATCH_UP_BATCH = 50  # moments of one trigger in one tick
ON_TIME = timedelta(seconds=60)  # a moment fired later than this is caught up, or missed for `catchUp: none`
MISSED_ROWS = 50  # moments missed at once that get a row each; more share one
MISSED_COUNTED = 10_000  # of those that share a row: 10 ms a thousand, in the tick


def arm(trigger: Trigger, *, flow: Flow, now: datetime) -> None:
    """Set, without saving, when `trigger` fires next: not at all unless it is an enabled schedule of a running flow."""
    trigger.next_moment = trigger.next_fire_at = None
    if trigger.type == "schedule" and trigger.enabled and flow.status == FlowStatus.RUNNING:
        config = schedule_config(trigger)
        _set_next(trigger, config, config.schedule.next(now))


def arm_flow(*, flow: Flow, now: datetime) -> None:
    """Arm the schedules of a flow that has started, in its transaction; those still armed are left as they are.

    (A redeployment must not lose a moment that is due and not yet fired.) A schedule that can no longer be read is
    disabled instead of keeping the flow from its start.
    """
    triggers = Trigger.objects.schedules().filter(flow=flow, enabled=True, next_fire_at=None)
    for trigger in triggers.select_for_update(of=("self",), no_key=True).order_by("pk"):
        try:
            arm(trigger, flow=flow, now=now)
        except InvalidTriggerConfig as error:
            _disable(trigger, error)
        else:
            trigger.save(update_fields=["next_moment", "next_fire_at"])


def disarm_flow(*, flow: Flow) -> None:
    """No schedule of a stopped flow is due any more. In the transaction that stops it."""
    Trigger.objects.armed().filter(flow=flow).update(next_moment=None, next_fire_at=None)


def preview(trigger: Trigger, *, now: datetime, count: int = 5) -> list[datetime]:
    """When this schedule fires next, `count` times, or would if it were enabled and its flow ran."""
    config = schedule_config(trigger)
    offset = cron.offset(trigger.pk, config.jitter)
    upcoming = config.schedule.first(count, after=now - offset)
    if trigger.next_moment is not None and trigger.next_moment not in upcoming:  # due, or waiting out its jitter
        upcoming = [trigger.next_moment, *upcoming[: count - 1]]
    return [moment + offset for moment in upcoming]


def tick(*, now: datetime) -> int:
    """Fire every schedule that is due, and say how many executions that made.

    Bounded in triggers and in seconds; what is left is still due at the next tick. What keeps one trigger from firing
    is logged and does not keep the others; only a database that fails ends the tick.
    """
    deadline = time.monotonic() + TICK_SECONDS
    fired = 0
    for trigger_id in Trigger.objects.due(now).order_by("next_fire_at").values_list("pk", flat=True)[:TICK_BATCH]:
        try:
            fired += _fire_due(trigger_id, now=now)
        except DatabaseError:
            raise
        except Exception:
            logger.exception("The schedule %s could not be fired; it is tried again at the next tick.", trigger_id)
        if time.monotonic() > deadline:
            break
    return fired


def schedule_config(trigger: Trigger) -> ScheduleConfig:
    """Raises `InvalidTriggerConfig`."""
    config = read_config(trigger.type, trigger.config)
    assert isinstance(config, ScheduleConfig)
    return config


def _fire_due(trigger_id: UUID, *, now: datetime) -> int:
    """Fire the due moments of one trigger, unless another clock, or its flow's start or stop, has it at this moment."""
    with transaction.atomic():
        due = Trigger.objects.due(now).filter(pk=trigger_id).with_flow()
        trigger = due.select_for_update(skip_locked=True, of=("self", "flow"), no_key=True).first()
        if trigger is None:
            return 0
        ledger = _Ledger(trigger, now=now)
        try:
            config = schedule_config(trigger)
        except InvalidTriggerConfig as error:
            assert trigger.next_moment is not None
            ledger.add(trigger.next_moment, Outcome.REFUSED, error.message, code=error.code)
            ledger.write()
            _disable(trigger, error)
            return 0
        ledger.offset = cron.offset(trigger.pk, config.jitter)
        moments, last = _moments_due(trigger, config, ledger, now=now)
        overlapped = _fire_moments(trigger, config, moments, ledger, now=now)
        ledger.write()
        _set_next(trigger, config, config.schedule.next(last))
        trigger.save(update_fields=["next_moment", "next_fire_at"])
    # After the commit, and not under the flow's lock: whoever ends an execution may lock its flow next.
    for execution in overlapped:
        with suppress(ExecutionEnded):
            cancel_execution(execution=execution, by=f'the schedule "{trigger.name}", which fired again', now=now)
    return ledger.fired


class _Ledger:
    """What becomes of a trigger's moments in one tick; written in one statement, in the tick's transaction."""

    def __init__(self, trigger: Trigger, *, now: datetime) -> None:
        self.trigger, self.now, self.offset, self.rows = trigger, now, timedelta(0), list[Moment]()

    def add(
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
        self.rows.append(
            Moment(
                trigger=self.trigger,
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

    def write(self) -> None:
        """A moment that has its row already keeps it: its clock was set back."""
        Moment.objects.bulk_create(self.rows, ignore_conflicts=True)

    @property
    def fired(self) -> int:
        return sum(1 for row in self.rows if row.execution_id is not None)


def _moments_due(
    trigger: Trigger, config: ScheduleConfig, ledger: _Ledger, *, now: datetime
) -> tuple[list[datetime], datetime]:
    """The moments to fire now, as `catchUp` says, and the last of those that are thereby done with."""
    assert trigger.next_moment is not None
    first, until = trigger.next_moment, max(trigger.next_moment, now - ledger.offset)
    if config.catch_up == "all":
        moments = config.schedule.between(first, until, limit=CATCH_UP_BATCH)
        return moments, moments[-1]
    latest = config.schedule.latest(first, until)
    if config.catch_up == "none" and ledger.is_late(latest):
        _miss(config, ledger, first, latest, "It came due while no clock ran, and catchUp is none.")
        return [], latest
    if latest != first:
        before = latest - timedelta(microseconds=1)
        _miss(config, ledger, first, before, f"It came due while no clock ran; catchUp is {config.catch_up}.")
    return [latest], latest


def _miss(config: ScheduleConfig, ledger: _Ledger, first: datetime, until: datetime, reason: str) -> None:
    """A row for each moment missed from `first` to `until`, or one for all where there are many."""
    logger.warning("The schedule %s missed its moments from %s to %s.", ledger.trigger.pk, first, until)
    moments = config.schedule.between(first, until, limit=MISSED_COUNTED + 1)
    if len(moments) <= MISSED_ROWS:
        for moment in moments:
            ledger.add(moment, Outcome.MISSED, reason)
        return
    exact = len(moments) <= MISSED_COUNTED
    last = moments[-1] if exact else config.schedule.latest(first, until)
    ledger.add(first, Outcome.MISSED, reason, until=last, count=len(moments) if exact else None)


def _fire_moments(
    trigger: Trigger, config: ScheduleConfig, moments: Sequence[datetime], ledger: _Ledger, *, now: datetime
) -> list[Execution]:
    """Fire `moments`; gives the executions that they overlap and that are to be cancelled."""
    overlapped: list[Execution] = []
    for moment in moments:
        alive = [] if config.overlap == "queue" else _alive(trigger)
        if alive and config.overlap == "skip":
            ledger.add(moment, Outcome.SKIPPED, f"Execution {alive[0].pk} was still running; overlap is skip.")
        elif _fire(trigger, moment, ledger, now=now):
            overlapped = alive  # these include what an earlier moment of this loop has made
    return overlapped


def _alive(trigger: Trigger) -> list[Execution]:
    return list(Execution.objects.alive().filter(flow_id=trigger.flow_id, trigger_id=trigger.pk))


def _fire(trigger: Trigger, moment: datetime, ledger: _Ledger, *, now: datetime) -> bool:
    """One execution for one moment; False where it is refused, or has been made before."""
    try:
        with transaction.atomic():
            execution = accept_execution(
                flow=trigger.flow,
                trigger_type=trigger.type,
                trigger_id=trigger.pk,
                trigger_name=trigger.name,
                scheduled_for=moment,
                payload=schedule_payload(moment),
                trigger=context(now=now),
                now=now,
            )
    except ConcurrencyLimit as error:  # the flow's own `overlap: skip`
        ledger.add(moment, Outcome.SKIPPED, error.message)
        return False
    except DomainError as error:
        ledger.add(moment, Outcome.REFUSED, error.message, code=error.code)
        logger.warning("The schedule %s did not fire %s: %s", trigger.pk, moment, error.message)
        return False
    except IntegrityError:
        logger.info("The schedule %s has fired %s before.", trigger.pk, moment)
        return False
    outcome = Outcome.CAUGHT_UP if ledger.is_late(moment) else Outcome.FIRED
    ledger.add(moment, outcome, execution_id=execution.pk)
    return True


def schedule_payload(moment: datetime) -> str:
    """What the entry listener of a scheduled flow gets, as JSON."""
    return json_text.dumps({"scheduledFor": iso(moment)})


def context(
    *, now: datetime, method: str | None = None, headers: dict[str, str] | None = None, query: object = None
) -> dict[str, object]:
    """What expressions see as `trigger`, beside its type and name; the same keys whatever fired."""
    return {"firedAt": iso(now), "method": method, "headers": headers or {}, "query": query or {}}


def iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _set_next(trigger: Trigger, config: ScheduleConfig, moment: datetime) -> None:
    trigger.next_moment = moment
    trigger.next_fire_at = moment + cron.offset(trigger.pk, config.jitter)


def _disable(trigger: Trigger, error: InvalidTriggerConfig) -> None:
    logger.error("The schedule %s is disabled: %s", trigger.pk, error.message)
    trigger.enabled = False
    trigger.next_moment = trigger.next_fire_at = None
    trigger.save(update_fields=["enabled", "next_moment", "next_fire_at"])
