"""The embedded form, `manage.py up` on SQLite and the filesystem broker, whose processes are killed under load."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest

from tests.faults.experiment import Record, conclude, scaled
from tests.faults.flows import mixed
from tests.faults.load import Load
from tests.faults.oracle import Evidence, Fault, Records, judge
from tests.faults.server import Tenant
from tests.up_server import REPOSITORY, UpServer
from tests.waiting import wait_until
from tests.witness import Witness

pytestmark = pytest.mark.experiment
PROCESSES = {"worker": "--queues executions", "web": "granian"}


@pytest.fixture
def embedded(tmp_path: Path, world: Witness) -> Iterator[UpServer]:
    server = UpServer(tmp_path)
    server.spare_the_migrations()
    server.environment |= {"REDIS_URL": "", "BLOX_HTTP_ALLOW": world.host, "BLOX_LEASE_SECONDS": "3"}
    server.start()
    server.wait_until_ready()
    yield server
    server.end()


def test_embedded_processes_are_killed_under_load(embedded: UpServer, world: Witness, record_property: Record) -> None:
    began, faults = time.monotonic(), []
    flows = mixed(Tenant(embedded.port, token(embedded)), world.url)
    with Load(embedded.port, flows, rate=6, callers=4) as load:
        for number in range(scaled(8, least=2)):
            role = ("worker", "web")[number % 2]
            before = len(world.calls)
            wait_until(lambda before=before: len(world.calls) > before + 10)  # type: ignore[misc]
            at = time.time()
            os.kill(embedded.pids(PROCESSES[role])[0], signal.SIGKILL)
            faults.append(Fault(role, "killed", at, at))
        wait_until(lambda: len(load.accepted()) >= 30, seconds=60)
    with suppress(AssertionError):  # the oracle says it better
        wait_until(lambda: all(state == "ended" for _, _, state in records(embedded).executions), seconds=60)
    evidence = Evidence(
        loads=[load], faults=faults, calls=world.calls, logs=[logged(embedded)], explained="", overdue=[]
    )
    judge(evidence, records(embedded))
    evidence.figures.seconds = time.monotonic() - began
    conclude(evidence, "embedded, worker and web killed", "", record_property)


def token(server: UpServer) -> str:
    """An access token of a new tenant."""
    environment = server.environment | {"DJANGO_SETTINGS_MODULE": "bloxserver.settings"}
    command = [sys.executable, "-m", "tests.faults.accounts", "1", "0"]
    made = subprocess.run(command, cwd=REPOSITORY, env=environment, check=True, capture_output=True, text=True)
    first: str = json.loads(made.stdout)["high_frequency"][0]
    return first


def records(server: UpServer) -> Records:
    with closing(sqlite3.connect(server.folder / "bloxserver.sqlite3", timeout=20)) as database:
        executions = database.execute("SELECT id, parent_id IS NULL, state FROM executions_execution").fetchall()
        steps = database.execute("SELECT execution_id, key, status, completed_at FROM executions_step").fetchall()
    return Records(
        executions=[(str(UUID(id)), bool(is_first), state) for id, is_first, state in executions],
        steps={f"{UUID(id)}:{key}": (status, seconds(at)) for id, key, status, at in steps},
    )


def seconds(at: str | None) -> float | None:
    return datetime.fromisoformat(at).replace(tzinfo=UTC).timestamp() if at else None


def logged(server: UpServer) -> str:
    """The log without the names of the processes before each line."""
    return "\n".join(line.partition("| ")[2] for line in server.output.splitlines())
