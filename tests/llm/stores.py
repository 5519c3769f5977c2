"""Where the stages of the path keep what they share: memory, and Redis where the suite has one. Each test on both."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, Self, TypeVar
from uuid import UUID, uuid4

import redis

from billing.tiers import TIERS
from bloxserver.core.loops import background_done
from llm.exchange import Allowance, Caller, Endpoint, Request, UserMessage
from llm.path import admission
from llm.path.shared import PREFIX, Shared

T = TypeVar("T")

NOON = 1_800_000_000.0  # the first second of a minute


class Store:
    """A `Shared` whose clock stands until it is moved, with an event loop of its own."""

    def __init__(self, redis_url: str) -> None:
        self.now = NOON
        self.redis_url = redis_url
        self.shared = Shared(redis_url, clock=lambda: self.now)
        self._loop = asyncio.Runner()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.run(self.shared.close())
        self._loop.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """And what it has left to the background."""

        async def whole() -> T:
            try:
                return await work
            finally:
                await background_done()

        return self._loop.run(whole())

    def lives(self) -> dict[str, int]:
        """What is in Redis, with its seconds to live."""
        with redis.Redis.from_url(self.redis_url) as client:
            return {key.decode(): client.ttl(key) for key in client.scan_iter(f"{PREFIX}*")}


def forget(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        for key in client.scan_iter(f"{PREFIX}*"):
            client.delete(key)


def endpoint(name: str = "a", **other: Any) -> Endpoint:
    values = {"provider": name, "kind": "openai", "model": "gpt-4o-mini", "base_url": "", "api_key": f"key-of-{name}"}
    return Endpoint(**{"id": name, **values, **other})


async def load(store: Store, pool: Sequence[Endpoint]) -> float:
    """Of a pool of one endpoint or more, the emptiest."""
    depths = await admission.depths(store.shared, [each.id for each in pool])
    return min(depths.values()) / sum(each.concurrency or 0 for each in pool)


def question(text: str = "What is the answer?", **other: Any) -> Request:
    return Request("gpt-4o-mini", (UserMessage(text),), **other)


def caller(tier: str = "pro", user_id: UUID | None = None) -> Caller:
    return Caller(user_id or uuid4(), tier, allowance_by(tier))


def allowance_by(tier: str) -> Allowance:
    of = TIERS[tier]
    return Allowance(f"{tier} tier", of.llm_requests_per_minute, of.llm_tokens_per_minute, of.llm_concurrent)
