"""`manage.py up`: real processes, started, killed and ended."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SECONDS = 60  # after which a test gives up; what it waits for takes a few

pytestmark = pytest.mark.processes


class Server:
    """A server with a folder and a port of its own; its processes are known by their environment, orphans too."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.folder = folder
        self.environment = {
            "PATH": os.environ["PATH"],
            "BLOX_ENV_FILE": os.devnull,
            "BLOX_VAR_DIR": str(folder),
            "SECRET_KEY": "kB3xT9wq-Vf7Zp2Ls8Rd5Nh1Jc6Mg4Yt0Ua-Ei_Ob7Wk3Xv9Qz",
            "BLOX_ENCRYPTION_KEYS": "cGxlYXNlLW1ha2UtYS1rZXktb2YteW91ci1vd24uLi4=",
            "ALLOWED_HOSTS": "127.0.0.1",
            "PORT": str(self.port),
            "REDIS_URL": os.environ.get("REDIS_URL", ""),
        }
        self.lines: list[str] = []

    def start(self, *command: str) -> None:
        command = command or (sys.executable, "manage.py", "up")
        self.process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(self.process.stdout)

    @property
    def output(self) -> str:
        return "".join(self.lines)

    def wait_until_ready(self) -> None:
        self.wait_for(lambda: "READY" in self.output)
        # Celery says nothing when it is up; its pool's child and the clock's beat are the last to come.
        self.wait_for(lambda: len(self.pids("--queues executions")) == 2 and len(self.pids("--queues clock")) == 2)

    def wait_for(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + SECONDS
        while not condition():
            assert time.monotonic() < deadline, self.output
            time.sleep(0.05)

    def pids(self, part_of_command: str = "") -> list[int]:
        """This server's processes that have `part_of_command` in their command line, the oldest first."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    is_ours = f"BLOX_VAR_DIR={self.folder}\0".encode() in (entry / "environ").read_bytes()
                    command = (entry / "cmdline").read_text().replace("\0", " ")
                except OSError:
                    continue
                if is_ours and part_of_command in command:
                    found.append(int(entry.name))
        return sorted(found)

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    while pids := server.pids():
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    server.process.wait(SECONDS)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_web_worker_and_clock_and_leaves_no_process(server: Server, number: signal.Signals) -> None:
    server.start()
    server.wait_until_ready()
    assert server.answers()
    server.process.send_signal(number)
    assert server.process.wait(SECONDS) == 0, server.output
    assert server.pids() == []


def test_a_second_signal_does_not_wait_for_the_processes_to_finish(server: Server) -> None:
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


def test_a_signal_that_comes_twice_at_once_still_lets_the_processes_finish(server: Server) -> None:
    server.start()
    server.wait_until_ready()
    server.process.send_signal(signal.SIGTERM)
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(SECONDS) == 0
    assert "worker: Warm shutdown" in server.output
    assert "Ending at once." not in server.output


def test_a_supervisor_that_is_killed_takes_its_processes_along(server: Server) -> None:
    server.start()
    server.wait_until_ready()
    server.process.kill()
    server.wait_for(lambda: server.pids() == [])


@pytest.mark.parametrize("command", ["granian", "--queues executions", "--queues clock"])
@pytest.mark.parametrize("which", [0, -1])
def test_a_process_that_is_killed_is_started_again(server: Server, command: str, which: int) -> None:
    """The first is the leader; the last its child: granian's worker, the pool's process, the clock's beat."""
    server.start()
    server.wait_until_ready()
    killed = server.pids(command)
    os.kill(killed[which], signal.SIGKILL)
    server.wait_for(lambda: killed[which] not in server.pids(command) and len(server.pids(command)) == len(killed))
    server.wait_for(server.answers)
    server.process.terminate()
    assert server.process.wait(SECONDS) == 0
    assert server.pids() == []


def test_each_line_of_output_says_which_process_wrote_it(server: Server) -> None:
    server.start()
    server.wait_until_ready()
    os.kill(server.pids("--queues clock")[0], signal.SIGTERM)
    server.wait_for(lambda: "clock ended with status 0" in server.output)
    assert "clock  | worker: Warm shutdown (MainProcess)\n" in server.lines


def test_a_port_that_is_taken_is_said_before_anything_is_started(server: Server) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", server.port))
        other.listen()
        server.start()
        assert server.process.wait(SECONDS) == 1
        server.wait_for(lambda: "Choose another with PORT=" in server.output)
    assert not (server.folder / "bloxserver.sqlite3").exists()


def test_a_database_that_is_away_is_one_line_and_not_a_stack_trace(server: Server) -> None:
    server.environment["DATABASE_URL"] = "postgres://blox@127.0.0.1:9/blox"
    server.start()
    assert server.process.wait(SECONDS) == 1
    server.wait_for(lambda: "The database does not answer" in server.output)
    assert "Traceback" not in server.output


def test_a_server_whose_web_cannot_start_gives_up_and_says_so(server: Server) -> None:
    server.environment |= {"BLOX_WEB_THREADS": "0", "BLOX_STREAM_LIMIT": "-1"}  # granian refuses
    server.start()
    assert server.process.wait(SECONDS) == 1
    server.wait_for(lambda: "Giving up" in server.output)
    assert server.pids() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_make_told_to_stop_alone_leaves_no_process(server: Server, tmp_path: Path, number: signal.Signals) -> None:
    """make passes SIGTERM on to its recipe, but neither SIGINT nor, of course, SIGKILL."""
    makefile = tmp_path / "Makefile"
    makefile.write_text(f"run:\n\t@exec {sys.executable} manage.py up --with-parent\n")
    server.start("make", "--file", str(makefile), "run")
    server.wait_until_ready()
    os.kill(server.process.pid, number)
    server.process.wait(SECONDS)
    server.wait_for(lambda: server.pids() == [])
