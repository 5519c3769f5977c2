"""The bell: a message that says "look at the queue", and nothing else.

Losing, doubling or delaying one changes nothing but latency, because the queue is the executions table and the sweeper
rings each second for what was not heard. So a publisher never waits for a broker that is away: after a failure it
stays quiet for a few seconds.
"""

import logging
import threading
import time
from enum import StrEnum
from functools import partial

from celery import current_app
from django.db import transaction
from kombu.exceptions import KombuError, OperationalError

logger = logging.getLogger(__name__)

QUIET_SECONDS = 5.0
FAILURE_BELL_SECONDS = 0.5
BELL_EXPIRES_SECONDS = 10.0  # an older bell tells nothing that the sweeper has not rung for again


class Job(StrEnum):
    DRAIN = "executions.drain"
    SWEEP = "executions.sweep"
    FOLD = "executions.fold_tallies"
    OPERATE = "executions.work_operations"
    PRUNE = "executions.prune_history"
    FAILURES = "executions.failures"


class _Breaker:
    """Skips publishing for a while after it failed, so that acceptance does not queue up behind a dead broker.

    Then one publisher tries, and the others stay quiet until that has gone well.
    """

    def __init__(self) -> None:
        self._is_broken = False
        self._quiet_until = 0.0
        self._lock = threading.Lock()

    def admits(self) -> bool:
        with self._lock:
            if self._is_broken:
                if time.monotonic() < self._quiet_until:
                    return False
                self._quiet_until = time.monotonic() + QUIET_SECONDS
            return True

    def trip(self) -> None:
        self._is_broken, self._quiet_until = True, time.monotonic() + QUIET_SECONDS

    def mend(self) -> None:
        self._is_broken = False


_breaker = _Breaker()


def ring_bell() -> None:
    """Ring once the transaction that is under way has committed (at once when there is none)."""
    ring(Job.DRAIN)


def ring(job: Job) -> None:
    """The same for another queue that is a table, and that the clock rings for too."""
    transaction.on_commit(partial(_publish, job), robust=True)


def ring_failure_bell() -> None:
    """Likewise for "an execution has failed", and the clock: see `failures.py`."""
    transaction.on_commit(_failure_bell.ring, robust=True)


class _FailureBell:
    """Rings at most twice a second and process: a flow may fail a thousand times a second, and one bell is for all."""

    def __init__(self) -> None:
        self.quiet_until = 0.0

    def ring(self) -> None:
        if time.monotonic() >= self.quiet_until:
            self.quiet_until = time.monotonic() + FAILURE_BELL_SECONDS
            _publish(Job.FAILURES, queue="clock")


_failure_bell = _FailureBell()


def _publish(job: Job, queue: str | None = None) -> None:
    if not _breaker.admits():
        return
    try:
        current_app.send_task(job, queue=queue, ignore_result=True, retry=False, expires=BELL_EXPIRES_SECONDS)
        _breaker.mend()
    except (OperationalError, KombuError, OSError) as error:
        _breaker.trip()
        logger.warning("The broker is away (%s); executions start from the database until it is back.", error)
