"""What the drains of one process share, from the first bell that it hears on: threads, connections, the event loop.

Made in the process that drains, so after Celery has forked it, and kept: a bell on an idle server then costs a claim and
the work itself.
"""

import asyncio
import os
import socket
from contextlib import closing, suppress
from functools import cache

from bloxserver.core.garbage import leave_alone_what_is_loaded
from bloxserver.core.ids import new_id
from bloxserver.core.loops import background, background_done
from bloxserver.core.safe_http import close_shared_client
from executions.engine.drain import DRAIN_SECONDS, Drain, ring_for_what_is_left
from executions.engine.leases import LeaseKeeper
from executions.engine.store import Store
from executions.engine.watchdog import Watchdog
from llm.path.shared import shared
from llm.wire import close_clients

GIVING_BACK_SECONDS = 2.0  # are left to what gives back, before the loop rests until the next drain


class Worker:
    """One loop, one database thread, one lease keeper and one watchdog. `close` ends them and their connections."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._store = Store()
        self._keeper = LeaseKeeper(f"{socket.gethostname()}:{os.getpid()}:{new_id().hex[-8:]}")
        self._watchdog = Watchdog()
        self._keeper.start()
        self._watchdog.start()

    def drain(self, seconds: float = DRAIN_SECONDS) -> None:
        """Claim and run due executions until none is left, or for `seconds`."""
        try:
            self._runner.run(self._drain(seconds))
        finally:
            self._watchdog.rest()

    def ring_for_what_is_left(self) -> None:
        self._runner.run(self._store.call(ring_for_what_is_left))

    def close(self) -> None:
        self._runner.run(close_clients())
        self._runner.run(shared().close())
        self._runner.run(close_shared_client())
        self._runner.close()
        self._keeper.close()
        self._watchdog.close()
        self._store.close()

    async def _drain(self, seconds: float) -> None:
        ticking = asyncio.create_task(self._watchdog.tick())
        try:
            await Drain(seconds, store=self._store, keeper=self._keeper).run()
        finally:
            left = asyncio.all_tasks() - {asyncio.current_task(), ticking} - background()
            for task in left:
                task.cancel()
            with suppress(TimeoutError):
                async with asyncio.timeout(GIVING_BACK_SECONDS):
                    await asyncio.gather(*left, return_exceptions=True)
                    await background_done()
            # It goes on watching: what a block has left behind must let itself be ended, too.
            ticking.cancel()
            await asyncio.gather(ticking, *left, return_exceptions=True)


@cache
def worker() -> Worker:
    """This process's, which it keeps."""
    leave_alone_what_is_loaded()
    return Worker()


def drain_due_executions(*, seconds: float) -> None:
    """Run everything that can be claimed, parked waits aside, and leave nothing behind: for a person or a test."""
    with closing(Worker()) as one:
        one.drain(seconds)
