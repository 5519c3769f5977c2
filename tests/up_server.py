"""A server of the embedded form, `manage.py up`, as real processes in a folder and on a port of its own."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from tests.databases import copy_migrated_file

REPOSITORY = Path(__file__).resolve().parents[1]
SECONDS = 60  # after which a test gives up; what it waits for takes a few


class UpServer:
    """Its processes are known by their environment, orphans too."""

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

    def spare_the_migrations(self) -> None:
        """Gives it the database that a first start makes, in seconds."""
        copy_migrated_file(self.folder / "bloxserver.sqlite3")

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
            # As in a terminal: a shell that runs the tests in the background has SIGINT ignored.
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.default_int_handler),
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

    def end(self) -> None:
        """Leaves no process, whatever has become of the supervisor."""
        while pids := self.pids():
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.process.wait(SECONDS)
