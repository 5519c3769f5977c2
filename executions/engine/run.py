"""One execution in one worker: delivers its messages until it ends, parks, or is handed back.

What is on record is delivered again from the record, which costs nothing and acts on nothing, so that a fresh run and
a resumed one are the same code.
"""

import asyncio
import logging
from collections import ChainMap
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property, partial
from random import Random
from typing import Any
from uuid import UUID

from django.db.models.functions import Now
from django.utils import timezone

from bloxserver.core import json_text
from executions import approvals, endings, speech
from executions.endings import Ending, canceled, timed_out
from executions.engine.leases import Claimed
from executions.engine.planner import Delivery, Plan
from executions.engine.record import Record
from executions.engine.steps import Outcome, StepFailed, StepRunner
from executions.engine.store import Change, LeaseLost, Store, Transaction
from executions.engine.turns import Turns
from executions.models import Execution, ExecutionStatus, State, Step, StepStatus
from executions.services.cancellation import cancel_called_by
from executions.speech import Turn
from flows.organism.spec import Organism

logger = logging.getLogger(__name__)

YIELD_EVERY = 10  # deliveries without a task of their own; then the loop sees to others
TASK_EVERY = 10  # levels of calls within calls: Python's stack goes no deeper
FLUSH_AFTER_STEPS = 200  # steps without effects wait for the next effect or the end, but no more than this many


@dataclass
class Scope:
    """A plan and the latest outputs that expressions see in it as `steps`: its own before those around it."""

    plan: Plan
    outputs: ChainMap[str, Any] = field(default_factory=ChainMap)
    depth: int = 0  # calls within calls

    def inner(self, plan: Plan) -> "Scope":
        return Scope(plan, self.outputs.new_child(), self.depth + 1)


class ExecutionRun:
    """Holds the lease of one execution from its claim to its end, park or hand-back."""

    def __init__(self, claimed: Claimed, organism: Organism, store: Store) -> None:
        self.claimed = claimed
        self.organism = organism
        self.store = store
        self.record = Record(claimed)
        self.children: set[UUID] = set()  # executions whose end this one waits for
        self.asked: set[UUID] = set()  # approvals whose answer this one waits for
        self.effects: set[asyncio.Task[Any]] = set()  # under way: their deliveries await and record them
        self.delivered: set[str] = set()  # keys, for the loop guard
        self.names = {  # what expressions see in every step
            "trigger": json_text.loads(claimed.trigger),
            "flow": {"id": str(claimed.flow_id), "name": claimed.flow_name},
            "execution": {
                "id": str(claimed.pk),
                "startedAt": claimed.started_at.isoformat(),
                "triggerType": claimed.trigger_type,
            },
            "vars": json_text.loads(claimed.variables),
        }
        self.secrets: dict[str, str] = {}  # by name, as far as they were used
        self._steps = StepRunner(self)
        self._alone = 0  # deliveries without a task of their own, so far
        self.turns = Turns(self._idle)
        self._handing_back = False
        self._parks = False
        self._stop_reason: Ending | None = None
        self._lost = False
        self._closing = False
        self._main: asyncio.Task[Any] | None = None

    @cached_property
    def random(self) -> Random:
        return Random(self.claimed.pk.int)  # noqa: S311 - spreads retries, hides nothing

    @property
    def is_handing_back(self) -> bool:
        """Nothing new is begun: what asks for something waits, until the run stands still."""
        return self._handing_back

    # What the drain and the lease keeper say. ---------------------------------------------------------------------

    def hand_back(self) -> None:
        """Start no further step; once those under way have ended, give the execution back to the queue."""
        self._handing_back = True
        self.turns.stop_at_standstill()

    def cancel(self, reason: str) -> None:
        self._stop(canceled(reason))

    def lose(self) -> None:
        """The lease is gone: write nothing more."""
        if not self._closing:
            self._lost = True
            self._cut_effects()
            self._cancel_main()

    def fail(self, code: str, message: str) -> None:
        """End the whole, whatever the scopes inside would make of a failure."""
        self._stop(Ending(ExecutionStatus.ERROR, code, message))

    def _time_out(self) -> None:
        """Past the deadline effects under way are not awaited: their steps say that they were cut."""
        self._cut_effects()
        self._stop(timed_out(self.claimed.seconds_allowed))

    def _idle(self) -> None:
        if self._main is not None and not self._main.done():
            self._parks = True
            self._main.cancel()

    def _stop(self, ending: Ending) -> None:
        if self._stop_reason is None and not self._closing:
            self._stop_reason = ending
            self._cancel_main()

    def _cut_effects(self) -> None:
        for effect in self.effects:
            effect.cancel()

    def _cancel_main(self) -> None:
        if self._main is not None:
            self._main.cancel()

    # The whole. ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Work on it. Never raises: what goes wrong is on record, or the lease runs out."""
        started = asyncio.get_running_loop().time()
        left = max(0.0, self.claimed.seconds_allowed - self.claimed.seconds_worked)
        deadline = asyncio.get_running_loop().call_later(left, self._time_out)
        try:
            ending = await self._work()
            self._closing = True
            if ending is not None:
                await self._end(ending)
            else:
                await self._park(asyncio.get_running_loop().time() - started)
        except LeaseLost:
            logger.warning("execution=%s is another worker's now; dropped", self.claimed.pk)
        except Exception:
            logger.exception("execution=%s could not be carried through", self.claimed.pk)
            await self._give_up()
        finally:
            deadline.cancel()

    async def _work(self) -> Ending | None:
        """Deliver messages until the end is known, or None when it parks or is handed back."""
        self._main = asyncio.create_task(self._root())
        if self._lost or self._stop_reason is not None:  # told before it began
            self._main.cancel()
        with suppress(asyncio.CancelledError, Exception):  # what became of it is looked at below
            await self._main
        if self._lost:
            raise LeaseLost
        if not self._main.cancelled():
            return self._outcome(self._main)
        if self._stop_reason is None and not self._parks:
            raise LeaseLost  # cancelled by nobody that is known here: the loop is being closed
        return self._stop_reason

    def _outcome(self, main: asyncio.Task[Any]) -> Ending:
        try:
            return Ending(ExecutionStatus.SUCCESS, output=json_text.dumps(main.result()))
        except StepFailed as failure:
            return Ending(ExecutionStatus.ERROR, failure.code, json_text.clean(failure.message))

    async def _root(self) -> Any:
        only = self.claimed.only_listener
        scope = Scope(Plan(self.organism, alone=bool(only)))
        first = scope.plan.start(only or self.organism.entry, json_text.loads(self.claimed.input))
        return await self.run_scope(scope, first)

    async def _end(self, ending: Ending) -> None:
        self.record.end_all(ending.error_message or "Dropped at the end of the execution.", ending.error_code)
        await self._write(self.record.unsaved(ending=ending))

    async def _give_up(self) -> None:
        """End it with nothing more on record: another worker would only meet the same fault."""
        self._closing = True
        ending = Ending(
            ExecutionStatus.ERROR, "internal_error", "The server could not carry it through; its log has the details."
        )
        try:
            await self.store.call_patiently(partial(endings.end_unheld, self.claimed, ending, now=timezone.now()))
        except Exception:
            logger.exception("execution=%s could not be ended; its lease runs out", self.claimed.pk)

    async def _park(self, seconds: float) -> None:
        """Give up the lease, and say when the execution is due again."""
        moments: dict[str, datetime] = {}
        for key, moment in self.turns.parked:
            if moment is not None:
                moments[key] = min(moment, moments.get(key, moment))
        for step in self.record.begun:
            step.status, step.due_at = StepStatus.WAITING, moments.get(step.key)
            self.record.put(step)
        due_at = Now() if self._handing_back else approvals.due_at(self.asked, min(moments.values(), default=None))
        release = {
            "state": State.QUEUED if self._handing_back else State.PARKED,
            "due_at": due_at,
            "on_probation": False,
            "claim_alone": False,
            "expiries": 0,
            "seconds_worked": self.claimed.seconds_worked + seconds,
        }
        await self._write(self.record.unsaved(release=release))
        if self.children:
            await self.store.call_patiently(self._look_once_more)

    def _look_once_more(self) -> None:
        """A child that ended while this was parking could not wake it: one of the two sees the other."""
        if Execution.objects.filter(pk__in=self.children, state=State.ENDED).exists():
            Execution.objects.filter(pk=self.claimed.pk, state=State.PARKED, fence=self.claimed.fence).update(
                due_at=Now()
            )

    # Scopes. ------------------------------------------------------------------------------------------------------

    async def run_scope(self, scope: Scope, first: list[Delivery]) -> Any:
        """Deliver `first` and all that follows from it; the scope's result. Raises `StepFailed`."""
        tasks: dict[asyncio.Task[Outcome], Delivery] = {}
        ready = self._take_turns(first)
        try:
            while ready or tasks:
                if len(ready) == 1 and not tasks and scope.depth % TASK_EVERY != TASK_EVERY - 1:
                    ready = self._follow(scope, ready[0], await self._deliver_alone(scope, ready[0]))
                    continue
                tasks |= {asyncio.create_task(self._steps.deliver(scope, delivery)): delivery for delivery in ready}
                ready = []
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in sorted(done, key=lambda task: self.record.order(tasks[task].key)):
                    outcome = task.result()
                    following = self._follow(scope, tasks.pop(task), outcome)
                    ready += following
                    if any(self.record.has_ended(delivery.key) for delivery in following):
                        break  # what it led to is on record, and had perhaps ended before the others in `done`
        except StepFailed:
            called_off = [*tasks.values(), *ready]
            await self._call_off(tasks)
            await self._drop([step for delivery in called_off for step in self.record.unfinished_at(delivery.key)])
            raise
        finally:
            await self._call_off(tasks)
            for _ in ready:
                self.turns.over()
        if self._handing_back and scope.plan.in_flight:
            await asyncio.Event().wait()  # until the run has noticed that it is idle, and cancels this
        return scope.plan.result

    async def _deliver_alone(self, scope: Scope, delivery: Delivery) -> Outcome:
        """Deliver the only message under way in a scope, without a task of its own."""
        self._alone += 1
        if self._alone % YIELD_EVERY == 0:
            await asyncio.sleep(0)
        return await self._steps.deliver(scope, delivery)

    async def _call_off(self, tasks: dict[asyncio.Task[Outcome], Delivery]) -> None:
        """Cancel deliveries. Each first awaits its effect under way, so that nothing that happened is forgotten."""
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled():
                task.exception()  # has been looked at
            self.turns.over()
        tasks.clear()

    async def drop_below(self, step: Step) -> None:
        """End what a step leaves unfinished in the scopes that it called, since the step itself is over."""
        await self._drop(self.record.unfinished_below(step.key))

    async def _drop(self, steps: list[Step]) -> None:
        """End what a failed scope leaves unfinished: nothing will deliver it again, also after a park.

        What it had called is cancelled before that is on record. So whatever cuts this off, the scope is met again, and
        fails and cancels again. A flow may have been called that only the database knows of: by a delivery that was
        called off amid the call, whose commit the flush comes after.
        """
        if not steps:
            return
        cancel = partial(
            cancel_called_by, execution_id=self.claimed.pk, steps=[step.key for step in steps], now=timezone.now()
        )
        self.turns.take()
        try:
            await self.flush()
            await self.store.call_patiently(cancel)
            for turn in [Turn(self.claimed.pk, step.pk, step.attempt) for step in steps if step.is_model_turn]:
                await self.store.speaker.run(partial(speech.forget, turn))
        finally:
            self.turns.over()
        self.record.drop(steps)

    def _follow(self, scope: Scope, delivery: Delivery, outcome: Outcome) -> list[Delivery]:
        """What follows from a delivery that has ended; only then is its own turn over."""
        if outcome.error is None:
            scope.outputs[delivery.listener] = outcome.value
            following = scope.plan.finished(delivery, outcome.value, outcome.to)
        else:
            following = scope.plan.failed(delivery, outcome.error, outcome.to[0])
        ready = self._take_turns(following)
        self.turns.over()
        return ready

    def _take_turns(self, deliveries: list[Delivery]) -> list[Delivery]:
        """Those of them that are to be delivered: while handing back, only from the record."""
        if self._handing_back:
            deliveries = [delivery for delivery in deliveries if self.record.has_ended(delivery.key)]
        for _ in deliveries:
            self.turns.take()
        return deliveries

    # The record. --------------------------------------------------------------------------------------------------

    async def flush(self) -> None:
        """Commit what has not been written."""
        await self._write(self.record.unsaved())

    async def transact(self, transaction: Transaction) -> Any:
        """Commit what has not been written, and then `transaction`. Gives what it gave, raises what it raised."""
        change = Change(self.claimed.pk, self.claimed.lease, transaction=transaction)
        _, value = await asyncio.gather(self.flush(), self._write(change))
        self.record.journal[transaction.entry.step_key, transaction.entry.position] = transaction.entry
        return value

    async def show_waiting(self, step: Step, until: datetime | None) -> None:
        """Commit all so far, with `step` as waiting."""
        step.status, step.due_at = StepStatus.WAITING, until
        self.record.put(step)
        await self.flush()

    async def flush_if_many(self) -> None:
        if self.record.unsaved_steps >= FLUSH_AFTER_STEPS:
            await self.flush()

    async def _write(self, change: Change) -> Any:
        try:
            return await self.store.save(change)
        except LeaseLost:
            self.lose()
            raise

    def accept_child(self, flow: str, payload: str) -> str:
        """Accept an execution of another flow of the tenant; runs in the database thread, in a transaction."""
        from executions.services import accept_execution
        from flows.services import flow_by_reference

        parent = Execution.objects.select_related("flow", "user").get(pk=self.claimed.pk)
        child = accept_execution(
            flow=flow_by_reference(user=parent.user, reference=flow),
            trigger_type=parent.trigger_type,
            trigger_name=f"called by {parent.flow.name}"[:100],
            payload=payload,
            parent=parent,
            now=timezone.now(),
        )
        return str(child.pk)
