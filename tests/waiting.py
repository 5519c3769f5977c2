"""Waiting for what another thread or process is about to do."""

import time
from collections.abc import Callable


def wait_until(true: Callable[[], bool], *, seconds: float = 40.0) -> None:
    """Return once `true()` is; fail when it has not come about in `seconds`."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.05)
