"""`manage.py up`: real processes, started and ended."""

import os
import signal
import socket
import sys
import time

import pytest

from tests.up_server import SECONDS, UpServer

pytestmark = pytest.mark.processes


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.once)])
def test_a_signal_ends_web_worker_and_clock_and_leaves_no_process(new_server: UpServer, number: signal.Signals) -> None:
    new_server.start()
    new_server.wait_until_ready()
    assert new_server.answers()
    new_server.process.send_signal(number)
    assert new_server.process.wait(SECONDS) == 0, new_server.output
    assert new_server.pids() == []


@pytest.mark.once
def test_a_second_signal_does_not_wait_for_the_processes_to_finish(server: UpServer) -> None:
    server.start()
    server.wait_until_ready()
    for pid in server.pids("--queues executions"):
        os.kill(pid, signal.SIGSTOP)  # they cannot finish
    server.process.send_signal(signal.SIGINT)
    server.wait_for(lambda: "Ending:" in server.output)
    time.sleep(1.2)
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(SECONDS) == 0
    assert server.pids() == []


@pytest.mark.once
def test_a_signal_that_comes_twice_at_once_still_lets_the_processes_finish(server: UpServer) -> None:
    server.start()
    server.wait_until_ready()
    server.process.send_signal(signal.SIGTERM)
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(SECONDS) == 0
    assert "worker: Warm shutdown" in server.output
    assert "Ending at once." not in server.output


@pytest.mark.once
def test_a_worker_stands_back_for_web_and_clock(server: UpServer) -> None:
    server.start()
    server.wait_until_ready()
    ours, most = os.getpriority(os.PRIO_PROCESS, 0), 19

    def niceness(part_of_command: str) -> set[int]:
        return {os.getpriority(os.PRIO_PROCESS, pid) for pid in server.pids(part_of_command)}

    assert niceness("--queues executions") == {min(ours + 5, most)}
    assert niceness("--queues clock") == niceness("granian") == {ours}


@pytest.mark.once
def test_each_line_of_output_says_which_process_wrote_it(server: UpServer) -> None:
    server.start()
    server.wait_until_ready()
    os.kill(server.pids("--queues clock")[0], signal.SIGTERM)
    server.wait_for(lambda: "clock ended with status 0" in server.output)
    assert "clock  | worker: Warm shutdown (MainProcess)\n" in server.lines


@pytest.mark.once
def test_a_port_that_is_taken_is_said_before_anything_is_started(new_server: UpServer) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", new_server.port))
        other.listen()
        new_server.start()
        assert new_server.process.wait(SECONDS) == 1
        new_server.wait_for(lambda: "Choose another with PORT=" in new_server.output)
    assert not (new_server.folder / "bloxserver.sqlite3").exists()


@pytest.mark.once
def test_a_database_that_is_away_is_one_line_and_not_a_stack_trace(server: UpServer) -> None:
    server.environment["DATABASE_URL"] = "postgres://blox@127.0.0.1:9/blox"
    server.start()
    assert server.process.wait(SECONDS) == 1
    server.wait_for(lambda: "The database does not answer" in server.output)
    assert "Traceback" not in server.output


@pytest.mark.once
def test_a_worker_looks_each_second_whether_the_broker_is_back(server: UpServer) -> None:
    server.environment["REDIS_URL"] = "redis://127.0.0.1:9/0"  # nobody is there
    server.start(sys.executable, "manage.py", "start", "worker")
    server.wait_for(lambda: server.output.count("Trying again in ") >= 4)
    assert server.output.count("Trying again in 1.00 second") == server.output.count("Trying again in ")
