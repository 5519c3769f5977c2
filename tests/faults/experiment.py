"""An experiment: faults under load, then the oracle, then a row of the table.

`BLOX_FAULTS_SEED` repeats a run, `BLOX_FAULTS_SCALE` says how much of each: 1 is all, the default is what CI has time for.
"""

import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from tests.faults.load import Load
from tests.faults.oracle import Evidence, Fault, LeaseWatch, judge, log_offsets, log_texts, records_of
from tests.faults.schedules import Schedules
from tests.faults.server import Flow, Server, Tenant
from tests.faults.table import PROPERTY, SCALE, SEED, row
from tests.waiting import wait_until
from tests.witness import Call

Record = Callable[[str, object], None]  # pytest's `record_property`
SETTLE_SECONDS = 60.0  # T of I2
LATE = "WorkerLostError"  # Celery says ten seconds later that a child was killed: perhaps by the experiment before


full_form_only = pytest.mark.skipif(SCALE < 1, reason="takes its time: `make faults`")


def scaled(full: float, *, least: float) -> int:
    """As much of `full` as the scale of this run leaves, and no less than `least`."""
    return round(max(least, full * min(1.0, SCALE)))


def conclude(evidence: Evidence, name: str, remark: str, record: Record) -> None:
    """Adds a row to the table, and fails where the oracle found something to say."""
    record(PROPERTY, row(name, evidence.figures, remark))
    assert not evidence.violations, f"seed {SEED}\n" + "\n".join(evidence.violations[:20])


class Experiment:
    def __init__(self, server: Server, name: str) -> None:
        self.server, self.name = server, name
        self.random = random.Random(f"{SEED} {name}")
        self.faults: list[Fault] = []
        self.loads: list[Load] = []
        self.tenants: list[Tenant] = []
        self.schedules: list[Schedules] = []
        self.remarks: list[str] = []
        self.began = time.time()

    def tenant(self, tier: str = "high_frequency") -> Tenant:
        self.tenants.append(self.server.tenant(tier))
        return self.tenants[-1]

    def load(self, flows: Sequence[Flow], *, rate: float = 20.0, callers: int = 16, times: int = 1) -> Load:
        self.loads.append(Load(self.server.port, flows, rate=rate, callers=callers, times=times))
        return self.loads[-1]

    @contextmanager
    def fault(self, target: str, text: str) -> Iterator[None]:
        """What is done in its `with` block, to `web`, `worker`, `redis` or `database`."""
        began = time.time()
        try:
            yield
        finally:
            self.faults.append(Fault(target, text, began, time.time()))

    def note(self, target: str, text: str, at: float) -> None:
        """A fault of a moment that something else has caused."""
        self.faults.append(Fault(target, text, at, at))

    def kill(self, name: str) -> None:
        """kill -9 of a process and all that it started; it is started again at once."""
        with self.fault(name.partition("-")[0], f"kill {name}"):
            self.server.processes[name].kill()

    @contextmanager
    def frozen(self, name: str) -> Iterator[None]:
        """SIGSTOP to a process and all that it started, and SIGCONT at the end of the `with` block."""
        process = self.server.processes[name]
        with self.fault(name.partition("-")[0], f"freeze {name}"):
            process.signal_group(signal.SIGSTOP)
            try:
                yield
            finally:
                process.signal_group(signal.SIGCONT)

    def note_ends(self) -> int:
        """Counts every process that has ended by itself since the experiment began as a fault; how many there were."""
        ends = [(name, at) for name, at in self.server.ends if at > self.began]
        for name, at in ends:
            self.note(name.partition("-")[0], f"{name} ended", at - 0.5)
        return len(ends)

    def remark(self, text: str) -> None:
        """For the last column of the table."""
        self.remarks.append(text)

    def executions(self, flow: Flow, what: str) -> list[Any]:
        """The SQL expression `what` of each execution of `flow`."""
        query = f"SELECT {what} FROM executions_execution WHERE flow_id::text = %s ORDER BY id"
        return [row[0] for row in self.server.postgres.query(query, flow.id)]

    def executions_in(self, flow: Flow, state: str) -> int:
        return self.executions(flow, "state").count(state)

    def calls(self, part: str) -> list[Call]:
        """What the outside world was asked since the experiment began, where the path has this part."""
        return [call for call in self.server.world.calls if call.began > self.began and part in call.path]

    def let_work(self, calls: int) -> None:
        """Waits until the outside world has been called so many more times."""
        before = len(self.server.world.calls)
        wait_until(lambda: len(self.server.world.calls) >= before + calls)

    def pause(self, least: float, most: float) -> None:
        time.sleep(self.random.uniform(least, most))

    def settle(self, seconds: float = SETTLE_SECONDS) -> None:
        """Waits until all executions of the experiment have ended, as far as they do in time."""
        with suppress(AssertionError):  # the oracle says it better
            wait_until(lambda: not self.alive(), seconds=seconds)

    def alive(self) -> int:
        """How many executions of the experiment have not ended."""
        rows = self.server.postgres.query(
            "SELECT count(*) FROM executions_execution WHERE flow_id::text = ANY(%s) AND state <> 'ended'",
            self.flow_ids,
        )
        alive: int = rows[0][0]
        return alive

    @property
    def flow_ids(self) -> list[str]:
        return [flow.id for tenant in self.tenants for flow in tenant.flows]


@contextmanager
def experiment(server: Server, name: str, record: Record, *, explained: str = "") -> Iterator[Experiment]:
    """Runs the `with` block, waits until all has settled, and holds the oracle over it.

    `explained` is a pattern of the exceptions whose tracebacks the faults explain.
    """
    began = time.monotonic()
    offsets = log_offsets(server.logs())
    watch = LeaseWatch(server.postgres)
    watch.start()
    trial = Experiment(server, name)
    try:
        yield trial
        trial.settle()
    finally:
        overdue = watch.close()
    evidence = Evidence(
        loads=trial.loads,
        faults=trial.faults,
        calls=server.world.calls,
        logs=log_texts(server.logs(), offsets),
        explained=f"{LATE}|{explained}" if explained else LATE,
        overdue=overdue,
        moments=[schedules.judge(server.postgres) for schedules in trial.schedules],
    )
    judge(evidence, records_of(server.postgres, trial.flow_ids))
    evidence.figures.seconds = time.monotonic() - began
    conclude(evidence, name, "; ".join(trial.remarks), record)
