"""A real server with a folder and a port of its own, for a browser to look at."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.databases import copy_migrated_file

REPOSITORY = Path(__file__).resolve().parents[2]
SECONDS = 60  # after which a start is given up; it takes a few


@dataclass(frozen=True)
class Server:
    """`email` and `password` open the admin; `token` is an access token of the same user."""

    url: str
    email: str
    password: str
    token: str
    environment: dict[str, str]

    def manage(self, *arguments: str) -> None:
        """Run a command of `manage.py` on this server's database."""
        subprocess.run([sys.executable, "manage.py", *arguments], cwd=REPOSITORY, env=self.environment, check=True)


@contextmanager
def running_server(http_allow: str, **settings: str) -> Iterator[Server]:
    """`manage.py up --demo` on SQLite and the filesystem broker, in which `dev:<email>` signs in.

    Flows may call `http_allow` ("host:port"); `settings` are more of the environment. Raises RuntimeError with the log
    when it does not get ready.
    """
    with tempfile.TemporaryDirectory(prefix="bloxserver-pages-") as folder:
        copy_migrated_file(Path(folder) / "bloxserver.sqlite3")  # as its first start makes it, in seconds
        environment = _environment(folder, http_allow) | settings
        process = subprocess.Popen(
            [sys.executable, "manage.py", "up", "--demo", "--with-parent"],
            cwd=REPOSITORY,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            _wait_until_ready(process)
            notes = json.loads((Path(folder) / "demo.json").read_text())
            url = f"http://127.0.0.1:{environment['PORT']}"
            yield Server(url, "demo@bloxserver.local", notes["password"], notes["token"], environment)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(SECONDS)


def _environment(folder: str, http_allow: str) -> dict[str, str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return {
        "PATH": os.environ["PATH"],
        "BLOX_ENV_FILE": os.devnull,
        "BLOX_VAR_DIR": folder,
        "DEBUG": "1",
        "BLOX_DEV_AUTH": "1",
        "PORT": str(port),
        "BLOX_HTTP_ALLOW": http_allow,
    }


def _wait_until_ready(process: "subprocess.Popen[str]") -> None:
    lines: list[str] = []

    def read() -> None:
        assert process.stdout is not None
        lines.extend(process.stdout)

    threading.Thread(target=read, daemon=True).start()
    deadline = time.monotonic() + SECONDS
    while not any("READY" in line for line in lines):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("The server does not start:\n" + "".join(lines))
        time.sleep(0.05)
