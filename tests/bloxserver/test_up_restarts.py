"""`manage.py up`, whose processes, supervisor or parent are killed."""

import os
import signal
import sys
from pathlib import Path

import pytest

from tests.up_server import SECONDS, UpServer

pytestmark = [pytest.mark.processes, pytest.mark.once]


def test_a_supervisor_that_is_killed_takes_its_processes_along(server: UpServer) -> None:
    server.start()
    server.wait_until_ready()
    server.process.kill()
    server.wait_for(lambda: server.pids() == [])


@pytest.mark.parametrize("which", [0, -1])
def test_web_worker_and_clock_that_are_killed_are_started_again(server: UpServer, which: int) -> None:
    """The first of each is the leader; the last its child: granian's worker, the pool's process, the clock's beat."""
    server.start()
    server.wait_until_ready()
    before = {command: server.pids(command) for command in ("granian", "--queues executions", "--queues clock")}
    for killed in before.values():
        os.kill(killed[which], signal.SIGKILL)
    server.wait_for(lambda: all(_is_whole_again(server, *each, which) for each in before.items()))
    server.wait_for(server.answers)
    server.process.terminate()
    assert server.process.wait(SECONDS) == 0
    assert server.pids() == []


def _is_whole_again(server: UpServer, command: str, before: list[int], which: int) -> bool:
    now = server.pids(command)
    return before[which] not in now and len(now) == len(before)


def test_a_server_whose_web_cannot_start_gives_up_and_says_so(server: UpServer) -> None:
    server.environment |= {"BLOX_WEB_THREADS": "0", "BLOX_STREAM_LIMIT": "-1"}  # granian refuses
    server.start()
    assert server.process.wait(SECONDS) == 1
    server.wait_for(lambda: "Giving up" in server.output)
    assert server.pids() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_make_told_to_stop_alone_leaves_no_process(server: UpServer, tmp_path: Path, number: signal.Signals) -> None:
    """make passes neither on to its recipe."""
    makefile = tmp_path / "Makefile"
    makefile.write_text(f"run:\n\t@exec {sys.executable} manage.py up --with-parent\n")
    server.start("make", "--file", str(makefile), "run")
    server.wait_until_ready()
    os.kill(server.process.pid, number)
    server.process.wait(SECONDS)
    server.wait_for(lambda: server.pids() == [])
