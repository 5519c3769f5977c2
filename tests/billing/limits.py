"""What the tests of limits have in common."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import TypeVar

from django.db import connection

from accounts.models import User
from billing.models import LimitOverride

T = TypeVar("T")


def give(user: User, limit: str, value: int | None, *, expires_at: datetime | None = None) -> LimitOverride:
    return LimitOverride.objects.create(user=user, limit=limit, value=value, expires_at=expires_at, reason="agreed")


def all_at_once(calls: Sequence[Callable[[], T]]) -> list[T]:
    """Call each in a thread of its own, all at the same moment; what they give."""
    start = threading.Barrier(len(calls))

    def work(call: Callable[[], T]) -> T:
        start.wait()
        try:
            return call()
        finally:
            connection.close()

    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(work, calls))
