"""Ends a worker process whose event loop no longer ticks: a block has blocked it, or does not let itself be cancelled.

The lease keeper is a thread, and would renew the leases of a loop that stands still for ever. With the process gone
they run out; Celery starts another, and each execution is then on probation, so that the one at fault counts its
crashes and befalls no other.
"""

import asyncio
import faulthandler
import logging
import os
import time
from threading import Event, Thread

from executions.engine.leases import LEASE

logger = logging.getLogger(__name__)

TICK_SECONDS = 1.0
SILENCE_SECONDS = max(10.0, LEASE.total_seconds())  # a heavy expression may hold the loop for seconds, and is no fault


class Watchdog(Thread):
    """Watches a loop from the first tick until it is told to rest, again and again."""

    def __init__(self) -> None:
        super().__init__(name="watchdog", daemon=True)
        self._last_tick: float | None = None
        self._done = Event()

    async def tick(self) -> None:
        """To run as a task of the loop. It ends with the drain, whose last tasks must then end in time as well."""
        while True:
            self._last_tick = time.monotonic()
            await asyncio.sleep(TICK_SECONDS)

    def rest(self) -> None:
        self._last_tick = None

    def close(self) -> None:
        self._done.set()
        self.join()

    def run(self) -> None:
        while not self._done.wait(TICK_SECONDS):
            last_tick = self._last_tick
            if last_tick is not None and (silence := time.monotonic() - last_tick) > SILENCE_SECONDS:
                logger.critical("The worker's loop has stood still for %.0f s; ending the process", silence)
                faulthandler.dump_traceback(file=2)  # which block it is; Celery has put a proxy over sys.stderr
                os._exit(os.EX_SOFTWARE)
