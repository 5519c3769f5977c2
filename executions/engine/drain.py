"""A drain: claim what is due, run it together in one event loop, and claim again, for a bounded time."""

import asyncio
import logging
import time
from contextlib import suppress
from functools import partial

from django.conf import settings
from django.db import DatabaseError, InterfaceError
from django.utils import timezone

from bloxserver.core.errors import DomainError
from executions import endings
from executions.dispatch import ring_bell
from executions.endings import Ending
from executions.engine.lanes import anything_startable, worker_priorities
from executions.engine.leases import Claimed, Holder, LeaseKeeper, claim, let_others_in
from executions.engine.run import ExecutionRun
from executions.engine.shutdown import is_shutting_down
from executions.engine.store import LeaseLost, Store, close_connection, patiently
from executions.models import ExecutionStatus
from flows.models import Flow
from flows.organism.spec import Organism
from flows.services import fail_flow, load_organism

logger = logging.getLogger(__name__)

DRAIN_SECONDS = 120.0
HAND_BACK_SECONDS = 5.0  # for the steps under way, before the worker goes on with other executions beside them
PASS_ON_SECONDS = 0.05  # before a worker for some tiers rings for the others
CLAIM_EVERY_SECONDS = 0.1  # while something runs: what was accepted meanwhile must not wait for it


class Drain:
    def __init__(self, seconds: float, *, store: Store, keeper: LeaseKeeper) -> None:
        self.seconds = seconds
        self.capacity = settings.BLOX_WORKER_CONCURRENCY
        self.gulp = max(1, self.capacity // 2)  # while the loop runs one half, the other is written and claimed
        self.store = store
        self.keeper = keeper
        self.runs: dict[asyncio.Task[None], ExecutionRun] = {}
        self._probation: tuple[ExecutionRun, float] | None = None  # which run, and until when by the loop's clock
        self._has_room_again = asyncio.Event()

    async def run(self) -> None:
        while True:
            await self._claim_and_wait(asyncio.get_running_loop().time() + self.seconds)
            for run in self.runs.values():
                run.hand_back()
            if not self.runs:
                return
            # A step may take an hour: the worker goes on claiming beside it, unless it is to end.
            await asyncio.wait(self.runs, timeout=None if is_shutting_down() else HAND_BACK_SECONDS)
            if not self.runs:
                return

    async def _claim_and_wait(self, until: float) -> None:
        """Claim, and wait for what was claimed, until nothing is left, the time is over, or the worker is to end."""
        while asyncio.get_running_loop().time() < until and not is_shutting_down():
            self._has_room_again.clear()
            claimed = await self._claim()
            if not self.runs and not claimed:
                return
            if self.runs and not (claimed == self.gulp and self._has_room):
                await self._wait()

    async def _wait(self) -> None:
        """Until something has ended and there is room for a gulp, or what was accepted meanwhile has waited enough."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CLAIM_EVERY_SECONDS):
                await self._has_room_again.wait()

    @property
    def _has_room(self) -> bool:
        return self.capacity - len(self.runs) >= self.gulp

    async def _claim(self) -> int:
        """Take what is due, as far as there is room; how many were taken."""
        limit = min(self.gulp, self.capacity - len(self.runs))
        try:
            if not await self._is_open() or not limit:  # in this order: probation ends where a worker is full, too
                return 0
            claimed = await self.store.call(partial(self._take, limit=limit, holding=len(self.runs)))
        except (DatabaseError, InterfaceError) as error:
            logger.warning("Cannot claim: %s", error)
            await self.store.call(close_connection)
            return 0
        for each, organism in claimed:
            if organism is not None:
                self._start(ExecutionRun(each, organism, self.store))
        return len(claimed)

    async def _is_open(self) -> bool:
        """Whether anything may be claimed beside what runs here: not before the one on probation has passed."""
        if self._probation is None:
            return True
        run, until = self._probation
        if asyncio.get_running_loop().time() < until:
            return False
        await self.store.call(partial(let_others_in, run.claimed))
        self._probation = None
        return True

    def _take(self, *, limit: int, holding: int) -> list[tuple[Claimed, Organism | None]]:
        """Claim, and load the organisms; runs in the database thread."""
        claimed = claim(self.keeper.owner, limit=limit, holding=holding)
        return [(each, organism_of(each)) for each in claimed]

    def _start(self, run: ExecutionRun) -> None:
        loop = asyncio.get_running_loop()
        self.keeper.hold(
            run.claimed.pk,
            Holder(
                run.claimed.lease,
                lost=partial(loop.call_soon_threadsafe, run.lose),
                cancel=lambda reason: loop.call_soon_threadsafe(run.cancel, reason),
            ),
        )
        if run.claimed.on_probation:
            self._probation = run, loop.time() + run.claimed.probation_seconds
        task = asyncio.create_task(run.run())
        self.runs[task] = run
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        run = self.runs.pop(task)
        self.keeper.release(run.claimed.pk, run.claimed.lease)
        if self._probation is not None and self._probation[0] is run:
            self._probation = None
        if self._has_room:
            self._has_room_again.set()


def organism_of(claimed: Claimed) -> Organism | None:
    """The organism of an execution; None where it cannot be started: one such must not take the others down."""
    try:
        try:
            return patiently(partial(load_organism, claimed.version_id))
        except DomainError as error:
            patiently(partial(_refuse, claimed, error.message))
    except LeaseLost:  # the database is away: the lease runs out, and the execution goes on later
        pass
    except Exception:
        logger.exception("execution=%s cannot be started", claimed.pk)
    return None


def _refuse(claimed: Claimed, reason: str) -> None:
    """The version no longer loads (a block is gone, say): the execution ends, and its flow is out of order."""
    message = f"The version no longer loads: {reason}"
    endings.end_unheld(claimed, Ending(ExecutionStatus.ERROR, "invalid_organism", message), now=timezone.now())
    flow = Flow.objects.filter(pk=claimed.flow_id, deployed_version=claimed.version_id).first()
    if flow is not None and not claimed.is_draft:
        fail_flow(flow=flow, message=message)


def ring_for_what_is_left() -> None:
    """Ring the bell where a claim would find something now."""
    if anything_startable(worker_priorities()):
        ring_bell()
    elif settings.BLOX_WORKER_TIERS and anything_startable():
        time.sleep(PASS_ON_SECONDS)  # else it may hear this bell itself, again and again
        ring_bell()
