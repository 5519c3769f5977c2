"""What is told of the state that requests meet on their path, and what operators do to it.

That state is in Redis, or without Redis in the worker's memory: then nothing is known of it here, and a task reaches it.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

from asgiref.sync import async_to_sync

from accounts.models import User
from llm.dispatch import Job, send
from llm.models import Provider
from llm.path import admission, breakers, cache, limits, pool
from llm.path.breakers import State
from llm.path.shared import Shared, shared

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Standing:
    """Of a member of the pool: its breaker, how many calls are under way, and how many with those that wait for its pool."""

    breaker: State
    under_way: int
    load: int


def rate_headers(user: User) -> dict[str, str]:
    """`X-RateLimit-*` of the user's calls with the platform's keys. Empty where nothing is limited, or known here."""

    allowance = limits.allowance_of(user)

    async def look(of: Shared) -> dict[str, str]:
        standing = await limits.standing_of(of, user_id=user.pk, allowance=allowance)
        return standing.headers if of.is_common else {}

    return _on_a_loop(look)


def standings(providers: Sequence[Provider]) -> dict[UUID, Standing]:
    """By their ids, in three round trips for all. Empty where nothing is known here."""
    ids = [str(provider.pk) for provider in providers]

    async def look(of: Shared) -> dict[UUID, Standing]:
        states, slots = await breakers.states(of, ids), await pool.slots_taken(of, ids)
        depths = await admission.depths(of, ids)
        return {UUID(key): Standing(states[key], slots[key], depths[key]) for key in ids} if of.is_common else {}

    return _on_a_loop(look) if ids else {}


def close_breaker(*, provider: Provider) -> None:
    """It is asked again, within seconds, as if it had never failed."""
    send(Job.CLOSE, str(provider.pk))


def forget_answers(*, user_id: UUID) -> None:
    """No answer that was given to this user before is given again, within seconds."""
    send(Job.FORGET, str(user_id))


def close_breaker_here(provider_id: str) -> None:
    """For a worker, as the next."""
    _on_a_loop(lambda of: of.run(breakers.closing(provider_id)))


def forget_answers_here(user_id: UUID) -> int:
    """How many keys that was."""
    return _on_a_loop(lambda of: cache.clear(of, user_id))


def _on_a_loop(work: Callable[[Shared], Awaitable[T]]) -> T:
    async def whole() -> T:
        try:
            return await work(shared())
        finally:
            await shared().close()

    return async_to_sync(whole)()
