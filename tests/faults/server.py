"""A whole server of the experiments' own: web, workers and clock as processes, which are started again when they end.

with own_services(folder) as (postgres, redis), witness() as world:
    with Server(folder, postgres, redis, world) as server:
        server.start("web"), server.start("worker-1"), server.start("clock")
        flow = server.tenant().flow(LISTENERS)
"""

import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any, Self

from django.test import override_settings

from bloxserver.core.processes import COMMANDS
from tests.faults.own_services import Postgres, Redis, free_port
from tests.faults.processes import REPOSITORY, Process
from tests.waiting import wait_until
from tests.witness import Witness

LEASE_SECONDS = 3
AUDIT = Path(__file__).with_name("audit.sql")
# Another package, as pip would leave it, that brings the blocks of `bad_blocks.py`.
BAD_BLOCKS = {
    "METADATA": "Metadata-Version: 2.1\nName: bad\nVersion: 1.0\n",
    "entry_points.txt": "[bloxserver.blocks]\nbad = tests.faults.bad_blocks:Bad\n",
}


IDLE_SECONDS = 10.0  # granian ends a connection that has said nothing for thirty


class Api:
    """An HTTP client that keeps its connection, while it has something to say. For one thread."""

    def __init__(self, port: int, token: str = "", *, timeout: float = 20.0) -> None:
        self._port, self._token, self._timeout = port, token, timeout
        self._connection: http.client.HTTPConnection | None = None
        self._used_at = 0.0  # monotonic

    def request(
        self, method: str, path: str, body: Any = None, **headers: str
    ) -> tuple[int, http.client.HTTPMessage, Any]:
        """Status, headers, body as JSON. Raises `OSError` or `HTTPException` where there is no answer."""
        if time.monotonic() - self._used_at > IDLE_SECONDS:
            self.close()
        if self._connection is None:
            self._connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=self._timeout)
        sent = {
            "Content-Type": "application/json",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        if self._token:
            sent["Authorization"] = f"Bearer {self._token}"
        try:
            self._connection.request(method, path, json.dumps(body), sent)
            answer = self._connection.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException):
            self.close()
            raise
        self._used_at = time.monotonic()
        return answer.status, answer.headers, json.loads(text) if text else None

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Flow:
    """A running flow; `webhook` is the path that fires it."""

    def __init__(self, id: str, webhook: str) -> None:
        self.id, self.webhook = id, webhook


class Tenant:
    def __init__(self, port: int, token: str) -> None:
        self.api = Api(port, token)
        self.flows: list[Flow] = []

    def flow(self, listeners: str, head: str = "") -> Flow:
        """Store and start a flow of these listeners (YAML, indented by two), with a webhook."""
        text = f"organism:\n  name: tested\n{head}listeners:\n{listeners}"
        flow = self.post("/flows", {"name": f"tested {len(self.flows)}", "organismYaml": text})
        trigger = self.post(f"/flows/{flow['id']}/triggers", {"type": "webhook", "name": "Hook", "config": {}})
        self.post(f"/flows/{flow['id']}/start")
        self.flows.append(Flow(flow["id"], f"/webhooks/{trigger['webhookToken']}"))
        return self.flows[-1]

    def post(self, path: str, body: Any = None) -> Any:
        status, _, value = self.api.request("POST", f"/api/v1{path}", body)
        assert status < 300, (path, status, value)
        return value

    def get(self, path: str) -> Any:
        status, _, value = self.api.request("GET", f"/api/v1{path}")
        assert status == 200, (path, status, value)
        return value


class Server:
    def __init__(self, folder: Path, postgres: Postgres, redis: Redis, world: Witness) -> None:
        self.folder, self.postgres, self.redis, self.world = folder, postgres, redis, world
        self.port = free_port()
        self.environment = {
            "PATH": os.environ["PATH"],
            "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": self._python_path(REPOSITORY),
            "DJANGO_SETTINGS_MODULE": "bloxserver.settings",
            "BLOX_ENV_FILE": os.devnull,
            "BLOX_VAR_DIR": str(folder / "var"),
            "SECRET_KEY": "kB3xT9wq-Vf7Zp2Ls8Rd5Nh1Jc6Mg4Yt0Ua-Ei_Ob7Wk3Xv9Qz",
            "BLOX_ENCRYPTION_KEYS": "cGxlYXNlLW1ha2UtYS1rZXktb2YteW91ci1vd24uLi4=",
            "ALLOWED_HOSTS": "127.0.0.1",
            "PORT": str(self.port),
            "DATABASE_URL": postgres.url,
            "REDIS_URL": redis.url,
            "BLOX_HTTP_ALLOW": world.host,
            "BLOX_LEASE_SECONDS": str(LEASE_SECONDS),
            "BLOX_WORKER_CONCURRENCY": "50",  # so that a load of some hundred queues
            "EMAIL_URL": "dummymail://",
        }
        self.marks = folder / "marks"  # of `bad_blocks.py`
        self.processes: dict[str, Process] = {}
        self.ends: list[tuple[str, float]] = []  # which process was found ended, and started again, when
        self._commands: dict[str, tuple[list[str], dict[str, str], Path]] = {}
        self._special: set[str] = set()  # the names of those that are not as they are by default
        self._lock = Lock()
        self._over = Event()
        self._keeper = Thread(target=self._keep, daemon=True)
        self._tokens: dict[str, list[str]] = {}

    def __enter__(self) -> Self:
        for name, text in BAD_BLOCKS.items():
            file = self.folder / "packages" / "bad-1.0.dist-info" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        self.marks.mkdir(mode=0o777)
        self.run("manage.py", "migrate", "--verbosity=0")
        self.postgres.execute(AUDIT.read_text())
        self._tokens = json.loads(self.run("-m", "tests.faults.accounts", "60", "20"))
        self._keeper.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._keeper.join()
        for process in self.processes.values():
            process.kill()

    def run(self, *arguments: str) -> str:
        """Runs Python with `arguments` to its end, in the server's environment; what it printed."""
        command = [sys.executable, *arguments]
        return subprocess.run(
            command, cwd=REPOSITORY, env=self.environment, check=True, stdout=subprocess.PIPE, text=True
        ).stdout

    def tenant(self, tier: str = "high_frequency") -> Tenant:
        """One that no experiment has had before."""
        return Tenant(self.port, self._tokens[tier].pop())

    def bad(self, do: str) -> str:
        """A listener that does what no block should, and marks each time at which it does."""
        for mark in self.marks.iterdir():
            mark.unlink()
        return f"  - {{name: bad, handler: acme.bad, config: {{do: {do}, marks: {self.marks}}}}}\n"

    # Processes -------------------------------------------------------------------------------------------------------
    def start(
        self,
        name: str,
        application: str = "",
        program: Sequence[str] = (),
        *,
        code: Path = REPOSITORY,
        **environment: str,
    ) -> Process:
        """Starts `web`, `worker` or `clock`, with `-anything` after it where there are several.

        `application` stands in for web's own, `program` for `celery` or `granian`; `code` is the folder whose code it
        runs. From now on the process is started again whenever it ends.
        """
        role = name.partition("-")[0]
        with override_settings(PORT=self.port, BLOX_HOST="127.0.0.1", BLOX_WEB_PROCESSES=1):
            command = COMMANDS[role]()
        if application:
            command = [application if part == "bloxserver.rsgi:application" else part for part in command]
        if program:
            command[:1] = program
        if role != "web":
            command[command.index("--hostname") + 1] = f"{name}@%h"
        if code != REPOSITORY:
            environment["PYTHONPATH"] = self._python_path(code)
        with self._lock:
            if application or environment:
                self._special.add(name)
            self._commands[name] = command, self.environment | environment, code
            return self._launch(name)

    def restore(self, *names: str) -> None:
        """Sees to it that these processes run and no others, each as it is by default, and waits until they work."""
        for name in self._special | (set(self._commands) - set(names)):
            self.drop(name)
        for name in names:
            if name not in self._commands:
                self.start(name)
        self.ready()

    def ready(self) -> None:
        """Waits until all that was started does its work."""
        wait_until(self._is_ready, seconds=60)

    def end(self, name: str, *, seconds: float = 40.0) -> int:
        """Ends a process for good, by SIGTERM; its exit status."""
        self._forget(name)
        return self.processes.pop(name).terminate(seconds)

    def drop(self, name: str) -> None:
        """Kills a process and does not start it again."""
        self._forget(name)
        self.processes.pop(name).kill()

    def _forget(self, name: str) -> None:
        with self._lock:
            del self._commands[name]
            self._special.discard(name)

    def answers(self) -> bool:
        try:
            status, *_ = Api(self.port, timeout=5).request("GET", "/health/live")
        except (OSError, http.client.HTTPException):
            return False
        return status == 200

    def logs(self) -> list[Path]:
        return sorted(self.folder.glob("*.log"))

    def _launch(self, name: str) -> Process:
        command, environment, code = self._commands[name]
        process = self.processes[name] = Process(command, environment, self.folder / f"{name}.log", cwd=code)
        return process

    def _python_path(self, code: Path) -> str:
        return os.pathsep.join([str(self.folder / "packages"), str(code)])

    def _is_ready(self) -> bool:
        # A pool has forked its child, and a clock its beat, by the time that it consumes.
        celery = [process for name, process in self.processes.items() if not name.startswith("web")]
        return all(len(process.group()) > 1 for process in celery) and self.answers()

    def _keep(self) -> None:
        while not self._over.wait(0.1):
            with self._lock:
                for name in self._commands:
                    if self.processes[name].exit_status is not None:
                        self.processes[name].kill()  # what is left of its group
                        self._launch(name)
                        self.ends.append((name, time.time()))
