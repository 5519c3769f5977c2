"""What the stages of a request's path share between processes: small atomic scripts on Redis, or on this process's memory.

Each operation is a `Script`: Lua for Redis, and the same in Python for a server without Redis (one worker process) or
while Redis is away. Then each process counts for itself for `PAUSE_SECONDS`: a limit that cannot be counted must not
become an outage. Redis's clock is the one that counts, so that workers on two machines agree.

A call under way holds its places (a user's, an endpoint's) by leases: members of a sorted set that run out after
`LEASE_SECONDS` unless their holder renews them, so that a killed worker holds nothing for longer.
"""

import asyncio
import hashlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

from django.conf import settings
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError, ResponseError

from bloxserver.core.loops import PerLoop, background_done

logger = logging.getLogger(__name__)

PREFIX = "blox:llm:"
REDIS_SECONDS = 0.5  # to connect and to answer
CONNECTIONS = 16  # of one event loop: a script takes a fraction of a millisecond
CONNECTION_SECONDS = 5.0  # the longest wait for one of them
PAUSE_SECONDS = 5.0  # after a failure Redis is left alone for so long
LEASE_SECONDS = 20
RENEW_SECONDS = 5.0
MOST_COUNTS = 100_000  # keys of counters and leases in memory
MOST_ANSWERS = 2_000  # keys of the cache in memory

# What every script may use. ARGV[1] is the time in seconds where a test says it.
_PREAMBLE = f"""
local time = redis.call('TIME')
local now = tonumber(ARGV[1]) or (time[1] + time[2] / 1000000)
local function held(key)
  redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
  return redis.call('ZCARD', key)
end
local function hold(key, id)
  redis.call('ZADD', key, now + {LEASE_SECONDS}, id)
  redis.call('EXPIRE', key, {LEASE_SECONDS * 2})
end
"""


class Memory:
    """Values that run out. Beyond `most` keys the least recently used goes first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: OrderedDict[str, tuple[float, Any]] = OrderedDict()

    def get(self, key: str, now: float) -> Any:
        """The value, or None where there is none or it has run out."""
        until, value = self._values.get(key, (0.0, None))
        if until <= now:
            self._values.pop(key, None)
            return None
        self._values.move_to_end(key)
        return value

    def set(self, key: str, value: Any, now: float, seconds: float) -> None:
        self._values[key] = (now + seconds, value)
        self._values.move_to_end(key)
        while len(self._values) > self._most:
            self._values.popitem(last=False)

    def delete(self, key: str) -> None:
        self._values.pop(key, None)


class Local:
    """A process's own state. A flood of answers must not push out counters, so they are apart."""

    def __init__(self) -> None:
        self.counts = Memory(MOST_COUNTS)
        self.answers = Memory(MOST_ANSWERS)

    def held(self, key: str, now: float) -> int:
        """How many leases there are."""
        return len(self._leases(key, now))

    def hold(self, key: str, member: str, now: float) -> None:
        leases = self._leases(key, now)
        leases[member] = now + LEASE_SECONDS
        self.counts.set(key, leases, now, LEASE_SECONDS * 2)

    def renew(self, key: str, member: str, now: float) -> None:
        if member in self._leases(key, now):
            self.hold(key, member, now)

    def leave(self, key: str, member: str, now: float) -> None:
        self._leases(key, now).pop(member, None)

    def _leases(self, key: str, now: float) -> dict[str, float]:
        leases: dict[str, float] = self.counts.get(key, now) or {}
        for member in [member for member, until in leases.items() if until <= now]:
            del leases[member]
        return leases


LocalScript: TypeAlias = Callable[[Local, float, Sequence[str], Sequence[Any]], Any]


class Script:
    """One operation on shared state, atomic in either form, with the same result from both.

    `lua` finds `now`, `held` and `hold`, its keys in KEYS and its arguments from ARGV[2] on. `everywhere` is for what
    gives back: it may have been taken in memory, while Redis was away, so that memory is told as well.
    """

    def __init__(self, lua: str, local: LocalScript, *, everywhere: bool = False) -> None:
        self.text = _PREAMBLE + lua
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()
        self.local = local
        self.everywhere = everywhere

    def __call__(self, keys: Sequence[str], *args: Any) -> "Call":
        return Call(self, [PREFIX + key for key in keys], args)


@dataclass(frozen=True, slots=True)
class Call:
    """A script with its keys and arguments, for `Shared.run`."""

    script: Script
    keys: list[str]
    args: tuple[Any, ...]


class Shared:
    """Where scripts run. `redis_url` "" is memory alone; `clock` (seconds) is for tests, which say what time it is."""

    def __init__(self, redis_url: str, *, clock: Callable[[], float] | None = None) -> None:
        self._redis_url = redis_url
        self._clock = clock
        self._local = Local()
        self._lock = threading.Lock()  # drains of one process may run in threads of their own
        self._paused_until = 0.0  # by time.monotonic()
        self._clients: PerLoop[Redis] = PerLoop(self._connect)
        self._keepers: PerLoop[_Keeper] = PerLoop(lambda: _Keeper(self))

    @property
    def is_common(self) -> bool:
        """Whether all processes see the same at the moment. What has just been read may be of memory where this is False."""
        return bool(self._redis_url) and time.monotonic() >= self._paused_until

    async def run(self, *calls: Call) -> list[Any]:
        """The calls' results, in order, for one round trip. Each is atomic, all together are not. Never raises for Redis."""
        if self.is_common:
            try:
                results = await self._run_on_redis(calls)
            except (RedisError, OSError, TimeoutError) as error:
                self._pause(error)
            else:
                self._run_locally([call for call in calls if call.script.everywhere])
                return results
        return self._run_locally(calls)

    def keep(self, key: str, member: str) -> None:
        """Renew this lease, just taken, until `let_go`."""
        self._keepers.get().keep(PREFIX + key, member)

    def let_go(self, key: str, member: str) -> None:
        """Renew it no more; giving it back is the business of the caller's own script."""
        self._keepers.get().let_go(PREFIX + key, member)

    async def close(self) -> None:
        """Close the running loop's connections, when all is given back; whoever made the loop calls it before it ends."""
        await background_done()
        if (keeper := self._keepers.pop()) is not None:
            keeper.stop()
        if (client := self._clients.pop()) is not None:
            with suppress(RedisError, OSError):
                await client.aclose(close_connection_pool=True)

    def _connect(self) -> Redis:
        # One more try: a loop that was busy for longer than the time-out has not shown that Redis is away.
        pool = BlockingConnectionPool.from_url(
            self._redis_url,
            max_connections=CONNECTIONS,
            timeout=CONNECTION_SECONDS,
            socket_timeout=REDIS_SECONDS,
            socket_connect_timeout=REDIS_SECONDS,
            retry=Retry(NoBackoff(), 1),
        )
        return Redis(connection_pool=pool)

    async def _run_on_redis(self, calls: Sequence[Call]) -> list[Any]:
        client = self._clients.get()
        results = await self._send(client, calls)
        missing = [number for number, result in enumerate(results) if isinstance(result, NoScriptError)]
        if missing:
            await asyncio.gather(*(client.script_load(text) for text in {calls[n].script.text for n in missing}))
            for number, result in zip(missing, await self._send(client, [calls[n] for n in missing]), strict=True):
                results[number] = result
        for result in results:
            if isinstance(result, ResponseError):
                raise result
        return results

    async def _send(self, client: Redis, calls: Sequence[Call]) -> list[Any]:
        clock = "" if self._clock is None else self._clock()
        pipeline = client.pipeline(transaction=False)
        for call in calls:
            pipeline.evalsha(call.script.sha, len(call.keys), *call.keys, clock, *call.args)
        return await pipeline.execute(raise_on_error=False)

    def _run_locally(self, calls: Sequence[Call]) -> list[Any]:
        now = time.time() if self._clock is None else self._clock()
        with self._lock:
            return [call.script.local(self._local, now, call.keys, call.args) for call in calls]

    def _pause(self, error: Exception) -> None:
        self._paused_until = time.monotonic() + PAUSE_SECONDS
        logger.warning("Models' limits, breakers and cache go without Redis for %d s: %s", PAUSE_SECONDS, error)


class _Keeper:
    """Renews an event loop's leases while there are any."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._held: set[tuple[str, str]] = set()
        self._task: asyncio.Task[None] | None = None

    def keep(self, key: str, member: str) -> None:
        self._held.add((key, member))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._renew())

    def let_go(self, key: str, member: str) -> None:
        self._held.discard((key, member))

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _renew(self) -> None:
        while self._held:
            await asyncio.sleep(RENEW_SECONDS)
            held = sorted(self._held)
            await self._shared.run(Call(_RENEW, [key for key, _ in held], tuple(member for _, member in held)))


def _renew_locally(local: Local, now: float, keys: Sequence[str], args: Sequence[Any]) -> None:
    for key, member in zip(keys, args, strict=True):
        local.renew(key, member, now)


def _leave_locally(local: Local, now: float, keys: Sequence[str], args: Sequence[Any]) -> None:
    for key, member in zip(keys, args, strict=True):
        local.leave(key, member, now)


# A lease that has run out and was cleared away is not taken again behind its successor's back.
_RENEW = Script(
    "for i, key in ipairs(KEYS) do if redis.call('ZSCORE', key, ARGV[i + 1]) then hold(key, ARGV[i + 1]) end end",
    _renew_locally,
)
# Gives leases back: a member (argument) for each key.
LEAVE = Script(
    "for i, key in ipairs(KEYS) do redis.call('ZREM', key, ARGV[i + 1]) end",
    _leave_locally,
    everywhere=True,
)
# How many leases there are at each key.
_COUNT = Script(
    "local found = {} for i, key in ipairs(KEYS) do found[i] = held(key) end return found",
    lambda local, now, keys, args: [local.held(key, now) for key in keys],
)


async def held_at(shared: "Shared", keys: Sequence[str]) -> list[int]:
    """How many hold a place at each of `keys`, for operators."""
    [counts] = await shared.run(_COUNT(keys))
    return [int(count) for count in counts]


@lru_cache(maxsize=4)
def _shared(redis_url: str) -> Shared:
    return Shared(redis_url)


def shared() -> Shared:
    """The process's."""
    return _shared(settings.REDIS_URL)
