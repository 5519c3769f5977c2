"""PostgreSQL and Redis of the experiments' own, in folders and on ports of their own, so that they may be maltreated."""

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import redis

from bloxserver.core.supervisor import die_with_parent
from tests.waiting import wait_until

USER = DATABASE = "blox"
# PostgreSQL does not run as root; on a developer's machine it runs as the developer.
AS_POSTGRES: dict[str, Any] = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}


def missing() -> str:
    """The programs that are not installed here."""
    return ", ".join(name for name in ("initdb", "redis-server") if not _program(name))


def _program(name: str) -> str:
    debian = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))  # which has them outside PATH
    return str(debian[-1]) if debian else shutil.which(name) or ""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Postgres:
    """A cluster with one database, whose owner is no superuser: limits of connections are meant for it too."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"postgres://{USER}@127.0.0.1:{self.port}/{DATABASE}"
        self._folder = folder
        folder.mkdir()
        if AS_POSTGRES:
            shutil.chown(folder, AS_POSTGRES["user"])
        make = [_program("initdb"), "--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-sync", str(folder)]
        subprocess.run(make, check=True, stdout=subprocess.DEVNULL, cwd="/", **AS_POSTGRES)
        self.start()
        self.execute(f"CREATE ROLE {USER} LOGIN", f"CREATE DATABASE {DATABASE} OWNER {USER}", database="postgres")

    def start(self) -> None:
        # fsync is for machines that crash: what a crash of PostgreSQL alone leaves is the same without it.
        options = {"port": self.port, "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off"}
        command = [
            _program("postgres"),
            "-D",
            str(self._folder),
            *(f"--{name}={value}" for name, value in options.items()),
        ]
        with open(self._folder.with_suffix(".log"), "ab") as log:
            self._process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
                preexec_fn=partial(die_with_parent, signal.SIGQUIT),
                **AS_POSTGRES,
            )
        wait_until(self._answers, seconds=20)

    def stop(self) -> None:
        """As a service manager stops it: connections are broken, and new ones refused."""
        self._process.send_signal(signal.SIGINT)
        self._process.wait()

    def crash(self) -> None:
        """Every one of its processes ends at once (`-m immediate`): the next start recovers from the log."""
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait()

    def execute(self, *statements: str, database: str = DATABASE) -> None:
        """As the superuser, each in a transaction of its own."""
        with self.connect(database) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def query(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with self.connect() as connection:
            return connection.execute(statement.encode(), parameters).fetchall()

    def connect(self, database: str = DATABASE) -> "psycopg.Connection[tuple[Any, ...]]":
        return psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            user="postgres",
            dbname=database,
            autocommit=True,
            connect_timeout=3,
            options="-c default_transaction_read_only=off",  # whatever is done to the others
        )

    def _answers(self) -> bool:
        try:
            self.connect("postgres").close()
        except psycopg.Error:
            return False
        return True


class Redis:
    """Without persistence: a restart loses everything, which is the worst case."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = folder
        folder.mkdir()
        self.start()

    def start(self) -> None:
        command = [
            _program("redis-server"),
            "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
            "--dir",
            str(self._folder),
        ]
        command += ["--save", "", "--appendonly", "no", "--maxmemory-policy", "volatile-lru"]
        self._process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=partial(die_with_parent, signal.SIGKILL),
        )
        wait_until(self._answers, seconds=10)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """It keeps its connections, takes new ones, and answers none."""
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def _answers(self) -> bool:
        try:
            with redis.Redis(port=self.port, socket_timeout=1) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False


@contextmanager
def own_services(folder: Path) -> Iterator[tuple[Postgres, Redis]]:
    """Both, running; `folder` must be one into which the user `postgres` may go."""
    postgres, redis_server = Postgres(folder / "postgres"), Redis(folder / "redis")
    try:
        yield postgres, redis_server
    finally:
        redis_server.kill()
        postgres.crash()
