"""Real worker processes, on the test's own database and broker, that a test may kill."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.conf import settings
from django.db import connection


class Process:
    def __init__(self, *arguments: str, **environment: str) -> None:
        self.log = tempfile.NamedTemporaryFile(mode="w+", suffix=".log")  # noqa: SIM115 - lives as long as the process
        self._popen = subprocess.Popen(
            [sys.executable, *arguments],
            env={**os.environ, "DATABASE_URL": _database_url(), **environment},
            stdout=self.log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def signal_group(self, number: int) -> None:
        if self._popen.poll() is None:
            os.killpg(self._popen.pid, number)

    def kill(self) -> None:
        self.signal_group(signal.SIGKILL)
        self._popen.wait()

    def terminate(self, seconds: float) -> int:
        """SIGTERM to the main process, as a supervisor does; its exit code."""
        self._popen.terminate()
        return self._popen.wait(timeout=seconds)

    def output(self) -> str:
        self.log.flush()
        with open(self.log.name) as file:
            return file.read()


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
        "DJANGO_SETTINGS_MODULE": "bloxserver.settings",
        "BLOX_LEASE_SECONDS": "3",
        "BLOX_HTTP_ALLOW": ",".join(settings.BLOX_HTTP_ALLOW),
        "REDIS_URL": settings.REDIS_URL,
        **environment,
    }
    arguments = ["-m", "celery", "-A", "bloxserver", "worker", "-Q", "executions", "-P", "prefork", "-c", "1"]
    process = Process(*arguments, "--without-gossip", "--without-mingle", **environment)
    try:
        yield process
    finally:
        process.kill()
