"""What the tests of limits have in common."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any, TypeVar

from django.db import connection

from accounts.models import User
from billing.models import LimitOverride

T = TypeVar("T")

HELD_UP_SECONDS = 0.1


def give(user: User, limit: str, value: int | None, *, expires_at: datetime | None = None) -> LimitOverride:
    return LimitOverride.objects.create(user=user, limit=limit, value=value, expires_at=expires_at, reason="agreed")


def all_at_once(calls: Sequence[Callable[[], T]], *, held_up: str = "INSERT") -> list[T]:
    """Call each in a thread of its own, all at the same moment; what they give.

    Each statement that begins with `held_up` waits a moment, so that the others see what they can see before it.
    """

    def hold_up(execute: Callable[..., Any], sql: str, *rest: Any) -> Any:
        if sql.startswith(held_up):
            time.sleep(HELD_UP_SECONDS)
        return execute(sql, *rest)

    start = threading.Barrier(len(calls))

    def work(call: Callable[[], T]) -> T:
        start.wait()
        try:
            with connection.execute_wrapper(hold_up):
                return call()
        finally:
            connection.close()

    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(work, calls))
