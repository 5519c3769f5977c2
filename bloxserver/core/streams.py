"""The bounded share of web threads that may be held for long: by event streams, and by webhooks that wait for a result.

The web server is WSGI, where whoever waits holds a thread. Without a bound, a few dozen open streams would leave no
thread for the API.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from threading import BoundedSemaphore
from typing import ClassVar

from django.conf import settings

from bloxserver.core.errors import DomainError

RETRY_AFTER_SECONDS = 5


class StreamsBusy(DomainError):
    """Every slot of this process is taken."""

    code: ClassVar[str] = "streams_busy"
    status: ClassVar[int] = 503

    def __init__(self) -> None:
        super().__init__(
            "All event streams of this server are in use: try again in a few seconds, or poll the execution.",
            headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
        )


@contextmanager
def acquire_stream_slot() -> Iterator[None]:
    """Hold one of this process's `BLOX_STREAM_LIMIT` slots. Never waits: raises `StreamsBusy` when none is free."""
    slots = _slots(settings.BLOX_STREAM_LIMIT)
    if not slots.acquire(blocking=False):
        raise StreamsBusy
    try:
        yield
    finally:
        slots.release()


@lru_cache(maxsize=8)
def _slots(limit: int) -> BoundedSemaphore:
    return BoundedSemaphore(limit)
