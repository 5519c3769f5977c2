"""A turn of a model: on record as a step before it is asked; its answer is journalled and metered with the step's end.

A worker that dies in between asks once more, which may be paid for twice; an answer that is on record never is.
"""

import logging
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from django.utils import timezone

from billing.metering import release_llm
from bloxserver.core import json_text
from executions.endings import WORKER_LOST
from executions.engine.conversation import call_of, said
from executions.engine.model_calls import ModelCall, metered, own_key_id, prepare
from executions.engine.planner import derive_key
from executions.engine.speech import Saying
from executions.models import MODEL_BLOCK, JournalEntry, Step, StepStatus
from executions.speech import Turn
from flows.blocks.base import BlockError
from flows.organism.templates import redact
from llm import wire
from llm.ask import ask
from llm.errors import Failure, ModelError
from llm.exchange import Answer, Endpoint, Request
from llm.services import mark_key_refused

if TYPE_CHECKING:
    from executions.engine.run import ExecutionRun

logger = logging.getLogger(__name__)

LOST = "The worker died while the model was asked; its answer is unknown."
# Of a provider that gave no answer: what is reserved for the call stays so until it lapses.
MAY_BE_CHARGED = (Failure.TIMEOUT, Failure.BAD_ANSWER)
LATE = "It had not answered when the listener's time limit was over."


class ModelTurn:
    """One attempt at it, for the step `asking`; `told` is what the record shows of the request."""

    def __init__(self, run: "ExecutionRun", asking: Step, position: str, *, told: dict[str, Any]) -> None:
        self._run = run
        self._asking = asking
        self._asked = {**call_of(Answer("", model=told["model"])), "stop": ""}  # all that is known before it answers
        self._step = self._begin(f"{asking.key}:{position}", told)

    async def take(self, request: Request, entry: JournalEntry, *, seconds_left: Callable[[], float]) -> Answer:
        """Ask, and give the answer once it is on record. Raises `BlockError` where there is none."""
        run, step = self._run, self._step
        await run.flush()  # all that led up to it, and that it is under way
        saying = Saying(Turn(run.claimed.pk, step.pk, step.attempt), run.store.speaker)
        try:
            call, answer = await self._ask(request, saying, seconds_left)
        except ModelError as error:
            message = self._shown(error.message)
            self._step.model_call = {**self._asked, "path": [asdict(hop) for hop in error.path]}
            self._fail(error.code, message)
            raise BlockError(
                message, code=error.code, retryable=error.retryable, retry_after=error.retry_after
            ) from error
        finally:
            await saying.close()
        entry.value = json_text.dumps(self._shown(answer.as_json()))
        answer = Answer.from_json(json_text.loads(entry.value))  # as whoever reads it from the record
        run.write_down(entry)
        run.meter(metered(call, answer))
        self._succeed(answer)
        await run.flush()
        return answer

    def cut_off(self) -> None:
        """The time limit of the step that asks was over before there was an answer.

        What is reserved for it stays so until it lapses: the provider may charge for what it has said.
        """
        self._fail("step_timeout", LATE)

    async def _ask(
        self, request: Request, saying: Saying, seconds_left: Callable[[], float]
    ) -> tuple[ModelCall, Answer]:
        run, call_in_thread = self._run, self._run.store.call_patiently
        await wire.warm_up()  # before the clock of the first call runs
        look_up = partial(prepare, run.claimed, self._step.listener, request, seconds=seconds_left())
        call = await call_in_thread(lambda: look_up(now=timezone.now()))
        try:
            answer = await ask(
                call.request,
                call=wire.call,
                caller=call.caller,
                endpoints=call.endpoints,
                timeout=max(0.0, seconds_left()),
                on_text=saying.hear,
                on_key_refused=self._key_refused,
            )
        except ModelError as error:
            if not any(hop.outcome in MAY_BE_CHARGED for hop in error.path):
                await call_in_thread(partial(release_llm, call_id=call.id, now=timezone.now()))
            raise
        return call, answer

    async def _key_refused(self, endpoint: Endpoint, reason: str) -> None:
        await self._run.store.call_patiently(
            partial(mark_key_refused, key_id=own_key_id(endpoint), reason=reason, now=timezone.now())
        )

    def _shown(self, value: Any) -> Any:
        return redact(value, self._run.secrets.values())

    # Its step. ----------------------------------------------------------------------------------------------------

    def _begin(self, scope: str, told: dict[str, Any]) -> Step:
        step = self._run.step_at(derive_key(scope, MODEL_BLOCK))
        step = self._new_step(scope) if step is None else self._once_more(step)
        step.status, step.due_at, step.completed_at = StepStatus.RUNNING, None, None
        step.input = json_text.dumps(self._shown(told))
        step.model_call = self._asked
        self._run.start(step)
        self._run.put(step)
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
        self._run.finish(step)

    def _fail(self, code: str, message: str) -> None:
        step = self._step
        step.status, step.completed_at = StepStatus.ERROR, timezone.now()
        step.error, step.error_code = json_text.clean(message), code
        self._run.finish(step)
