"""A request's whole path: limits, cache, admission, pool, retries; each stage is a module of `llm.path`."""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Protocol, TypeAlias
from uuid import uuid4

from django.conf import settings

from bloxserver.core.loops import in_background, or_undone
from llm import wire
from llm.errors import Failure, ModelError, ProviderFailed
from llm.exchange import Allowance, Answer, Cached, Caller, Endpoint, Hop, OnText, Request
from llm.path import admission, breakers, cache, limits, pool, retries, semantic
from llm.path.admission import Admitted
from llm.path.breakers import Outcome
from llm.path.limits import Taken, Wanted
from llm.path.pool import Passed, Slot
from llm.path.retries import Refusal
from llm.path.shared import Call, Shared
from llm.path.shared import shared as shared_of_process

logger = logging.getLogger(__name__)
_random = random.SystemRandom()

OnKeyRefused: TypeAlias = Callable[[Endpoint, str], Awaitable[None]]

_OWN_FAULTS = (Failure.REQUEST_REFUSED, Failure.CONTENT_REFUSED)


class CallProvider(Protocol):
    """Asks one endpoint: `llm.wire.call`."""

    async def __call__(
        self, endpoint: Endpoint, request: Request, *, on_text: OnText | None, timeout: float, silence: float
    ) -> Answer: ...


async def ask(
    request: Request,
    *,
    caller: Caller,
    endpoints: Sequence[Sequence[Endpoint]],
    timeout: float,
    on_text: OnText | None = None,
    on_key_refused: OnKeyRefused | None = None,
    on_asked: Callable[[], None] | None = None,
    call: CallProvider = wire.call,
    shared: Shared | None = None,
    rng: random.Random = _random,
) -> Answer:
    """Get an answer, from the cache or from the first endpoint that gives one.

    `endpoints` are those of `request.model`, then those of each model of `request.fallback`. `timeout` is in seconds, for
    everything together. `on_text` hears the answer as it comes; "" tells it to forget what it has heard so far, since
    that stream was cut and another begins. `on_key_refused` is told of a user's own key that its provider refused, and
    why; the platform's endpoints of the list are asked then. `on_asked` is called once, right before the first provider
    is asked: until then nobody can charge for anything. While others may be asked, an endpoint that says nothing for
    half of the time that is left is given up. Raises `ModelError`; where asking again can help, its `retry_after` says
    when, and no slot is held meanwhile.

    An answer is given at once: what was held for it is given back behind it (`loops.background_done`).
    """
    if not any(endpoints):
        raise ModelError(
            f'No provider that is switched on serves "{request.model}". Choose another model, or add a key of your own.',
            code="no_provider",
            retryable=False,
        )
    path = _Path(request, caller, shared or shared_of_process(), rng, time.monotonic() + timeout)
    path.call, path.on_text, path.on_key_refused, path.on_asked = call, on_text, on_key_refused, on_asked
    try:
        return await path.answer([pool.ordered(group, rng) for group in endpoints])
    except ModelError as error:
        error.path = tuple(path.hops)
        raise
    finally:
        path.end()


class _Path:
    """One request on its way."""

    call: CallProvider
    on_text: OnText | None
    on_key_refused: OnKeyRefused | None
    on_asked: Callable[[], None] | None

    def __init__(self, request: Request, caller: Caller, shared: Shared, rng: random.Random, deadline: float) -> None:
        self.request = request
        self.caller = caller
        self.shared = shared
        self.rng = rng
        self.deadline = deadline
        self.hops: list[Hop] = []
        self.refusals: dict[tuple[str, str], Refusal] = {}  # the last one of each endpoint and model
        self.shed: ModelError | None = None
        self.limited: ModelError | None = None
        self.too_long: dict[str, ModelError] = {}  # by the model that has no room for the request
        self.ending: list[Call] = []  # scripts for the end, all in one round trip
        self._taken: dict[str, Taken] = {}  # by the allowance's name
        self._admitted: dict[int, Admitted | None] = {}  # by number of the group
        self._groups: Sequence[Sequence[Endpoint]] = ()
        self._tried: set[tuple[str, str]] = set()  # endpoint and model, in this round
        self._tokens: int | None = 0  # what the request used; None where nobody knows
        self._has_streamed = False
        self._seconds = cache.seconds_to_live(request)
        self._digest = b""  # under which the answer is kept
        self._partition = ""  # and where it is found by what is near
        self._vector: bytes | None = None

    # The stages. --------------------------------------------------------------------------------------------------
    async def answer(self, groups: Sequence[Sequence[Endpoint]]) -> Answer:
        self._groups = groups
        if (known := await self._first_look()) is not None:
            return known
        asked = 0
        while (answer := await self._ask_all()) is None:
            asked += 1
            await asyncio.sleep(self._pause(asked))
        return answer

    async def _first_look(self) -> Answer | None:
        """Pass the limits that hold for whoever is asked first, or leave it to the user's own key further on."""
        endpoints = [endpoint for group in self._groups for endpoint in group]
        try:
            return await self._look_up(limits.OWN_KEY if endpoints[0].own_key else self.caller.allowance)
        except ModelError as refusal:
            if endpoints[0].own_key or not any(endpoint.own_key for endpoint in endpoints):
                raise
            self.limited = refusal
            return None

    async def _ask_all(self) -> Answer | None:
        """One round."""
        self._tried.clear()
        for number, group in enumerate(self._groups):
            if (answer := await self._ask_group(number, group)) is not None:
                return answer
        return None

    def _pause(self, asked: int) -> float:
        """Seconds until the next round, after `asked` ones. Raises `ModelError` where it is the caller who must wait."""
        if self.limited is not None:
            raise self.limited
        refusals = list(self.refusals.values())
        pause = retries.pause(refusals, asked=asked, seconds_left=self._seconds_left(), roll=self.rng.random())
        if pause is not None:
            return pause
        if not any(refusal.passes for refusal in refusals):
            for error in (self.shed, *self.too_long.values()):
                if error is not None:
                    raise error
        raise retries.all_refused(refusals)

    async def _look_up(self, allowance: Allowance) -> Answer | None:
        """Pass the limits, and see in the cache: both in one round trip, since most are let through."""
        if not self._seconds:
            await self._take(allowance)
            return None
        self._digest = cache.digest(self.request, self.caller.user_id)
        found = await self._take(allowance, cache.looking_up(self.caller.user_id, self._digest))
        answer = self._hit(found[0], "exact")
        if answer is None and (text := semantic.question(self.request)) is not None:
            answer = await self._look_around(text)
        return answer

    async def _look_around(self, text: str) -> Answer | None:
        self._vector = await semantic.embed(text)
        if self._vector is None:
            return None
        self._partition = semantic.partition(self.request, self.caller.user_id)
        [neighbours] = await self.shared.run(semantic.looking_around(self._partition))
        nearest = semantic.nearest(neighbours, self._vector, self.request.cache_threshold)
        if nearest is None:
            return None
        [found] = await self.shared.run(cache.looking_up(self.caller.user_id, nearest))
        return self._hit(found, "semantic")

    def _hit(self, found: object, kind: Cached) -> Answer | None:
        answer = cache.found(found, kind)
        if answer is not None and answer.text and self.on_text is not None:
            self.on_text(answer.text)
        return answer

    async def _take(self, allowance: Allowance, *others: Call) -> list[object]:
        """Count the request against an allowance, once; what `others` gave. Raises `ModelError`."""
        if allowance.name in self._taken:
            return []
        wanted = Wanted(uuid4().hex, self.caller.user_id, allowance, limits.estimate(self.request))
        result, *found = await or_undone(
            self.shared.run(limits.taking(wanted), *others),
            lambda results: self.shared.run(*limits.untaking(wanted, results[0])),
        )
        self._taken[allowance.name] = limits.taken(self.shared, wanted, result)
        return found

    async def _ask_group(self, number: int, group: Sequence[Endpoint]) -> Answer | None:
        """Ask the endpoints of one model: own keys first, then, within the user's limits, the platform's."""
        if own := [endpoint for endpoint in group if endpoint.own_key and self._may_help(endpoint)]:
            await self._take(limits.OWN_KEY)
            if (answer := await self._ask_endpoints(own, number)) is not None:
                return answer
        platform = [endpoint for endpoint in group if not endpoint.own_key and self._may_help(endpoint)]
        if not platform or not await self._is_within_limits() or not await self._is_admitted(number, platform):
            return None
        return await self._ask_endpoints(platform, number)

    async def _is_within_limits(self) -> bool:
        """Whether the user's limits leave room for it. Where they do not, a fallback with the user's own key may answer."""
        try:
            await self._take(self.caller.allowance)
        except ModelError as refusal:
            self.limited = refusal
            return False
        self.limited = None
        return True

    async def _is_admitted(self, number: int, platform: Sequence[Endpoint]) -> bool:
        """Whether the model's pool lets the request in; asked once, whatever comes of it."""
        if number not in self._admitted:
            tier = self.caller.tier
            most = admission.most_load(
                tier,
                roll=self.rng.random(),
                degraded_at=settings.BLOX_LLM_DEGRADED_AT,
                critical_at=settings.BLOX_LLM_CRITICAL_AT,
            )
            self._admitted[number] = None
            try:
                self._admitted[number] = await admission.admit(
                    self.shared, platform, call_id=uuid4().hex, most=most, tier=tier
                )
            except ModelError as error:
                self.shed = error
                self.hops += [Hop(endpoint.provider, endpoint.model, "shed", 0) for endpoint in platform]
        return self._admitted[number] is not None

    async def _ask_endpoints(self, endpoints: Sequence[Endpoint], number: int) -> Answer | None:
        """Ask one after the other, as far as they may be asked."""
        left = list(endpoints)
        while left:
            wait = min(pool.WAIT_SECONDS, self._seconds_left() / 2)
            if wait <= 0:
                raise self._out_of_time()
            slot, passed = await pool.acquire(self.shared, left, wait=wait)
            self._note_passed(passed)
            if slot is None:
                return None
            if (answer := await self._ask_one(slot)) is not None:
                if number == 0:  # an answer of a fallback must not stand for the model's when that is back
                    self._keep(answer)
                return answer
            gone = {each.endpoint.id for each in passed if each.why != "full"} | {slot.endpoint.id}
            left = [endpoint for endpoint in left if endpoint.id not in gone and self._may_help(endpoint)]
        return None

    # One endpoint. ------------------------------------------------------------------------------------------------
    async def _ask_one(self, slot: Slot) -> Answer | None:
        """None where it refused and another may answer. Raises `ModelError` where none can."""
        timeout, silence, started = self._seconds_left(), self._silence(slot.endpoint), time.monotonic()
        outcome, rest = Outcome.UNKNOWN, 0.0
        self._has_streamed = False
        try:
            if timeout <= 0:
                raise self._out_of_time()
            tokens, self._tokens = self._tokens, None  # if it is given up in the middle, nobody knows
            on_text = self._hear if self.on_text is not None else None
            self._say_that_it_is_asked()
            answer = await self.call(slot.endpoint, self.request, on_text=on_text, timeout=timeout, silence=silence)
            outcome = Outcome.ANSWERED
        except ProviderFailed as failure:
            outcome = breakers.outcome_of(failure, timeout=silence)
            rest = (failure.retry_after or 0.0) if failure.failure is Failure.RATE_LIMITED else 0.0
            if not failure.may_be_charged:
                self._tokens = tokens
            await self._note_failure(slot.endpoint, failure, started)
            return None
        finally:
            giving_back = slot.giving_back(outcome, rest=rest)
            if outcome is Outcome.ANSWERED:
                self.ending += giving_back
            else:
                await asyncio.shield(in_background(self._run(giving_back)))
        self._hop(slot.endpoint, "answered", started)
        self._tokens = answer.usage.tokens_in + answer.usage.tokens_out or None
        return replace(answer, own_key=slot.endpoint.own_key, path=tuple(self.hops))

    def _silence(self, endpoint: Endpoint) -> float:
        """For how many seconds it may say nothing. Nobody waits for one that hangs while another may answer."""
        self._tried.add((endpoint.id, endpoint.model))
        others = any(
            self._may_help(other) and (other.id, other.model) not in self._tried and self._is_open_to(number, other)
            for number, group in enumerate(self._groups)
            for other in group
        )
        return self._seconds_left() / (2 if others else 1)

    def _is_open_to(self, number: int, endpoint: Endpoint) -> bool:
        """False where the user's limit, or shedding, is known to keep it from the request."""
        return endpoint.own_key or (self.limited is None and self._admitted.get(number, True) is not None)

    def _say_that_it_is_asked(self) -> None:
        if self.on_asked is not None:
            self.on_asked()
            self.on_asked = None

    def _hear(self, text: str) -> None:
        if text and self.on_text is not None:
            self._has_streamed = True
            self.on_text(text)

    async def _note_failure(self, endpoint: Endpoint, failure: ProviderFailed, started: float) -> None:
        self._hop(endpoint, failure.failure.value, started, may_be_charged=failure.may_be_charged)
        if self._has_streamed and self.on_text is not None:
            self.on_text("")
        if failure.failure in _OWN_FAULTS:
            raise _final(failure) from failure
        if failure.failure is Failure.CONTEXT_TOO_LONG:
            self.too_long[endpoint.model] = _final(failure)
        self._refuse(endpoint, failure.failure.value, failure.message, failure.retry_after)
        if failure.failure is Failure.KEY_REFUSED and endpoint.own_key and self.on_key_refused is not None:
            try:
                await self.on_key_refused(endpoint, failure.message)
            except Exception:  # that nobody could be told must not cost the answer
                logger.exception("user=%s: a refused key could not be marked", self.caller.user_id)

    def _note_passed(self, passed: Sequence[Passed]) -> None:
        for each in passed:
            self.hops.append(Hop(each.endpoint.provider, each.endpoint.model, each.why, 0))
            self._tried.add((each.endpoint.id, each.endpoint.model))
            # What it said itself tells more than that it is left alone since.
            if (each.endpoint.id, each.endpoint.model) not in self.refusals:
                self._refuse(each.endpoint, each.why, "", each.wait or None)

    def _hop(self, endpoint: Endpoint, outcome: str, started: float, *, may_be_charged: bool = False) -> None:
        ms = round((time.monotonic() - started) * 1000)
        self.hops.append(Hop(endpoint.provider, endpoint.model, outcome, ms, may_be_charged))

    def _refuse(self, endpoint: Endpoint, why: str, detail: str, wait: float | None) -> None:
        key = endpoint.id, endpoint.model
        self.refusals[key] = Refusal(endpoint.provider, endpoint.model, why, detail, wait=wait)

    def _may_help(self, endpoint: Endpoint) -> bool:
        refusal = self.refusals.get((endpoint.id, endpoint.model))
        return endpoint.model not in self.too_long and (refusal is None or refusal.passes)

    # The end. -----------------------------------------------------------------------------------------------------
    def _keep(self, answer: Answer) -> None:
        if not self._seconds or not cache.is_kept(answer, self.request):
            return
        user_id = self.caller.user_id
        storing = cache.storing(user_id, self._digest, answer, self._seconds)
        if storing is None:
            return
        self.ending.append(storing)
        if self._vector is not None:
            self.ending.append(
                semantic.remembering(user_id, self._partition, self._digest, self._vector, self._seconds)
            )

    def end(self) -> None:
        """Give back all that is held, and count what was used: one round trip, for which nobody waits."""
        for admitted in self._admitted.values():
            self.ending += admitted.leaving() if admitted is not None else []
        for taken in self._taken.values():
            self.ending.append(limits.settling(self.shared, taken, tokens=self._tokens))
        if self.ending:
            in_background(self._run(self.ending))

    async def _run(self, calls: Sequence[Call]) -> None:
        await self.shared.run(*calls)
        pool.slot_was_freed()

    def _seconds_left(self) -> float:
        return self.deadline - time.monotonic()

    def _out_of_time(self) -> ModelError:
        reasons = "; ".join(map(str, self.refusals.values()))
        return ModelError(
            f"No time is left to ask a model{f': {reasons}' if reasons else ''}. A longer timeout of the listener may help.",
            code="provider_unavailable",
        )


def _final(failure: ProviderFailed) -> ModelError:
    """What another endpoint of the same model would say as well."""
    return ModelError(failure.message, code=failure.failure.value, retryable=False)
