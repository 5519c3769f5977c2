"""Which endpoint is asked next: by order, by breaker, and by who has a slot free.

An endpoint's slots are leases, all workers together. Where all endpoints are full a call waits in line: within one
event loop in the order of arrival, of which only the first in line asks Redis, and between loops in the order in which
their firsts came. So a freed slot goes to whoever has waited, not to whoever comes by.
"""

import asyncio
import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import uuid4
from weakref import WeakValueDictionary

from bloxserver.core.loops import PerLoop, in_background, or_undone
from llm.exchange import Endpoint
from llm.path import breakers
from llm.path.breakers import Outcome, Permit
from llm.path.shared import LEAVE, Call, Local, Script, Shared, held_at

WAIT_SECONDS = 10.0  # the longest that a call waits in line
POLL_SECONDS = 0.05  # how often the first in line looks for slots that other processes gave back
IN_LINE_SECONDS = 1  # a first in line that does not look for so long is gone


def ordered(endpoints: Sequence[Endpoint], rng: random.Random) -> list[Endpoint]:
    """The user's own keys first, then by priority, and at random among equals, each as often first as its weight says."""

    def rank(endpoint: Endpoint) -> tuple[bool, int, float]:
        # The largest of random ** (1 / weight) falls on each in proportion to its weight (Efraimidis and Spirakis).
        draw = rng.random() ** (1 / endpoint.weight) if endpoint.weight > 0 else 0.0
        return not endpoint.own_key, endpoint.priority, -draw

    return sorted(endpoints, key=rank)


@dataclass(frozen=True, slots=True)
class Slot:
    """An endpoint that may be asked now, until `giving_back`."""

    shared: Shared
    endpoint: Endpoint
    permit: Permit

    def giving_back(self, outcome: Outcome, *, rest: float = 0.0) -> list[Call]:
        """The scripts that end it, and tell the breaker what became of the call."""
        calls = [breakers.reporting(self.permit, outcome, rest=rest)]
        if self.endpoint.concurrency is not None:
            self.shared.let_go(_slots(self.endpoint), self.permit.call_id)
            calls.append(LEAVE([_slots(self.endpoint)], self.permit.call_id))
        return calls

    async def give_back(self, outcome: Outcome, *, rest: float = 0.0) -> None:
        await self.shared.run(*self.giving_back(outcome, rest=rest))
        slot_was_freed()


@dataclass(frozen=True, slots=True)
class Passed:
    """An endpoint that cannot be asked now: "open", "resting" or "full", and for how many seconds surely."""

    endpoint: Endpoint
    why: str
    wait: float


def slot_was_freed() -> None:
    """Wakes who waits in this event loop; for whoever runs `giving_back`'s scripts with others."""
    _lines.get().freed.set()


async def acquire(shared: Shared, endpoints: Sequence[Endpoint], *, wait: float) -> tuple[Slot | None, list[Passed]]:
    """The first of `endpoints` that may be asked, and those before it that may not.

    Waits for a slot at most `wait` seconds where all that are healthy are full. None: all are passed.
    """
    if not _line_of(endpoints).locked():
        slot, passed = await _try_all(shared, endpoints, uuid4().hex, waits=False)
        if slot is not None or not _full(passed):
            return slot, passed
    else:
        passed = [Passed(endpoint, "full", 0.0) for endpoint in endpoints]
    return await _wait_in_line(shared, endpoints, passed, wait)


async def _wait_in_line(
    shared: Shared, endpoints: Sequence[Endpoint], passed: list[Passed], wait: float
) -> tuple[Slot | None, list[Passed]]:
    call_id, slot = uuid4().hex, None
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(wait), _line_of(endpoints):
                while slot is None:
                    slot, passed = await _try_all(shared, endpoints, call_id, waits=True)
                    if slot is None and not _full(passed):
                        break
                    if slot is None:
                        await _until_freed()
    finally:
        if slot is None or len(endpoints) > 1:
            in_background(_leave_line(shared, endpoints, call_id))
    return slot, passed


async def _try_all(
    shared: Shared, endpoints: Sequence[Endpoint], call_id: str, *, waits: bool
) -> tuple[Slot | None, list[Passed]]:
    passed: list[Passed] = []
    for endpoint in endpoints:
        result = await or_undone(_try(shared, endpoint, call_id, waits=waits), _give_back)
        if isinstance(result, Slot):
            if endpoint.concurrency is not None:
                shared.keep(_slots(endpoint), call_id)
            return result, passed
        passed.append(result)
    return None, passed


async def _give_back(tried: Slot | Passed) -> None:
    """A call that is given up in the middle must not keep a slot that nobody uses."""
    if isinstance(tried, Slot):
        await tried.give_back(Outcome.UNKNOWN)


async def _try(shared: Shared, endpoint: Endpoint, call_id: str, *, waits: bool) -> Slot | Passed:
    """Asks the breaker and for a slot in one trip, and gives back the one that came without the other."""
    asking = [breakers.asking(endpoint.id, call_id)]
    if endpoint.concurrency is not None:
        keys = [_slots(endpoint), f"line:{endpoint.id}", f"in-line:{endpoint.id}"]
        asking.append(_TAKE(keys, call_id, endpoint.concurrency, int(waits)))
    state, *taken = await shared.run(*asking)
    permit = breakers.permit(endpoint.id, call_id, state)
    has_slot = not taken or bool(taken[0])
    if permit.granted and has_slot:
        return Slot(shared, endpoint, permit)
    if has_slot and taken:
        await shared.run(LEAVE([_slots(endpoint)], call_id))
    elif permit.state == "probing":
        await shared.run(breakers.reporting(permit, Outcome.UNKNOWN))
    return Passed(endpoint, "full" if permit.granted else permit.state, permit.wait)


async def slots_taken(shared: Shared, endpoint_ids: Sequence[str]) -> dict[str, int]:
    """How many calls are under way at each endpoint that has a bound, for operators."""
    counts = await held_at(shared, [f"slots:{endpoint_id}" for endpoint_id in endpoint_ids])
    return dict(zip(endpoint_ids, counts, strict=True))


def _full(passed: Sequence[Passed]) -> bool:
    return any(each.why == "full" for each in passed)


def _slots(endpoint: Endpoint) -> str:
    return f"slots:{endpoint.id}"


async def _leave_line(shared: Shared, endpoints: Sequence[Endpoint], call_id: str) -> None:
    bounded = [endpoint.id for endpoint in endpoints if endpoint.concurrency is not None]
    keys = [key for endpoint_id in bounded for key in (f"line:{endpoint_id}", f"in-line:{endpoint_id}")]
    await shared.run(LEAVE(keys, *[call_id] * len(keys)))


# The line within one event loop. ----------------------------------------------------------------------------------
class _Lines:
    def __init__(self) -> None:
        self.locks: WeakValueDictionary[frozenset[str], asyncio.Lock] = (
            WeakValueDictionary()
        )  # first come, first served
        self.freed = asyncio.Event()


_lines: PerLoop[_Lines] = PerLoop(_Lines)


def _line_of(endpoints: Sequence[Endpoint]) -> asyncio.Lock:
    return _lines.get().locks.setdefault(frozenset(endpoint.id for endpoint in endpoints), asyncio.Lock())


async def _until_freed() -> None:
    freed = _lines.get().freed
    freed.clear()
    with suppress(TimeoutError):
        async with asyncio.timeout(POLL_SECONDS):
            await freed.wait()


# The script: a slot for whoever finds more free ones than there are others before it in line. ----------------------
def _take_locally(local: Local, now: float, keys: Sequence[str], args: Sequence[Any]) -> int:
    """In memory there is one process, whose own line is enough."""
    call_id, concurrency, _ = args
    if local.held(keys[0], now) >= concurrency:
        return 0
    local.hold(keys[0], call_id, now)
    return 1


_TAKE = Script(
    f"""
local slots, line, present = KEYS[1], KEYS[2], KEYS[3]
local call_id, free = ARGV[2], tonumber(ARGV[3]) - held(slots)
if free <= 0 and ARGV[4] == '0' then return 0 end
for _, gone in ipairs(redis.call('ZRANGEBYSCORE', present, '-inf', now)) do
  redis.call('ZREM', line, gone)
  redis.call('ZREM', present, gone)
end
local before = redis.call('ZRANK', line, call_id) or redis.call('ZCARD', line)
if free > before then
  redis.call('ZREM', line, call_id)
  redis.call('ZREM', present, call_id)
  hold(slots, call_id)
  return 1
end
if ARGV[4] == '1' then
  redis.call('ZADD', line, 'NX', now, call_id)
  redis.call('ZADD', present, now + {IN_LINE_SECONDS}, call_id)
  redis.call('EXPIRE', line, 60)
  redis.call('EXPIRE', present, 60)
end
return 0
""",
    _take_locally,
)
