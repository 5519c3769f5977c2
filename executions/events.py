"""Tells whoever watches an execution that its record has changed, and waits for such news.

The record is in the database, and a watcher reads it there. With Redis the worker's news comes by publish/subscribe,
so that a watcher looks at the right moment; without Redis, or while it is away, a watcher looks again and again.
News that is lost costs a second, never an event.
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

# One command for all: a client writes and reads many in ten times the time.
_PUBLISH = "for _, channel in ipairs(ARGV) do redis.call('PUBLISH', channel, '') end"

_redis_paused_until = 0.0  # by time.monotonic()


def announce(execution_ids: Iterable[UUID]) -> None:
    """Tell the watchers of these executions that there is something new; call it after commit.

    Best effort: never raises, and waits for Redis at most `REDIS_SECONDS`, after which it does nothing for
    `PAUSE_SECONDS`. Without `REDIS_URL` it does nothing.
    """
    if not _redis_usable():
        return
    try:
        _redis(settings.REDIS_URL).eval(_PUBLISH, 0, *map(_channel, execution_ids))
    except RedisError as error:
        _pause_redis(error)


class Changes:
    """What `watch` gives: the news of one execution."""

    def __init__(self, pubsub: PubSub | None) -> None:
        self._pubsub = pubsub

    def wait(self, seconds: float) -> None:
        """Return when the execution may have changed: at its news, or after a moment, at most `seconds`."""
        if self._pubsub is not None and _redis_usable():
            try:
                self._wait_for_news(self._pubsub, min(seconds, LONGEST_WAIT_SECONDS))
                return
            except RedisError as error:
                _pause_redis(error)
        time.sleep(max(0.0, min(seconds, POLL_SECONDS)))

    @staticmethod
    def _wait_for_news(pubsub: PubSub, seconds: float) -> None:
        if pubsub.get_message(timeout=max(0.0, seconds)) is None:
            return
        # A busy execution announces many times a second: take what has piled up as one piece of news, and wait for no more.
        while pubsub.get_message(timeout=0) is not None:
            pass


@contextmanager
def watch(execution_id: UUID) -> Iterator[Changes]:
    """Hear of an execution's changes: from the moment of entry, nothing announced is missed (while Redis is there).

    So enter first, then read the database, then `wait`, then read again.
    """
    pubsub = _subscribe(execution_id) if _redis_usable() else None
    try:
        yield Changes(pubsub)
    finally:
        if pubsub is not None:
            with suppress(RedisError):
                pubsub.close()


def _subscribe(execution_id: UUID) -> PubSub | None:
    pubsub: PubSub = _redis(settings.REDIS_URL).pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
    try:
        pubsub.subscribe(_channel(execution_id))
        # The server's confirmation: what is published from here on arrives.
        pubsub.get_message(timeout=REDIS_SECONDS)
    except RedisError as error:
        _pause_redis(error)
        pubsub.close()
        return None
    return pubsub


def _channel(execution_id: UUID) -> str:
    return f"blox:execution:{execution_id}"


@lru_cache(maxsize=4)
def _redis(url: str) -> Redis:
    return Redis.from_url(
        url,
        socket_timeout=REDIS_SECONDS,
        socket_connect_timeout=REDIS_SECONDS,
        retry=Retry(NoBackoff(), 0),  # a retry would wait for the same dead server once more
    )


def _redis_usable() -> bool:
    return bool(settings.REDIS_URL) and time.monotonic() >= _redis_paused_until


def _pause_redis(error: RedisError) -> None:
    global _redis_paused_until
    _redis_paused_until = time.monotonic() + PAUSE_SECONDS
    logger.warning("Live events go without Redis for %d s: %s", PAUSE_SECONDS, error)
