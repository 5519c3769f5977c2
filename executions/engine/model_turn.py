"""A turn of a model: on record as a step before it is asked; its answer is journalled and metered with the step's end.

A worker that dies in between asks once more, which may be paid for twice; an answer that is on record never is.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.utils import timezone

from billing.errors import BudgetExceeded
from billing.metering import release_llm
from bloxserver.core import json_text
from bloxserver.core.ids import new_id
from bloxserver.core.loops import in_background
from executions.endings import WORKER_LOST
from executions.engine.conversation import call_of, said
from executions.engine.model_calls import ModelCall, metered, own_key_id, prepare
from executions.engine.planner import derive_key
from executions.engine.speech import Saying
from executions.engine.store import LeaseLost, Unwritable
from executions.models import MODEL_BLOCK, JournalEntry, Step, StepStatus
from executions.speech import Turn
from flows.blocks.base import BlockError
from flows.organism.templates import redact
from llm import wire
from llm.ask import ask
from llm.errors import ModelError
from llm.exchange import Answer, Endpoint, Request
from llm.services import mark_key_refused

if TYPE_CHECKING:
    from executions.engine.run import ExecutionRun

logger = logging.getLogger(__name__)

LOST = "The worker died while the model was asked; its answer is unknown."
LATE = "It had not answered when the listener's time limit was over."
# What the call is given less than the step has left: a provider that is late is then reported as such, and counted.
MARGIN_SECONDS = 1.0
MARGIN = 0.1  # of what is left, where that is less

# Refusals that asked nobody: not this one's turn yet.
NOT_ITS_TURN = frozenset({"llm_rate_limited", "llm_overloaded", "provider_rate_limited", BudgetExceeded.code})
PASSED_OVER = frozenset({"full", "open", "resting", "shed"})  # hops that were not asked


class ModelTurn:
    """One attempt at it, for the step `asking`; `told` is what the record shows of the request."""

    def __init__(self, run: "ExecutionRun", asking: Step, position: str, *, told: dict[str, Any]) -> None:
        self._run = run
        self._asking = asking
        self._asked = {**call_of(Answer("", model=told["model"])), "stop": ""}  # all that is known before it answers
        self._was_asked = False
        self._step = self._begin(f"{asking.key}:{position}", told)

    async def take(self, request: Request, entry: JournalEntry, *, seconds_left: Callable[[], float]) -> Answer:
        """Ask, and give the answer once it is on record. Raises `BlockError` where there is none."""
        run, step = self._run, self._step
        await run.flush()  # all that led up to it, and that it is under way
        turn = Turn(run.claimed.pk, step.pk, step.attempt)
        saying = Saying(turn, run.store.speaker, secrets=tuple(run.secrets.values()))
        try:
            answer = self._kept(*await self._ask(request, saying, seconds_left), entry)
            await run.flush()
        except ModelError as error:
            raise self._refused(error) from error
        except (LeaseLost, Unwritable):
            raise
        except Exception as error:
            self._fail_if_open("block_crashed", f"Asking the model crashed ({type(error).__name__}).")
            raise
        finally:
            await saying.close()
        return answer

    def cut_off(self) -> None:
        """The time limit of the step that asks was over before there was an answer.

        What is reserved for a call that was made stays so until it lapses: the provider may charge for what it has said.
        """
        self._fail_if_open("step_timeout", LATE)

    def _kept(self, call: ModelCall, answer: Answer, entry: JournalEntry) -> Answer:
        """The answer as whoever reads it from the record, into which it is taken, for the next flush.

        Nothing is awaited between an answer and this: one that was paid for is not lost. Raises `ModelError`.
        """
        self._run.record.meter(metered(call, answer, now=timezone.now()))
        try:
            entry.value = json_text.dumps(self._shown(answer.as_json()))
        except (ValueError, RecursionError) as error:
            raise ModelError(
                f"The model's answer is no JSON that can be kept: {error}", code="answer_unreadable", retryable=False
            ) from error
        answer = Answer.from_json(json_text.loads(entry.value))
        self._run.record.write_down(entry)
        self._succeed(answer)
        return answer

    def _refused(self, error: ModelError) -> BlockError:
        """What the block is told, and its step's record says. A turn that has not come goes on waiting."""
        message = self._shown(error.message)
        asked_nobody = all(hop.outcome in PASSED_OVER for hop in error.path)
        counts = not (error.retryable and error.code in NOT_ITS_TURN and asked_nobody)
        self._step.model_call = {**self._asked, "path": [asdict(hop) for hop in error.path]}
        if counts:
            self._fail(error.code, message)
        else:
            self._wait(error.code, message)
        return BlockError(
            message, code=error.code, retryable=error.retryable, retry_after=error.retry_after, counts=counts
        )

    async def _ask(
        self, request: Request, saying: Saying, seconds_left: Callable[[], float]
    ) -> tuple[ModelCall, Answer]:
        run, call_id = self._run, new_id()
        await wire.warm_up()  # before the clock of the first call runs
        try:
            look_up = partial(prepare, run.claimed, self._step.listener, request, call_id=call_id)
            left = seconds_left()
            call = await run.store.call_patiently(lambda: look_up(seconds=left, now=timezone.now()))
            left = seconds_left()
            answer = await ask(
                call.request,
                call=wire.call,
                caller=call.caller,
                endpoints=call.endpoints,
                timeout=max(0.0, left - min(MARGIN_SECONDS, MARGIN * left)),
                on_text=saying.hear,
                on_key_refused=self._key_refused,
                on_asked=self._note_asked,
            )
        except ModelError as error:
            if not any(hop.may_be_charged for hop in error.path):
                await self._release(call_id)
            raise
        except BaseException:  # also where its time limit, or its execution's end, cuts it off
            if not self._was_asked:
                await self._release(call_id)
            raise
        return call, answer

    def _note_asked(self) -> None:
        self._was_asked = True

    async def _release(self, call_id: UUID) -> None:
        """Nobody was asked, so nothing can be charged. The database's thread takes one after the other: a reservation that
        is being made is there when this runs. It runs to its end, whoever is cancelled meanwhile."""
        releasing = self._run.store.call_patiently(partial(release_llm, call_id=call_id, now=timezone.now()))
        await asyncio.shield(in_background(releasing))

    async def _key_refused(self, endpoint: Endpoint, reason: str) -> None:
        await self._run.store.call_patiently(
            partial(mark_key_refused, key_id=own_key_id(endpoint), reason=reason, now=timezone.now())
        )

    def _shown(self, value: Any) -> Any:
        return redact(value, self._run.secrets.values())

    # Its step. ----------------------------------------------------------------------------------------------------

    def _begin(self, scope: str, told: dict[str, Any]) -> Step:
        step = self._run.record.step_at(derive_key(scope, MODEL_BLOCK))
        step = self._new_step(scope) if step is None else self._once_more(step)
        step.status, step.due_at, step.completed_at = StepStatus.RUNNING, None, None
        step.input = json_text.dumps(self._shown(told))
        step.model_call = self._asked
        self._run.record.start(step)
        self._run.record.put(step)
        return step

    def _new_step(self, scope: str) -> Step:
        asking = self._asking
        return Step(
            execution_id=asking.execution_id,
            key=derive_key(scope, MODEL_BLOCK),
            scope=scope,
            parents=[asking.key],
            listener=asking.listener,
            block=MODEL_BLOCK,
            from_listener=asking.listener,
            started_at=timezone.now(),
        )

    @staticmethod
    def _once_more(step: Step) -> Step:
        """The turn was begun before: a worker has died over it, or it has failed. One that waits has been counted on."""
        if step.status == StepStatus.RUNNING:
            lost = {"attempt": step.attempt, "code": WORKER_LOST, "error": LOST, "at": timezone.now().isoformat()}
            step.failures = [*step.failures, lost]
        if step.status != StepStatus.WAITING:
            step.attempt += 1
        step.error, step.error_code = None, ""
        return step

    def _succeed(self, answer: Answer) -> None:
        step = self._step
        step.status, step.completed_at = StepStatus.SUCCESS, timezone.now()
        step.output = json_text.dumps(said(answer.text, answer.calls))
        step.model_call = call_of(answer)
        step.tokens_in, step.tokens_out = answer.usage.tokens_in, answer.usage.tokens_out
        self._run.record.finish(step)

    def _wait(self, code: str, message: str) -> None:
        step = self._step
        step.status, step.error, step.error_code = StepStatus.WAITING, json_text.clean(message), code
        self._run.record.put(step)

    def _fail_if_open(self, code: str, message: str) -> None:
        if self._step.status == StepStatus.RUNNING:
            self._fail(code, message)

    def _fail(self, code: str, message: str) -> None:
        step = self._step
        step.status, step.completed_at = StepStatus.ERROR, timezone.now()
        step.error, step.error_code = json_text.clean(message), code
        self._run.record.finish(step)
