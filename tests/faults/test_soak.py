"""Faults of all kinds for as long as `BLOX_FAULTS_SOAK_SECONDS` says: nothing is lost, and nothing grows."""

import os
import time
from collections.abc import Callable

import pytest

from tests.faults.conftest import Begin
from tests.faults.experiment import Experiment, scaled
from tests.faults.flows import mixed
from tests.faults.processes import resident_bytes
from tests.faults.server import Server
from tests.faults.test_services_away import DATABASE_AWAY, REDIS_AWAY

SECONDS = int(os.environ.get("BLOX_FAULTS_SOAK_SECONDS") or scaled(150, least=0))
pytestmark = [
    pytest.mark.experiment,
    pytest.mark.skipif(SECONDS < 60, reason="takes its time: `make faults`, or BLOX_FAULTS_SOAK_SECONDS"),
]

GROWTH = 30_000_000  # bytes: of caches that fill
CONNECTIONS = 4  # of threads that had not been asked before


def test_e22_a_soak_with_random_faults(begin: Begin, server: Server) -> None:
    with begin("E22 soak", explained=f"{DATABASE_AWAY}|{REDIS_AWAY}") as trial:
        flows = mixed(trial.tenant(), trial.server.world.url)
        trial.load(flows).fire(40)
        trial.settle()
        before = held(server)
        until = time.monotonic() + SECONDS
        with trial.load(flows, rate=10):
            while time.monotonic() < until:
                trial.pause(1, 5)
                trial.random.choice(FAULTS)(trial, server)
        trial.settle()
        after = held(server)
        trial.remark(f"web {before[0] // 10**6} to {after[0] // 10**6} MB, connections {before[1]} to {after[1]}")
        assert after[0] - before[0] < GROWTH
        assert after[1] - before[1] <= CONNECTIONS


def held(server: Server) -> tuple[int, int]:
    """The bytes of web, which lives through it all, and the connections to the database."""
    resident = sum(resident_bytes(pid) for pid in server.processes["web"].group())
    [[connections]] = server.postgres.query("SELECT count(*) FROM pg_stat_activity WHERE usename = 'blox'")
    return resident, connections


def kill_a_worker(trial: Experiment, server: Server) -> None:
    trial.kill(trial.random.choice(["worker-1", "worker-2"]))


def kill_the_clock(trial: Experiment, server: Server) -> None:
    trial.kill("clock")


def freeze_a_worker(trial: Experiment, server: Server) -> None:
    with trial.frozen(trial.random.choice(["worker-1", "worker-2"])):
        trial.pause(2, 7)


def crash_postgresql(trial: Experiment, server: Server) -> None:
    with trial.fault("database", "crashed"):
        server.postgres.crash()
        trial.pause(0, 2)
        server.postgres.start()


def empty_redis(trial: Experiment, server: Server) -> None:
    with trial.fault("redis", "restarted empty"):
        server.redis.kill()
        trial.pause(0, 3)
        server.redis.start()


def freeze_redis(trial: Experiment, server: Server) -> None:
    with trial.fault("redis", "frozen"), server.redis.frozen():
        trial.pause(1, 4)


FAULTS: list[Callable[[Experiment, Server], None]] = [
    kill_a_worker,
    kill_the_clock,
    freeze_a_worker,
    crash_postgresql,
    empty_redis,
    freeze_redis,
]
