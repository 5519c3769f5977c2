"""`Context` as the engine gives it to a block: what is asked is journalled by step and position."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from itertools import count, takewhile
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.utils import timezone

from bloxserver.core import json_text
from bloxserver.core.errors import DomainError
from bloxserver.core.safe_http import GuardedClient, shared_client
from executions import approvals, mails
from executions.engine import called_flow
from executions.engine.conversation import Told
from executions.engine.model_turn import ModelTurn
from executions.engine.planner import Plan
from executions.engine.store import Transaction
from executions.models import (
    ASK,
    FAILED_CALL,
    MODEL,
    SLEEP,
    START_FLOW,
    TURNED_AWAY,
    Approval,
    ApprovalAnswer,
    ApprovalKind,
    JournalEntry,
    State,
    Step,
)
from flows.blocks.base import Answer, BlockError
from flows.organism.spec import Listener
from flows.organism.templates import redact
from llm.exchange import Answer as ModelAnswer
from llm.exchange import Request

if TYPE_CHECKING:
    from executions.engine.run import ExecutionRun, Scope

logger = logging.getLogger("bloxserver.flow")

UNSEEN_WAIT_SECONDS = 0.5  # before a longer one, what has been done is written, so that who watches sees it
SHORT_WAIT_SECONDS = 2.0  # is waited for in the worker; a longer one parks the execution
CHILD_POLLS_SECONDS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.3)  # then the parent parks, and the child's end wakes it
CHILD_LOOK_SECONDS = 1.0  # while the worker has other steps of the execution to do
ANSWER_LOOK_SECONDS = 1.0  # while the worker has other steps of the execution to do; else it parks
MAX_POSITION = 32  # characters: the column's
LOG_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class StepContext:
    """One attempt at one step. Implements `flows.blocks.base.Context`."""

    def __init__(self, run: "ExecutionRun", scope: "Scope", step: Step, listener: Listener) -> None:
        self._run = run
        self._scope = scope
        self._step = step
        self._asked = 0
        self._timeout: asyncio.Timeout | None = None
        self._open_waits = 0
        self._remaining: float | None = None
        self._winding_up: asyncio.Task[Any] | None = None  # this context's block, once it is to end
        self._told = Told()
        self._waited_for = ""  # at the end of the time limit, where that is known
        self.execution_id: UUID = run.claimed.pk
        self.flow_id: UUID = run.claimed.flow_id
        self.user_id: UUID = run.claimed.user_id
        self.listener = listener.name
        self._limit = listener.timeout
        self.peers = listener.peers
        self.tools = listener.tools
        self.attempt = step.attempt
        self.idempotency_key = f"{run.claimed.pk}:{step.key}"

    @property
    def http(self) -> GuardedClient:
        return shared_client()

    def wind_up(self, effect: "asyncio.Task[Any]") -> None:
        """Let `effect`, which runs this context's block, come to its end without another wait or call."""
        self._winding_up = effect
        if self._open_waits:
            effect.cancel()

    def time_limit(self, seconds: float) -> asyncio.Timeout:
        """Bounds the work of the attempt; what it waits for does not count."""
        self._timeout = asyncio.timeout(seconds)
        return self._timeout

    async def call(self, peer: str, payload: Any, *, position: str | None = None, keep_failure: bool = False) -> Any:
        if peer not in self.peers:
            raise BlockError(
                f'"{peer}" is not among the peers of {self.listener}.', code="unknown_peer", retryable=False
            )
        position = self._position(position)
        if (entry := self._recorded(FAILED_CALL, position)) is not None:
            raise BlockError(**json_text.loads(entry.value))
        scope = self._scope.inner(Plan(self._run.organism, scope=f"{self._step.key}:{position}"))
        first = scope.plan.start(peer, payload, caller=(self.listener, self._step.key))
        try:
            with self._waiting():
                return await self._run.run_scope(scope, first)
        except BlockError as error:
            if keep_failure:
                self._run.record.write_down(
                    self._entry(FAILED_CALL, position, {"message": error.message, "code": error.code})
                )
            raise

    async def record(self, fn: Callable[[], Awaitable[Any]], *, position: str | None = None) -> Any:
        position = self._position(position)
        if (entry := self._recorded("record", position)) is not None:
            return json_text.loads(entry.value)
        with self._working():
            entry = self._entry("record", position, await fn())
            self._run.record.write_down(entry)
            await self._run.flush()
        return json_text.loads(entry.value)  # as whoever reads it from the record

    async def transact(self, fn: Callable[[], Any], *, position: str | None = None) -> Any:
        return await self._transact("transact", fn, self._position(position))

    async def sleep_until(self, moment: datetime, *, position: str | None = None) -> None:
        position = self._position(position)
        if (entry := self._recorded(SLEEP, position)) is not None:
            moment = datetime.fromisoformat(json_text.loads(entry.value))
        elif (moment - timezone.now()).total_seconds() > SHORT_WAIT_SECONDS:
            self._run.record.write_down(self._entry(SLEEP, position, moment.isoformat()))
        await self._sleep_until(moment)

    async def _sleep_until(self, moment: datetime) -> None:
        seconds = (moment - timezone.now()).total_seconds()
        if seconds > UNSEEN_WAIT_SECONDS:
            await self._run.show_waiting(self._step, moment)
        if seconds <= SHORT_WAIT_SECONDS:
            await asyncio.sleep(max(0.0, seconds))
        else:
            with self._waiting(until=moment):
                await asyncio.sleep(seconds)

    async def start_flow(self, flow: str, payload: Any, *, position: str | None = None) -> UUID:
        text = json_text.dumps(payload)
        child = await self._transact(START_FLOW, lambda: self._run.accept_child(flow, text), self._position(position))
        return UUID(child)

    async def wait_for_execution(self, execution_id: UUID, *, position: str | None = None) -> Any:
        look = partial(called_flow.look_at, execution_id)
        for pause in CHILD_POLLS_SECONDS:
            child = await self._run.store.call_patiently(look)
            if child.state == State.ENDED:
                return called_flow.output_of(child)
            await asyncio.sleep(pause)
        self._run.children.add(execution_id)
        if self._step.key not in self._run.record.steps:  # where it tells that the called one is waited for
            await self._run.show_waiting(self._step, None)
        while child.state != State.ENDED:
            with self._waiting(until=called_flow.look_again(child)):
                await asyncio.sleep(CHILD_LOOK_SECONDS)
            child = await self._run.store.call_patiently(look)
        self._run.children.discard(execution_id)
        return called_flow.output_of(child)

    async def ask(
        self, message: str, *, until: datetime | None, notify: Sequence[str] = (), position: str | None = None
    ) -> Answer:
        text = json_text.clean(redact(message, self._run.secrets.values()))
        approval = await self._ask(ApprovalKind.APPROVAL, text, self._position(position), until=until, notify=notify)
        return Answer(approval.answer == ApprovalAnswer.APPROVED, approval.by, approval.comment)

    async def ask_after_crash(self, message: str) -> Approval:
        """What a person decides on the attempt that was under way when its worker died."""
        return await self._ask(ApprovalKind.CRASH, message, crash_position(self._step))

    async def _ask(
        self,
        kind: ApprovalKind,
        message: str,
        position: str,
        *,
        until: datetime | None = None,
        notify: Sequence[str] = (),
    ) -> Approval:
        """Put the question on record, tell of it, and wait for the answer."""
        put = partial(
            approvals.put_question,
            execution_id=self.execution_id,
            step_key=self._step.key,
            position=position,
            kind=kind,
            listener=self.listener,
            message=message,
            expires_at=until,
        )
        # Before the step shows as waiting: a crash in between must not forget that its effect was under way.
        approval_id = UUID(await self._transact(ASK, put, position))
        call = self._run.store.call_patiently
        approval = await call(partial(Approval.objects.get, pk=approval_id))
        if not approval.answer:
            await self._notify(approval, notify)
        self._run.asked.add(approval_id)
        shown = False
        while (answered := await call(partial(approvals.settled, approval_id))) is None:
            if not shown:
                await self._run.show_waiting(self._step, approval.expires_at)
                shown = True
            with self._waiting(until=approval.expires_at, for_person=True):
                await asyncio.sleep(ANSWER_LOOK_SECONDS)
        self._run.asked.discard(approval_id)
        return answered

    async def _notify(self, approval: Approval, addresses: Sequence[str]) -> None:
        """A mail is noted right after it is sent, so that only a crash between the two can send it again."""
        for address in addresses:
            if address not in approval.notified:
                with self._working():
                    await asyncio.to_thread(mails.send_question, approval, address, flow=self._run.claimed.flow_name)
                    approval.notified = [*approval.notified, address]
                    await self._run.store.call_patiently(partial(approval.save, update_fields=["notified"]))

    async def ask_model(self, request: Request, *, position: str | None = None) -> ModelAnswer:
        position = self._position(position)
        if (entry := self._recorded(MODEL, position)) is not None:
            answer = ModelAnswer.from_json(json_text.loads(entry.value))
        else:
            answer = await self._ask_model(request, position)
        self._told.add(request, answer)
        return answer

    async def _ask_model(self, request: Request, position: str) -> ModelAnswer:
        """The effect of a block that asks several times may be called off, or handed back, between two of them."""
        self._end_if_winding_up()
        if self._run.is_handing_back:
            with self._waiting():
                await asyncio.Event().wait()  # until the run has noticed that it is idle, and cancels this
        turn = ModelTurn(self._run, self._step, position, told=self._told.new_in(request))
        with self._working():
            try:
                return await turn.take(request, self._entry(MODEL, position, None), seconds_left=self._seconds_left)
            except asyncio.CancelledError:
                if self._timeout is not None and self._timeout.expired():
                    turn.cut_off()
                    self._waited_for = request.model
                raise

    @property
    def late(self) -> str:
        """What is said of an attempt whose time limit is over."""
        waited = f" At the end it waited for {self._waited_for}." if self._waited_for else ""
        return f"It gave no result within {self._limit:g} seconds.{waited}"

    async def respond(self, status: int, headers: Mapping[str, str], body: Any) -> None:
        self._run.record.response = json_text.dumps({"status": status, "headers": dict(headers), "body": body})

    def log(self, level: str, message: str) -> None:
        text = json_text.one_line(redact(str(message), self._run.secrets.values()))
        logger.log(
            LOG_LEVELS.get(level, logging.INFO), "execution=%s listener=%s %s", self.execution_id, self.listener, text
        )

    async def wait_for_retry(self, seconds: float) -> None:
        """The wait between two attempts; the next attempt's number tells which."""
        moment = timezone.now() + timedelta(seconds=seconds)
        await self.sleep_until(moment, position=f"retry {self._step.attempt}")

    def waits_for_turn(self) -> list[dict[str, Any]]:
        """What is on record of them, in their order."""
        journal, key = self._run.record.journal, self._step.key
        entries = (journal.get((key, f"turned away {number}")) for number in count(1))
        return [json_text.loads(entry.value) for entry in takewhile(bool, entries) if entry]

    async def wait_for_turn(self) -> None:
        """The last of the waits on record, as far as it is not over."""
        if waits := self.waits_for_turn():
            await self._sleep_until(datetime.fromisoformat(waits[-1]["until"]))

    def note_turned_away(self, error: BlockError, *, seconds: float) -> None:
        """Put a wait for so long on record, and why; it is written with the next flush."""
        wait = {
            "until": (timezone.now() + timedelta(seconds=seconds)).isoformat(),
            "seconds": seconds,
            "code": error.code,
            "reason": error.message,
        }
        self._run.record.write_down(self._entry(TURNED_AWAY, f"turned away {len(self.waits_for_turn()) + 1}", wait))

    @contextmanager
    def _waiting(self, until: datetime | None = None, *, for_person: bool = False) -> Iterator[None]:
        """Something that was asked for is waited for: the time limit stands still, and the execution may park.

        A block may wait for several things at once; its turn comes back with the last of them.
        """
        self._end_if_winding_up()
        wait = self._run.turns.begin_wait(self._step.key, until, for_person=for_person)
        self._open_waits += 1
        if self._open_waits == 1:
            self._remaining = self._stop_clock()
            self._run.turns.over()
        try:
            yield
        finally:
            self._run.turns.end_wait(wait)
            self._open_waits -= 1
            if self._open_waits == 0:
                self._run.turns.take()
                self._start_clock(self._remaining)

    @contextmanager
    def _working(self) -> Iterator[None]:
        """Work of the block's own, though others of its requests may wait."""
        self._run.turns.take()
        try:
            yield
        finally:
            self._run.turns.over()

    def _seconds_left(self) -> float:
        """Of the attempt's time limit."""
        if self._open_waits and self._remaining is not None:
            return self._remaining
        deadline = self._timeout.when() if self._timeout is not None else None
        return self._limit if deadline is None else deadline - asyncio.get_running_loop().time()

    def _end_if_winding_up(self) -> None:
        if self._winding_up is not None:
            self._winding_up.cancel()
            raise asyncio.CancelledError

    def _stop_clock(self) -> float | None:
        if self._timeout is None or (deadline := self._timeout.when()) is None:
            return None
        self._timeout.reschedule(None)
        return deadline - asyncio.get_running_loop().time()

    def _start_clock(self, seconds: float | None) -> None:
        if self._timeout is not None and seconds is not None and not self._timeout.expired():
            self._timeout.reschedule(asyncio.get_running_loop().time() + seconds)

    async def _transact(self, kind: str, fn: Callable[[], Any], position: str) -> Any:
        if (entry := self._recorded(kind, position)) is not None:
            return json_text.loads(entry.value)
        try:
            with self._working():
                return await self._run.transact(Transaction(self._entry(kind, position, None), fn))
        except DomainError as error:
            raise BlockError(error.message, code=error.code) from error

    def _position(self, named: str | None) -> str:
        if named is not None:
            if not 0 < len(named) <= MAX_POSITION or json_text.clean(named) != named:
                message = f"A position in the journal is a text of 1 to {MAX_POSITION} characters, not {named!r:.100}."
                raise BlockError(message, code="invalid_position", retryable=False)
            return named
        self._asked += 1
        return str(self._asked)

    def _entry(self, kind: str, position: str, value: Any) -> JournalEntry:
        return JournalEntry(
            execution_id=self.execution_id,
            step_key=self._step.key,
            position=position,
            kind=kind,
            value=json_text.dumps(value),
        )

    def _recorded(self, kind: str, position: str) -> JournalEntry | None:
        entry = self._run.record.journal.get((self._step.key, position))
        if entry is not None and entry.kind != kind:
            raise BlockError(
                f"At position {position} the journal has a {entry.kind} where the block now asks for a {kind}: "
                "it does not ask in the same order each time it runs.",
                code="journal_mismatch",
                retryable=False,
            )
        return entry


def crash_position(step: Step) -> str:
    """Where the journal has the question of what to do about an attempt whose worker died."""
    return f"crash {step.attempt}"
