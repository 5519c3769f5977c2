"""The bell: a message that says "look at the queue", and nothing else.

Losing, doubling or delaying one changes nothing but latency, because the queue is the executions table and the sweeper
rings each second for what was not heard. So nobody waits for the broker: a thread of each process rings, and one bell
is for all that was committed since the last.
"""

import logging
import os
import threading
import time
from enum import StrEnum
from functools import partial

from celery import current_app
from django.db import transaction
from kombu.exceptions import KombuError, OperationalError

logger = logging.getLogger(__name__)

QUIET_SECONDS = 5.0  # after the broker failed
REST_SECONDS = 0.005  # between two bells, and twice as long each time that one was wanted meanwhile, up to
LONGEST_REST_SECONDS = 0.05  # under load: workers look for more by themselves
FAILURES_REST_SECONDS = 0.5  # a flow may fail a thousand times a second, and what follows is in no hurry
BELL_EXPIRES_SECONDS = 10.0  # an older bell tells nothing that the sweeper has not rung for again


class Job(StrEnum):
    DRAIN = "executions.drain"
    SWEEP = "executions.sweep"
    FOLD = "executions.fold_tallies"
    OPERATE = "executions.work_operations"
    PRUNE = "executions.prune_history"
    FAILURES = "executions.failures"
    REVIEW = "executions.review_flow_caps"
    OVERAGE = "executions.report_overage"
    NOTICE_RUNS = "executions.notice_runs"


def ring_bell() -> None:
    """Ring once the transaction that is under way has committed (at once when there is none)."""
    ring(Job.DRAIN)


def ring(job: Job) -> None:
    """The same for another queue that is a table, and that the clock rings for too."""
    transaction.on_commit(partial(_bell.ring, job), robust=True)


def ring_failure_bell() -> None:
    """Likewise for "an execution has failed", and the clock: see `failures.py`."""
    transaction.on_commit(partial(_failure_bell.ring, Job.FAILURES), robust=True)


class _Bell:
    """The thread that rings: the first of a burst at once, what follows after rests that grow from `rest` to `longest`."""

    def __init__(self, rest: float, longest: float, queue: str | None = None) -> None:
        self.rest, self.longest, self.queue = rest, longest, queue
        self._be_silent()
        os.register_at_fork(after_in_child=self._be_silent)  # a child has no thread, whatever its parent had

    def _be_silent(self) -> None:
        self._changed = threading.Condition()
        self._wanted: set[Job] = set()
        self._thread: threading.Thread | None = None

    def ring(self, job: Job) -> None:
        with self._changed:
            self._wanted.add(job)
            self._changed.notify()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="bell", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        rest = self.rest
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._wanted)
                jobs, self._wanted = self._wanted, set()
            try:
                for job in jobs:
                    current_app.send_task(
                        job, queue=self.queue, ignore_result=True, retry=False, expires=BELL_EXPIRES_SECONDS
                    )
                time.sleep(rest)
                rest = min(2 * rest, self.longest) if self._wanted else self.rest
            except (OperationalError, KombuError, OSError) as error:
                logger.warning("The broker is away (%s); executions start from the database until it is back.", error)
                time.sleep(QUIET_SECONDS)
            except Exception:
                logger.exception("The bell has a fault")
                time.sleep(QUIET_SECONDS)


_bell = _Bell(REST_SECONDS, LONGEST_REST_SECONDS)
_failure_bell = _Bell(FAILURES_REST_SECONDS, FAILURES_REST_SECONDS, queue="clock")
