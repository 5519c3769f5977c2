"""One execution in one worker: delivers its messages until it ends, parks, or is handed back.

What is on record is delivered again from the record, which costs nothing and acts on nothing, so that a fresh run and
a resumed one are the same code.
"""

import asyncio
import logging
from collections import ChainMap
from dataclasses import dataclass, field
from datetime import datetime
from random import Random
from typing import Any
from uuid import UUID

from django.db.models.functions import Now
from django.utils import timezone

from bloxserver.core import json_text
from executions.endings import Ending, canceled, timed_out
from executions.engine.leases import Claimed
from executions.engine.planner import Delivery, Plan
from executions.engine.steps import Outcome, StepFailed, StepRunner
from executions.engine.store import Change, LeaseLost, Store, Transaction
from executions.models import Execution, ExecutionStatus, JournalEntry, State, Step, StepStatus
from flows.blocks.base import BlockError
from flows.organism.spec import Organism

logger = logging.getLogger(__name__)

SETTLE_SECONDS = 0.02
FLUSH_AFTER_STEPS = 200  # steps without effects wait for the next effect or the end, but no more than this many


@dataclass
class Scope:
    """A plan and the latest outputs that expressions see in it as `steps`: its own before those around it."""

    plan: Plan
    outputs: ChainMap[str, Any] = field(default_factory=ChainMap)

    def inner(self, plan: Plan) -> "Scope":
        return Scope(plan, self.outputs.new_child())


class ExecutionRun:
    """Holds the lease of one execution from its claim to its end, park or hand-back."""

    def __init__(self, claimed: Claimed, organism: Organism, store: Store) -> None:
        self.execution = claimed.execution
        self.organism = organism
        self.store = store
        self.fence = claimed.execution.fence
        self.recorded = {step.key: step for step in claimed.steps}
        self.journal = {(entry.step_key, entry.position): entry for entry in claimed.journal}
        self.children: set[UUID] = set()  # executions whose end this one waits for
        self.response: str | None = None  # what a respond block said, until it is written
        self.effects: dict[asyncio.Task[Any], Step] = {}  # under way: awaited and recorded whatever else happens
        self.delivered: set[str] = set()  # keys, for the loop guard
        self.random = Random(claimed.execution.pk.int)  # noqa: S311 - spreads retries, hides nothing
        self.trigger = json_text.loads(self.execution.payload.trigger)
        self.variables = json_text.loads(self.execution.payload.variables)
        self.secrets: dict[str, str] = {}  # by name, as far as they were used
        self._steps = StepRunner(self)
        self._number = max((step.number for step in claimed.steps), default=0)
        self._unsaved_steps: dict[str, Step] = {}
        self._unsaved_journal: list[JournalEntry] = []
        self._unfinished: dict[str, Step] = {}  # started here, and not ended
        self._active = 0  # deliveries that can go on by themselves; at zero the run is idle
        self._moves = 0  # grows with every change of the above
        self._waits: dict[
            object, tuple[str, datetime | None]
        ] = {}  # step and moment; no moment: it waits for other steps
        self._parked: list[tuple[str, datetime | None]] = []  # the waits as they were when the run was found idle
        self._maybe_idle = asyncio.Event()
        self._handing_back = False
        self._stop_reason: Ending | None = None
        self._lost = False
        self._closing = False
        self._main: asyncio.Task[Any] | None = None

    # What the drain and the lease keeper say. ---------------------------------------------------------------------

    def hand_back(self) -> None:
        """Start no further step; once those under way have ended, give the execution back to the queue."""
        self._handing_back = True
        self._maybe_idle.set()

    def cancel(self, reason: str) -> None:
        self._stop(canceled(reason))

    def lose(self) -> None:
        """The lease is gone: write nothing more."""
        if not self._closing:
            self._lost = True
            self._cancel_main()

    def _stop(self, ending: Ending) -> None:
        if self._stop_reason is None and not self._closing:
            self._stop_reason = ending
            self._cancel_main()

    def _cancel_main(self) -> None:
        if self._main is not None:
            self._main.cancel()

    # The whole. ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Work on it. Never raises: what goes wrong is on record, or the lease runs out."""
        started = asyncio.get_running_loop().time()
        left = max(0.0, self.execution.seconds_allowed - self.execution.seconds_worked)
        deadline = asyncio.get_running_loop().call_later(left, self._stop, timed_out(self.execution.seconds_allowed))
        try:
            ending = await self._work()
            self._closing = True
            if ending is not None:
                await self._end(ending)
            else:
                await self._park(asyncio.get_running_loop().time() - started)
        except LeaseLost:
            logger.warning("execution=%s is another worker's now; dropped", self.execution.pk)
        except Exception:
            logger.exception("execution=%s could not be carried through; its lease runs out", self.execution.pk)
        finally:
            deadline.cancel()

    async def _work(self) -> Ending | None:
        """Deliver messages until the end is known, or None when it parks or is handed back."""
        self._main = asyncio.create_task(self._root())
        idle = asyncio.create_task(self._idle())
        await asyncio.wait([self._main, idle], return_when=asyncio.FIRST_COMPLETED)
        parks = not self._main.done()
        for task in (self._main, idle):
            task.cancel()
        await asyncio.wait([self._main, idle])
        if self._lost:
            raise LeaseLost
        if not self._main.cancelled():
            return await self._outcome(self._main)
        if self._stop_reason is not None:
            await self._let_effects_end()
        elif not parks:
            raise LeaseLost  # cancelled by nobody that is known here: the loop is being closed
        return self._stop_reason

    async def _outcome(self, main: asyncio.Task[Any]) -> Ending:
        try:
            return Ending(ExecutionStatus.SUCCESS, output=json_text.dumps(main.result()))
        except StepFailed as failure:
            await self._let_effects_end()
            return Ending(ExecutionStatus.ERROR, failure.code, json_text.clean(failure.message))

    async def _root(self) -> Any:
        only = self.execution.payload.only_listener
        scope = Scope(Plan(self.organism, alone=bool(only)))
        first = scope.plan.start(only or self.organism.entry, json_text.loads(self.execution.payload.input))
        return await self.run_scope(scope, first)

    async def _let_effects_end(self) -> None:
        """Effects under way are awaited and recorded, so that nothing that happened is forgotten.

        Except past the deadline: then they are cut, and their steps say that the outcome is unknown.
        """
        if self._stop_reason is not None and self._stop_reason.status == ExecutionStatus.TIMEOUT:
            for task in self.effects:
                task.cancel()
        under_way = dict(self.effects)
        if under_way:
            await asyncio.wait(under_way)
        for task, step in under_way.items():
            failure = None if task.cancelled() else task.exception()
            if isinstance(failure, BlockError):
                step.status, step.completed_at = StepStatus.ERROR, timezone.now()
                step.error, step.error_code = json_text.clean(failure.message), failure.code
                self.finish(step)

    async def _end(self, ending: Ending) -> None:
        for step in self._unfinished.values():
            step.status, step.due_at, step.completed_at = StepStatus.ERROR, None, timezone.now()
            step.error, step.error_code = (
                ending.error_message or "Dropped at the end of the execution.",
                ending.error_code,
            )
            self.put(step)
        await self._save(ending=ending)

    async def _park(self, seconds: float) -> None:
        """Give up the lease, and say when the execution is due again."""
        moments: dict[str, datetime] = {}
        for key, moment in self._parked:
            if moment is not None:
                moments[key] = min(moment, moments.get(key, moment))
        for step in self._unfinished.values():
            step.status, step.due_at = StepStatus.WAITING, moments.get(step.key)
            self.put(step)
        due_at = Now() if self._handing_back or not moments else min(moments.values())
        await self._save(
            release={
                "state": State.QUEUED if self._handing_back else State.PARKED,
                "due_at": due_at,
                "claim_alone": False,
                "seconds_worked": self.execution.seconds_worked + seconds,
            }
        )
        if self.children:
            await self.store.call(self._look_once_more)

    def _look_once_more(self) -> None:
        """A child that ended while this was parking could not wake it: one of the two sees the other."""
        if Execution.objects.filter(pk__in=self.children, state=State.ENDED).exists():
            Execution.objects.filter(pk=self.execution.pk, state=State.PARKED, fence=self.fence).update(due_at=Now())

    # Scopes. ------------------------------------------------------------------------------------------------------

    async def run_scope(self, scope: Scope, first: list[Delivery]) -> Any:
        """Deliver `first` and all that follows from it; the scope's result. Raises `StepFailed`."""
        tasks: dict[asyncio.Task[Outcome], Delivery] = {}
        self._spawn(scope, first, tasks)
        try:
            while tasks:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in sorted(done, key=lambda task: self._order(tasks[task])):
                    self._follow(scope, task, tasks)
        finally:
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)
            for _ in tasks:
                self.turn_over()
        if self._handing_back and scope.plan.in_flight:
            await asyncio.Event().wait()  # until the run has noticed that it is idle, and cancels this
        return scope.plan.result

    def _follow(self, scope: Scope, task: asyncio.Task[Outcome], tasks: dict[asyncio.Task[Outcome], Delivery]) -> None:
        """Deliver what follows from a delivery that has ended; only then is its own turn over."""
        outcome = task.result()
        delivery = tasks.pop(task)
        if outcome.error is None:
            scope.outputs[delivery.listener] = outcome.value
            following = scope.plan.finished(delivery, outcome.value, outcome.to)
        else:
            following = scope.plan.failed(delivery, outcome.error, outcome.to[0])
        self._spawn(scope, following, tasks)
        self.turn_over()

    def _spawn(self, scope: Scope, deliveries: list[Delivery], tasks: dict[asyncio.Task[Outcome], Delivery]) -> None:
        for delivery in deliveries:
            if self._handing_back and not self._has_ended(delivery):
                continue
            self.take_turn()
            tasks[asyncio.create_task(self._steps.deliver(scope, delivery))] = delivery

    def _has_ended(self, delivery: Delivery) -> bool:
        step = self.recorded.get(delivery.key)
        return step is not None and step.status in (StepStatus.SUCCESS, StepStatus.ERROR)

    def _order(self, delivery: Delivery) -> int:
        """Deliveries from the record are followed in the order in which they had ended."""
        step = self.recorded.get(delivery.key)
        return step.number if step else self._number + 1

    # Idleness: nothing goes on by itself, so no worker needs to be held. ------------------------------------------

    def begin_wait(self, step: Step, until: datetime | None) -> object:
        wait = object()
        self._waits[wait] = (step.key, until)
        return wait

    def end_wait(self, wait: object) -> None:
        del self._waits[wait]

    def take_turn(self) -> None:
        self._active += 1
        self._moves += 1

    def turn_over(self) -> None:
        self._active -= 1
        self._moves += 1
        if self._active == 0:
            self._maybe_idle.set()

    @property
    def _is_idle(self) -> bool:
        waits_for_moment = any(moment is not None for _, moment in self._waits.values())
        return self._active == 0 and (waits_for_moment or self._handing_back)

    async def _idle(self) -> None:
        """Returns once every delivery under way waits for a moment, or, when handing back, none is under way.

        It looks twice: between the end of one wait and what its block does next, a run may seem idle for an instant.
        """
        while True:
            await self._maybe_idle.wait()
            self._maybe_idle.clear()
            moves = self._moves
            await asyncio.sleep(SETTLE_SECONDS)
            if self._is_idle and moves == self._moves:
                self._parked = list(self._waits.values())
                return

    # The record. --------------------------------------------------------------------------------------------------

    def start(self, step: Step) -> None:
        self._unfinished[step.key] = step

    def finish(self, step: Step) -> None:
        """Take the ended step into the record; it is written with the next flush."""
        self._unfinished.pop(step.key, None)
        self.recorded[step.key] = step
        self.put(step)

    def put(self, step: Step) -> None:
        self._number += 1
        step.number = self._number
        self._unsaved_steps[step.key] = step

    def write_down(self, entry: JournalEntry) -> None:
        self.journal[entry.step_key, entry.position] = entry
        self._unsaved_journal.append(entry)

    def forget_failures_below(self, key: str) -> None:
        """Before a block's next attempt: what failed in the scopes it called is to be tried again."""
        for step in [step for step in self.recorded.values() if step.scope.startswith(f"{key}:")]:
            self.forget_failures_below(step.key)
            if step.status == StepStatus.ERROR and not step.sent_to:
                del self.recorded[step.key]

    async def flush(self, transaction: Transaction | None = None) -> Any:
        """Commit what has not been written. Gives what `transaction` gave."""
        return await self._save(transaction=transaction)

    async def show_waiting(self, step: Step, until: datetime) -> None:
        """Commit all so far, with `step` as waiting."""
        step.status, step.due_at = StepStatus.WAITING, until
        self.put(step)
        await self.flush()

    async def flush_if_many(self) -> None:
        if len(self._unsaved_steps) >= FLUSH_AFTER_STEPS:
            await self.flush()

    async def _save(self, **what: Any) -> Any:
        change = Change(
            self.execution.pk,
            self.fence,
            steps=list(self._unsaved_steps.values()),
            journal=self._unsaved_journal,
            response=self.response,
            **what,
        )
        self._unsaved_steps, self._unsaved_journal, self.response = {}, [], None
        transaction: Transaction | None = what.get("transaction")
        try:
            value = await self.store.save(change)
        except LeaseLost:
            self.lose()
            raise
        except Exception:  # what a transaction raised: nothing has been written
            self._unsaved_steps = {step.key: step for step in change.steps} | self._unsaved_steps
            self._unsaved_journal = change.journal + self._unsaved_journal
            self.response = self.response or change.response
            raise
        if transaction is not None:
            self.journal[transaction.entry.step_key, transaction.entry.position] = transaction.entry
        return value

    def accept_child(self, flow: str, payload: str) -> str:
        """Accept an execution of another flow of the tenant; runs in the database thread, in a transaction."""
        from executions.services import accept_execution
        from flows.services import flow_by_reference

        parent = self.execution
        child = accept_execution(
            flow=flow_by_reference(user=parent.user, reference=flow),
            trigger_type=parent.trigger_type,
            trigger_name=f"called by {parent.flow.name}"[:100],
            payload=payload,
            parent=parent,
            now=timezone.now(),
        )
        return str(child.pk)
