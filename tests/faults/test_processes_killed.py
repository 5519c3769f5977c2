"""Processes are killed, frozen and ended while they work."""

import os
import signal
import time
from contextlib import suppress

import pytest

from tests.faults.conftest import Begin
from tests.faults.experiment import Experiment, scaled
from tests.faults.flows import SHORT, mixed
from tests.faults.processes import resident_bytes
from tests.faults.server import LEASE_SECONDS, Server
from tests.waiting import wait_until

pytestmark = pytest.mark.experiment

MEMORY = 600_000_000  # bytes that a machine would leave a worker
ALONE_CRASHES = 3


def test_e1_workers_are_killed_in_the_middle_of_their_work(begin: Begin) -> None:
    with begin("E1 workers killed") as trial:
        flows = mixed(trial.tenant(), trial.server.world.url)
        with trial.load(flows, rate=20) as load:
            for number in range(scaled(12, least=2)):
                trial.let_work(trial.random.randrange(8, 24))
                trial.kill(f"worker-{number % 2 + 1}")
            wait_until(lambda: len(load.accepted()) >= scaled(200, least=50))


def test_e1_a_worker_is_killed_with_long_steps_under_way(begin: Begin, server: Server) -> None:
    with begin("E1 long steps") as trial:
        seconds, count = scaled(30, least=10), scaled(100, least=24)
        step = '  - {{name: get, handler: blox.http, config: {{url: "{}/slow?s={}"}}, timeout: 60}}\n'
        flow = trial.tenant().flow(step.format(server.world.url, seconds))
        trial.load([flow]).fire(count)
        wait_until(lambda: trial.executions_in(flow, "working") == count)
        trial.kill("worker-1")
        began = time.monotonic()
        wait_until(lambda: any(trial.executions(flow, "lost_owner <> ''")))
        wait_until(lambda: not trial.executions_in(flow, "queued"), seconds=120)
        held = sum(trial.executions(flow, "lost_owner <> ''"))
        trial.remark(f"{held} under way again after {time.monotonic() - began:.1f} s")
        assert time.monotonic() - began < LEASE_SECONDS + 5 + held * 0.5  # not one after another's end
        trial.settle(seconds + 60)
        assert set(trial.executions(flow, "status || ' ' || crashes")) == {"success 0"}


def test_e2_web_dies_between_commit_and_bell(begin: Begin, server: Server) -> None:
    server.drop("web")
    server.start("web", "tests.faults.mortal_web:application", BLOX_FAULTS_DIE_AT="6")
    server.ready()
    with begin("E2 web killed before the bell") as trial:
        flow = trial.tenant().flow(SHORT.format(url=server.world.url))
        with trial.load([flow], rate=10, callers=4) as load:
            for _ in range(scaled(6, least=1)):
                trial.pause(1, 3)
                trial.kill("web")
            wait_until(lambda: len(load.accepted()) >= scaled(100, least=20), seconds=150)
        trial.settle()
        assert trial.note_ends() >= 2
        slowest = max(trial.executions(flow, "extract(epoch FROM claimed_at - started_at)::float"))
        trial.remark(f"started {slowest:.1f} s after commit at most")
        assert slowest < 3


def test_e7_e8_executions_take_all_memory_or_kill_their_worker(begin: Begin, server: Server) -> None:
    with begin("E7 E8 memory and poison") as trial:
        tenant = trial.tenant()
        bloat, poison = tenant.flow(server.bad("bloat")), tenant.flow(server.bad("die"))
        healthy = tenant.flow(SHORT.format(url=server.world.url))
        trial.load([bloat]).fire(1)
        trial.load([poison]).fire(scaled(5, least=1))
        trial.load([healthy]).fire(scaled(100, least=40))
        wait_until(lambda: not kill_the_bloated(trial, server) and not trial.alive(), seconds=150)
        runs = [[float(line) for line in mark.read_text().split()] for mark in server.marks.iterdir()]
        for at in (at for times in runs for at in times):
            trial.note("worker", "killed by its execution", at)
        # Once in company, once more where no worker was idle in time for its probation, then alone.
        assert max(map(len, runs)) <= 2 + ALONE_CRASHES
        for flow in (bloat, poison):
            assert set(trial.executions(flow, "error_code")) == {"worker_lost"}
            assert set(trial.executions(flow, "crashes")) == {ALONE_CRASHES}
        assert set(trial.executions(healthy, "status")) == {"success"}
        done = sorted(trial.executions(healthy, "extract(epoch FROM completed_at - started_at)::float"))
        trial.remark(f"healthy p95 {done[len(done) * 95 // 100]:.1f} s")


def test_e11_a_frozen_worker_thaws_after_its_lease(begin: Begin) -> None:
    with begin("E11 zombie") as trial:
        flows = mixed(trial.tenant(), trial.server.world.url)
        with trial.load(flows, rate=15) as load:
            for number in range(scaled(8, least=1)):
                trial.let_work(15)
                with trial.frozen(f"worker-{number % 2 + 1}"):
                    time.sleep(LEASE_SECONDS + 2.5)
            wait_until(lambda: len(load.accepted()) >= 50)


def test_e16_a_worker_is_ended_while_fifty_executions_run(begin: Begin, server: Server) -> None:
    with begin("E16 SIGTERM") as trial:
        step = '  - {{name: {}, handler: blox.http, config: {{method: POST, url: "{}/slow?s=1.5"}}{}}}\n'
        url = server.world.url
        chain = step.format("one", url, ", peers: [two]") + step.format("two", url, "")
        flow = trial.tenant().flow(chain)
        trial.load([flow]).fire(50)
        wait_until(lambda: len(trial.calls("slow")) >= 50)
        with trial.fault("worker", "SIGTERM"):
            began = time.monotonic()
            assert server.end("worker-1") == 0
        trial.remark(f"ended in {time.monotonic() - began:.1f} s")
        wait_until(lambda: not trial.executions_in(flow, "queued"), seconds=5)
        trial.settle()
        assert trial.executions(flow, "status") == ["success"] * 50
        assert len(trial.calls("slow")) == 100  # no step is repeated
        assert not any(trial.executions(flow, "claim_alone OR crashes > 0"))


def kill_the_bloated(trial: Experiment, server: Server) -> int:
    """What the kernel does to a process that takes too much memory; how many there were."""
    killed = 0
    for name, process in server.processes.items():
        for pid in process.group():
            if resident_bytes(pid) > MEMORY:
                with trial.fault("worker", f"no memory left for {name}"), suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                killed += 1
    return killed
