"""Real processes that a test may kill, freeze and thaw; and a worker on the test's own database and broker."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import connection

from bloxserver.core.supervisor import die_with_parent

REPOSITORY = Path(__file__).resolve().parents[2]


class Process:
    """A process with all that it starts, as one group. Its output is added to the file `log`."""

    def __init__(
        self, command: list[str], environment: Mapping[str, str], log: Path, *, cwd: Path = REPOSITORY
    ) -> None:
        self.log = log
        with open(log, "ab") as file:
            self._popen = subprocess.Popen(
                command,
                cwd=cwd,
                env=environment,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=partial(die_with_parent, signal.SIGKILL),
            )

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def exit_status(self) -> int | None:
        return self._popen.poll()

    def signal_group(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def kill(self) -> None:
        self.signal_group(signal.SIGKILL)
        self._popen.wait()

    def terminate(self, seconds: float) -> int:
        """SIGTERM to the main process, as a supervisor does; its exit code."""
        self._popen.terminate()
        return self._popen.wait(timeout=seconds)

    def group(self) -> list[int]:
        """The pids of the group, the leader first: it is the oldest."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with suppress(OSError):
                    if os.getpgid(int(entry.name)) == self.pid:
                        found.append(int(entry.name))
        return sorted(found)

    def output(self) -> str:
        return self.log.read_text(errors="replace")


def resident_bytes(pid: int) -> int:
    """The memory that the process holds now; 0 when there is none."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _database_url() -> str:
    """The test database, which has another name than the one in the environment."""
    database: dict[str, Any] = connection.settings_dict
    if connection.vendor == "sqlite":
        return f"sqlite:///{database['NAME']}"
    password = f":{database['PASSWORD']}" if database["PASSWORD"] else ""
    return f"postgres://{database['USER']}{password}@{database['HOST']}:{database['PORT']}/{database['NAME']}"


@contextmanager
def worker(**environment: str) -> Iterator[Process]:
    environment = {
        **os.environ,
        "DATABASE_URL": _database_url(),
        "DJANGO_SETTINGS_MODULE": "bloxserver.settings",
        "BLOX_LEASE_SECONDS": "3",
        "BLOX_HTTP_ALLOW": ",".join(settings.BLOX_HTTP_ALLOW),
        "REDIS_URL": settings.REDIS_URL,
        **environment,
    }
    command = [sys.executable, "-m", "celery", "-A", "bloxserver", "worker", "-Q", "executions", "-P", "prefork"]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "worker.log"
        process = Process([*command, "-c", "1", "--without-gossip", "--without-mingle"], environment, log)
        try:
            yield process
        finally:
            process.kill()
