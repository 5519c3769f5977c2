"""Ends a worker process whose event loop no longer ticks: a block has blocked it, or does not let itself be cancelled.

The lease keeper is a thread, and would renew the leases of a loop that stands still for ever. With the process gone
they run out; Celery starts another, and each execution is then claimed alone, so that the one at fault counts its
crashes and befalls no other.
"""

import asyncio
import faulthandler
import logging
import os
import time
from threading import Event, Thread
from typing import Self

from executions.engine.leases import LEASE

logger = logging.getLogger(__name__)

TICK_SECONDS = 1.0
SILENCE_SECONDS = max(10.0, LEASE.total_seconds())  # a heavy expression may hold the loop for seconds, and is no fault


class Watchdog(Thread):
    """Watches one loop from `tick` on until the end of its `with`."""

    def __init__(self) -> None:
        super().__init__(name="watchdog", daemon=True)
        self._last_tick = time.monotonic()
        self._done = Event()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self.join()

    async def tick(self) -> None:
        """To run as a task of the loop. It ends with the loop, whose last tasks must then end in time as well."""
        while True:
            self._last_tick = time.monotonic()
            await asyncio.sleep(TICK_SECONDS)

    def run(self) -> None:
        while not self._done.wait(TICK_SECONDS):
            silence = time.monotonic() - self._last_tick
            if silence > SILENCE_SECONDS:
                logger.critical("The worker's loop has stood still for %.0f s; ending the process", silence)
                faulthandler.dump_traceback(file=2)  # which block it is; Celery has put a proxy over sys.stderr
                os._exit(os.EX_SOFTWARE)
