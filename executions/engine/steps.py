"""One delivery: its attempts, its effect, its record."""

import asyncio
import logging
import traceback
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from django.utils import timezone
from pydantic import ValidationError

from bloxserver.core import json_text
from bloxserver.core.ids import new_id
from executions.engine.context import StepContext, crash_position
from executions.engine.planner import Delivery, destinations
from executions.engine.retries import may_retry, may_wait, retry_delay, turn_delay
from executions.engine.store import LeaseLost, Unwritable
from executions.models import ApprovalAnswer, Step, StepStatus
from flows.blocks.base import Arrival, BlockError, Effects, Output
from flows.organism.scope import Scope as Names
from flows.organism.spec import Listener, RetryPolicy
from flows.organism.templates import redact
from flows.services import secret_value

if TYPE_CHECKING:
    from executions.engine.run import ExecutionRun, Scope

logger = logging.getLogger(__name__)

MAX_OUTPUT_BYTES = 5 * 1024 * 1024
MAX_CODE = 50  # characters: the column's
WORKER_LOST = "worker_lost"
LOST = "The worker died while this step was under way; its outcome is unknown."
OUTSIDE = (Effects.REPEATABLE, Effects.ONCE)


BLANK = {field.attname: field.get_default() for field in Step._meta.concrete_fields}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a delivery: a value for `to`, or an error that `to` (its `on_error`) handles."""

    value: Any = None
    to: tuple[str, ...] = ()
    error: dict[str, Any] | None = None


class StepFailed(BlockError):
    """A delivery failed for good and nothing handles it: its scope has failed."""


class StepRunner:
    def __init__(self, run: "ExecutionRun") -> None:
        self._run = run

    async def deliver(self, scope: "Scope", delivery: Delivery) -> Outcome:
        """Give the message to its listener, or find on record what came of that. Raises `StepFailed`."""
        run = self._run
        listener = run.organism.listeners[delivery.listener]
        self._guard_loops(delivery)
        step = run.record.steps.get(delivery.key)
        if step is not None and step.status in (StepStatus.SUCCESS, StepStatus.ERROR):
            return self._from_record(step, delivery)
        effects = listener.block.effects(listener.config.raw)
        under_way = step is not None and (
            step.status == StepStatus.RUNNING or (step.key, crash_position(step)) in run.record.journal
        )
        step = step or self._new_step(scope, delivery, listener)
        run.record.start(step)
        if under_way and (outcome := await self._after_crash(scope, step, delivery, effects)) is not None:
            return outcome
        return await self._attempts(scope, step, delivery, effects)

    async def _after_crash(self, scope: "Scope", step: Step, delivery: Delivery, effects: Effects) -> Outcome | None:
        """What becomes of a step that was under way when its worker died; None when it is to be tried again."""
        listener = self._run.organism.listeners[delivery.listener]
        lost = BlockError(LOST, code=WORKER_LOST)
        policy = _on_crash(listener, effects)
        if policy == "ask":
            decision = await StepContext(self._run, scope, step, listener).ask_after_crash(LOST)
            policy, decided = decision.answer, decision.in_words
            lost.message = f"{LOST} {decided}"
            if policy == ApprovalAnswer.SUCCEED:
                step.notes = [*step.notes, lost.message]
                value = json_text.loads(decision.output or "null")
                await self._run.drop_below(step)
                return await self._succeed(scope, step, listener, effects, value=value, chosen=None)
        if policy == "fail":
            return await self._fail(scope, step, delivery, lost, effects)
        self._next_attempt(step, lost)
        return None

    async def _attempts(self, scope: "Scope", step: Step, delivery: Delivery, effects: Effects) -> Outcome:
        listener = self._run.organism.listeners[delivery.listener]
        delay = 0.0
        while True:
            context = StepContext(self._run, scope, step, listener)
            if step.attempt > 1:
                await context.wait_for_retry(delay)
            await context.wait_for_turn()
            try:
                return await self._attempt(context, scope, step, delivery, effects)
            except BlockError as error:
                failure = error
            if self._is_to_wait(context, failure, listener.retry, effects):
                delay = 0.0
                continue
            made = 1 + sum(entry["code"] != WORKER_LOST for entry in step.failures)
            if not may_retry(listener.retry, failure, attempt=made, effects=effects):
                return await self._fail(scope, step, delivery, failure, effects)
            self._next_attempt(step, failure)
            delay = retry_delay(listener.retry, failure, attempt=made, random=self._run.random)
            if effects in OUTSIDE:
                await self._run.flush()  # the effect is no longer under way, should the worker die while it waits

    def _is_to_wait(self, context: StepContext, failure: BlockError, policy: RetryPolicy, effects: Effects) -> bool:
        """Whether it was turned away, and is to run again once its turn may have come; the wait is on record then."""
        if failure.counts:
            return False
        waits = context.waits_for_turn()
        seconds = turn_delay(failure, waits=len(waits), random=self._run.random)
        waited = sum(wait["seconds"] for wait in waits)
        if not may_wait(policy, failure, waited=waited, seconds=seconds, effects=effects):
            failure.message += (
                f" It had waited for its turn {len(waits)} times, {waited:.0f} s in all." if waits else ""
            )
            return False
        context.note_turned_away(failure, seconds=seconds)
        return True

    async def _attempt(
        self, context: StepContext, scope: "Scope", step: Step, delivery: Delivery, effects: Effects
    ) -> Outcome:
        if effects not in OUTSIDE:
            return await self._work(context, scope, step, delivery, effects)
        step.status, step.due_at = StepStatus.RUNNING, None
        self._run.record.put(step)
        await self._run.flush()  # all that led up to the effect, and that it is under way
        effect = asyncio.create_task(self._work(context, scope, step, delivery, effects))
        self._run.effects.add(effect)
        effect.add_done_callback(self._run.effects.discard)
        try:
            return await asyncio.shield(effect)
        except asyncio.CancelledError:
            await self._let_end(effect, context, step)
            raise

    async def _let_end(self, effect: "asyncio.Task[Outcome]", context: StepContext, step: Step) -> None:
        """Whatever becomes of the run, an effect under way is awaited and recorded.

        One that only waits, for what it called or for a time, is not under way: it goes on when the run resumes.
        """
        context.wind_up(effect)
        await asyncio.wait([effect])
        failure = None if effect.cancelled() else effect.exception()
        if isinstance(failure, BlockError):
            self._record_failure(step, failure, handler=None)

    async def _work(
        self, context: StepContext, scope: "Scope", step: Step, delivery: Delivery, effects: Effects
    ) -> Outcome:
        """Run the block once and take its output into the record. Raises `BlockError`, with no secret in its message."""
        listener = self._run.organism.listeners[delivery.listener]
        try:
            output = await self._run_block(context, scope, step, delivery, listener)
            value, chosen = (output.value, output.to) if isinstance(output, Output) else (output, None)
            return await self._succeed(scope, step, listener, effects, value=value, chosen=chosen)
        except BlockError as error:
            error.message = json_text.clean(redact(str(error.message), self._run.secrets.values()))
            error.code = json_text.clean(str(error.code or "block_failed"))[:MAX_CODE]
            raise

    async def _succeed(
        self,
        scope: "Scope",
        step: Step,
        listener: Listener,
        effects: Effects,
        *,
        value: Any,
        chosen: tuple[str, ...] | None,
    ) -> Outcome:
        """Record the output. Raises `BlockError` for one that cannot be recorded or sent on."""
        value, text = self._recordable(value, listener)
        to = () if scope.plan.alone else _destinations(listener, chosen)
        step.status, step.output, step.sent_to = StepStatus.SUCCESS, text, list(to)
        step.due_at, step.completed_at = None, timezone.now()
        self._run.record.finish(step)
        if effects in OUTSIDE:
            await self._run.flush()  # before anything that follows acts on it
        else:
            await self._run.flush_if_many()
        return Outcome(value, to)

    def _recordable(self, value: Any, listener: Listener) -> tuple[Any, str]:
        """The value as what follows sees it, and as text: the same for who finds it on record."""
        text = _encode(value)
        if self._run.secrets:
            value = redact(json_text.loads(text), self._run.secrets.values())
            return value, _encode(value)
        return (value if _is_ours(listener) else json_text.loads(text)), text

    async def _run_block(
        self, context: StepContext, scope: "Scope", step: Step, delivery: Delivery, listener: Listener
    ) -> Any:
        try:
            async with context.time_limit(listener.timeout) if listener.block.waits else nullcontext():
                if listener.config.secret_names:
                    await self._fetch_secrets(listener)
                names = Names({**self._run.names, "payload": _plain(delivery.payload), "steps": dict(scope.outputs)})
                rendered = listener.config.render(names, self._run.secrets.__getitem__)
                step.notes = names.replaced
                config = listener.block.Config.model_validate(rendered)
                # Others read the same payload; our own blocks are known to leave it as it is.
                payload = delivery.payload if _is_ours(listener) else deepcopy(delivery.payload)
                return await listener.block.run(context, config, payload)
        except TimeoutError as error:
            raise BlockError(context.late, code="step_timeout") from error
        except ValidationError as error:
            raise BlockError(_explain(error), code="config_invalid", retryable=False) from error
        except (BlockError, LeaseLost, Unwritable, KeyboardInterrupt):
            raise
        except BaseException as error:  # also SystemExit, and a CancelledError of the block's own making
            if isinstance(error, asyncio.CancelledError) and (task := asyncio.current_task()) and task.cancelling():
                raise
            logger.error(
                "execution=%s listener=%s: its block crashed\n%s",
                self._run.claimed.pk,
                listener.name,
                redact(traceback.format_exc(), self._run.secrets.values()),
            )
            raise BlockError(
                f"The block {listener.block.name} crashed ({type(error).__name__}); the worker's log has the details.",
                code="block_crashed",
            ) from error

    async def _fail(
        self, scope: "Scope", step: Step, delivery: Delivery, error: BlockError, effects: Effects
    ) -> Outcome:
        """The step has failed for good: record it, and hand the error to `on_error` where there is one."""
        handler = None if scope.plan.alone else self._run.organism.listeners[delivery.listener].on_error
        await self._run.drop_below(step)
        self._record_failure(step, error, handler=handler)
        if effects in OUTSIDE:
            await self._run.flush()
        return self._handled(step, delivery)

    def _record_failure(self, step: Step, error: BlockError, *, handler: str | None) -> None:
        step.status, step.error, step.error_code = StepStatus.ERROR, error.message, error.code
        step.sent_to, step.due_at, step.completed_at = [handler] if handler else [], None, timezone.now()
        self._run.record.finish(step)

    def _from_record(self, step: Step, delivery: Delivery) -> Outcome:
        if step.status == StepStatus.SUCCESS:
            return Outcome(json_text.loads(step.output_text or "null"), tuple(step.sent_to))
        return self._handled(step, delivery)

    def _handled(self, step: Step, delivery: Delivery) -> Outcome:
        if not step.sent_to:
            # To be tried again only where the caller's own `retry` says so: its attempts here are used up.
            raise StepFailed(f"{step.listener}: {step.error}", code=step.error_code)
        error = {
            "error": step.error,
            "code": step.error_code,
            "listener": step.listener,
            "payload": _plain(delivery.payload),
        }
        return Outcome(error=error, to=tuple(step.sent_to))

    def _next_attempt(self, step: Step, failure: BlockError) -> None:
        entry = {
            "attempt": step.attempt,
            "code": failure.code,
            "error": failure.message,
            "at": timezone.now().isoformat(),
        }
        step.failures = [*step.failures, entry]
        step.attempt += 1
        step.status = StepStatus.WAITING
        self._run.record.put(step)
        if failure.code != WORKER_LOST:  # what a crash found failed has failed for its caller, too
            self._run.record.forget_failures_below(step.key)

    def _new_step(self, scope: "Scope", delivery: Delivery, listener: Listener) -> Step:
        is_first = not delivery.parents and not scope.plan.scope
        given: dict[str, Any] = {
            "id": new_id(),
            "execution_id": self._run.claimed.pk,
            "key": delivery.key,
            "scope": scope.plan.scope,
            "parents": list(delivery.parents),
            "listener": listener.name,
            "block": listener.block.name,
            "from_listener": delivery.sender,
            "status": StepStatus.WAITING,
            "input": None if delivery.inherits or is_first else json_text.dumps(_plain(delivery.payload)),
            "started_at": timezone.now(),
            "sent_to": [],
            "failures": [],
            "notes": [],
        }
        # By position, which takes Django a third of the time.
        return Step(*(BLANK | given).values())  # type: ignore[misc]

    def _guard_loops(self, delivery: Delivery) -> None:
        run = self._run
        run.delivered.add(delivery.key)
        if len(run.delivered) > run.organism.max_messages:
            message = (
                f"{delivery.listener}: more than {run.organism.max_messages} messages were delivered. If that is no "
                "endless loop, raise organism.max_messages."
            )
            run.fail("too_many_messages", message)
            raise StepFailed(message, code="too_many_messages", retryable=False)

    async def _fetch_secrets(self, listener: Listener) -> None:
        run, claimed = self._run, self._run.claimed
        for name in listener.config.secret_names:
            if name not in run.secrets:
                fetch = partial(secret_value, flow_id=claimed.flow_id, user_id=claimed.user_id, name=name)
                run.secrets[name] = await run.store.call_patiently(fetch)


def _on_crash(listener: Listener, effects: Effects) -> str:
    """What the author says; else an effect that must not be repeated fails, unless its `retry` agrees to repeat it."""
    if listener.on_crash is not None:
        return listener.on_crash
    return "fail" if effects is Effects.ONCE and not listener.retry.explicit else "retry"


def _destinations(listener: Listener, chosen: tuple[str, ...] | None) -> tuple[str, ...]:
    try:
        return destinations(listener, chosen)
    except (TypeError, ValueError) as error:
        raise BlockError(f"The block {error}.", code="unknown_peer", retryable=False) from error


def _encode(value: Any) -> str:
    try:
        text = json_text.dumps(value)
    except RecursionError:
        raise BlockError("Its output is nested too deep.", code="output_not_json", retryable=False) from None
    except (TypeError, ValueError) as error:
        raise BlockError(f"Its output is not JSON: {error}.", code="output_not_json", retryable=False) from error
    if len(text) > MAX_OUTPUT_BYTES or (not text.isascii() and len(text.encode()) > MAX_OUTPUT_BYTES):
        raise BlockError(
            f"Its output has more than {MAX_OUTPUT_BYTES:,} bytes; pass on less, or a reference to it.",
            code="output_too_large",
            retryable=False,
        )
    return text


def _is_ours(listener: Listener) -> bool:
    return listener.block.name.startswith("blox.")


def _plain(payload: Any) -> Any:
    """A merge's arrivals as JSON; any other payload is JSON already."""
    if isinstance(payload, list) and payload and isinstance(payload[0], Arrival):
        return [asdict(arrival) for arrival in payload]
    return payload


def _explain(error: ValidationError) -> str:
    problems = [f"{'.'.join(str(part) for part in item['loc']) or 'config'}: {item['msg']}" for item in error.errors()]
    return "Its config does not hold once rendered. " + "; ".join(problems[:5])
