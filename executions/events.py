"""Tells whoever watches an execution that its record has changed, and waits for such news.

The record is in the database, and a watcher reads it there. With Redis the worker's news comes by publish/subscribe,
so that a watcher looks at the right moment; without Redis, or while it is away, a watcher looks again and again.
News that is lost costs a second, never an event. News that a model has said something (`SPEECH`) comes the same way; what
it said is in `speech.py`.
"""

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from uuid import UUID

from django.conf import settings
from redis import Redis, RedisError
from redis.backoff import NoBackoff
from redis.client import PubSub
from redis.retry import Retry

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.25  # how often a watcher without news looks
LONGEST_WAIT_SECONDS = 1.0  # news by Redis can be lost, so nobody relies on it for longer
REDIS_SECONDS = 0.5  # the longest that a worker or a watcher waits for Redis to answer
PAUSE_SECONDS = 5.0  # after a failure Redis is left alone for so long

SPEECH = b"speech"  # news of a model that speaks; any other is of the record

# One command for all: a client writes and reads many in ten times the time.
_PUBLISH = "for _, channel in ipairs(ARGV) do redis.call('PUBLISH', channel, '') end"

_redis_paused_until = 0.0  # by time.monotonic()


def announce(execution_ids: Iterable[UUID]) -> None:
    """Tell the watchers of these executions that there is something new; call it after commit.

    Best effort: never raises, and waits for Redis at most `REDIS_SECONDS`, after which it does nothing for
    `PAUSE_SECONDS`. Without `REDIS_URL` it does nothing.
    """
    if not redis_usable():
        return
    try:
        redis().eval(_PUBLISH, 0, *map(channel, execution_ids))
    except RedisError as error:
        pause_redis(error)


class Changes:
    """What `watch` gives: the news of one execution."""

    def __init__(self, pubsub: PubSub | None) -> None:
        self._pubsub = pubsub

    def wait(self, seconds: float) -> bool:
        """Return when the execution may have changed: at its news, or after a moment, at most `seconds`.

        False where all that is new is that a model speaks: the record need not be read.
        """
        if self._pubsub is not None and redis_usable():
            try:
                return self._wait_for_news(self._pubsub, min(seconds, LONGEST_WAIT_SECONDS))
            except RedisError as error:
                pause_redis(error)
        time.sleep(max(0.0, min(seconds, POLL_SECONDS)))
        return True

    @staticmethod
    def _wait_for_news(pubsub: PubSub, seconds: float) -> bool:
        if (message := pubsub.get_message(timeout=max(0.0, seconds))) is None:
            return True  # news may have been lost
        news = {message["data"]}
        # A busy execution announces many times a second: take what has piled up as one piece of news, and wait for no more.
        while (message := pubsub.get_message(timeout=0)) is not None:
            news.add(message["data"])
        return news != {SPEECH}


@contextmanager
def watch(execution_id: UUID) -> Iterator[Changes]:
    """Hear of an execution's changes: from the moment of entry, nothing announced is missed (while Redis is there).

    So enter first, then read the database, then `wait`, then read again.
    """
    pubsub = _subscribe(execution_id) if redis_usable() else None
    try:
        yield Changes(pubsub)
    finally:
        if pubsub is not None:
            with suppress(RedisError):
                pubsub.close()


def _subscribe(execution_id: UUID) -> PubSub | None:
    pubsub: PubSub = redis().pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
    try:
        pubsub.subscribe(channel(execution_id))
        # The server's confirmation: what is published from here on arrives.
        pubsub.get_message(timeout=REDIS_SECONDS)
    except RedisError as error:
        pause_redis(error)
        pubsub.close()
        return None
    return pubsub


def channel(execution_id: UUID) -> str:
    """Where the news of an execution is published."""
    return f"blox:execution:{execution_id}"


def redis() -> Redis:
    """The client of this process; it waits for an answer at most `REDIS_SECONDS`."""
    return _redis(settings.REDIS_URL)


@lru_cache(maxsize=4)
def _redis(url: str) -> Redis:
    return Redis.from_url(
        url,
        socket_timeout=REDIS_SECONDS,
        socket_connect_timeout=REDIS_SECONDS,
        retry=Retry(NoBackoff(), 0),  # a retry would wait for the same dead server once more
    )


def redis_usable() -> bool:
    return bool(settings.REDIS_URL) and time.monotonic() >= _redis_paused_until


def pause_redis(error: RedisError) -> None:
    """Leave Redis alone for a while, since it has failed."""
    global _redis_paused_until
    _redis_paused_until = time.monotonic() + PAUSE_SECONDS
    logger.warning("Live events go without Redis for %d s: %s", PAUSE_SECONDS, error)
