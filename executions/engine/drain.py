"""A drain: claim what is due, run it together in one event loop, and claim again, for a bounded time."""

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable
from functools import partial

from django.conf import settings
from django.db import DatabaseError, InterfaceError
from django.utils import timezone

from bloxserver.core.errors import DomainError
from bloxserver.core.ids import new_id
from bloxserver.core.safe_http import close_shared_client
from executions import endings
from executions.dispatch import ring_bell
from executions.endings import Ending
from executions.engine.lanes import anything_startable, worker_priorities
from executions.engine.leases import Claimed, Holder, LeaseKeeper, claim
from executions.engine.run import ExecutionRun
from executions.engine.shutdown import is_shutting_down
from executions.engine.store import LeaseLost, Store, close_connection
from executions.engine.watchdog import Watchdog
from executions.models import Execution, ExecutionStatus
from flows.services import fail_flow, load_organism

logger = logging.getLogger(__name__)

DRAIN_SECONDS = 120.0
HAND_BACK_SECONDS = 5.0  # for the steps under way, before the worker goes on with other executions beside them
PASS_ON_SECONDS = 0.05  # before a worker for some tiers rings for the others
CLAIM_EVERY_SECONDS = 0.1  # while something runs: what was accepted meanwhile must not wait for it


def drain_due_executions(*, seconds: float = DRAIN_SECONDS, until_idle: bool = False) -> None:
    """Claim and run due executions until none is left, or for `seconds`; what is left then gets another bell.

    `until_idle` is for a person or a test that wants everything carried through, parked waits aside.
    """
    with Watchdog() as watchdog:
        asyncio.run(Drain(seconds).run(watchdog))
    if until_idle:
        return
    if anything_startable(worker_priorities()):
        ring_bell()
    elif settings.BLOX_WORKER_TIERS and anything_startable():
        time.sleep(PASS_ON_SECONDS)  # else it may hear this bell itself, again and again
        ring_bell()


class Drain:
    def __init__(self, seconds: float, *, is_shutting_down: Callable[[], bool] = is_shutting_down) -> None:
        self.seconds = seconds
        self.capacity = settings.BLOX_WORKER_CONCURRENCY
        self.owner = f"{socket.gethostname()}:{os.getpid()}:{new_id().hex[-8:]}"
        self.is_shutting_down = is_shutting_down
        self.store = Store()
        self.keeper = LeaseKeeper(self.owner)
        self.runs: dict[asyncio.Task[None], ExecutionRun] = {}

    async def run(self, watchdog: Watchdog) -> None:
        ticking = asyncio.create_task(watchdog.tick())
        self.keeper.start()
        try:
            await self._drain()
        finally:
            await close_shared_client()
            await asyncio.to_thread(self.keeper.close)
            self.store.close()
            ticking.cancel()

    async def _drain(self) -> None:
        while True:
            await self._claim_and_wait(asyncio.get_running_loop().time() + self.seconds)
            for run in self.runs.values():
                run.hand_back()
            if not self.runs:
                return
            # A step may take an hour: the worker goes on claiming beside it, unless it is to end.
            await asyncio.wait(self.runs, timeout=None if self.is_shutting_down() else HAND_BACK_SECONDS)
            if not self.runs:
                return

    async def _claim_and_wait(self, until: float) -> None:
        """Claim, and wait for what was claimed, until nothing is left, the time is over, or the worker is to end."""
        while asyncio.get_running_loop().time() < until and not self.is_shutting_down():
            claimed = await self._claim()
            if not self.runs and not claimed:
                return
            if self.runs and (not claimed or self._is_full):
                await asyncio.wait(self.runs, timeout=CLAIM_EVERY_SECONDS, return_when=asyncio.FIRST_COMPLETED)

    @property
    def _is_full(self) -> bool:
        return len(self.runs) >= self.capacity or any(run.execution.claim_alone for run in self.runs.values())

    async def _claim(self) -> int:
        """Take what is due, as far as there is room; how many were taken."""
        if self._is_full:
            return 0
        take = partial(claim, self.owner, limit=self.capacity - len(self.runs), holding=len(self.runs))
        try:
            claimed = await self.store.call(take)
        except (DatabaseError, InterfaceError) as error:
            logger.warning("Cannot claim: %s", error)
            await self.store.call(close_connection)
            return 0
        for each in claimed:
            await self._start(each)
        return len(claimed)

    async def _start(self, claimed: Claimed) -> None:
        try:
            run = await self._prepare(claimed)
        except LeaseLost:  # the database is away: the lease runs out, and the execution goes on later
            return
        except Exception:  # one that cannot be started must not take the others down
            logger.exception("execution=%s cannot be started", claimed.execution.pk)
            return
        if run is not None:
            self._hold(run)

    async def _prepare(self, claimed: Claimed) -> ExecutionRun | None:
        """The run of a claimed execution; None when its version no longer loads, and it has ended with that."""
        try:
            organism = await self.store.call_patiently(partial(load_organism, claimed.execution.version_id))
        except DomainError as error:
            await self.store.call_patiently(partial(_refuse, claimed.execution, error.message))
            return None
        return ExecutionRun(claimed, organism, self.store)

    def _hold(self, run: ExecutionRun) -> None:
        loop = asyncio.get_running_loop()
        self.keeper.hold(
            run.execution.pk,
            Holder(
                run.fence,
                lost=partial(loop.call_soon_threadsafe, run.lose),
                cancel=lambda reason: loop.call_soon_threadsafe(run.cancel, reason),
            ),
        )
        task = asyncio.create_task(run.run())
        self.runs[task] = run
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        run = self.runs.pop(task)
        self.keeper.release(run.execution.pk, run.fence)


def _refuse(execution: Execution, reason: str) -> None:
    """The version no longer loads (a block is gone, say): the execution ends, and its flow is out of order."""
    message = f"The version no longer loads: {reason}"
    endings.end_unheld(execution, Ending(ExecutionStatus.ERROR, "invalid_organism", message), now=timezone.now())
    if not execution.is_draft:
        fail_flow(flow=execution.flow, message=message)
