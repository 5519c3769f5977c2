"""Which real services the suite can meet here, asked before it runs and by nothing else."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

# The suite's own database, apart for each checkout. Django puts `test_` before the name, pytest-xdist its worker after it.
DATABASE_NAME = "blox_" + hashlib.sha256(str(Path(__file__).parent).encode()).hexdigest()[:8]
DEFAULT_DATABASE_URL = f"postgres://postgres@127.0.0.1:5432/{DATABASE_NAME}"
# Redis has numbers, not names: the last ones, and only while they are empty or the suite's.
DEFAULT_REDIS_URL = "redis://127.0.0.1:6379/15"
OURS = "bloxserver:test-suite"


@dataclass(frozen=True)
class Service:
    """`url` is empty when the service cannot be used; `message` then says why, and what to do."""

    name: str
    url: str
    message: str


def postgresql() -> Service:
    import psycopg

    url = os.environ.get("BLOX_TEST_DATABASE_URL") or DEFAULT_DATABASE_URL
    maintenance = urlunsplit(urlsplit(url)._replace(scheme="postgresql", path="/postgres"))
    try:
        with psycopg.connect(maintenance, connect_timeout=2) as connection:
            version = connection.execute("SHOW server_version").fetchone()
            may = connection.execute(
                "SELECT rolcreatedb OR rolsuper FROM pg_roles WHERE rolname = current_user"
            ).fetchone()
    except psycopg.Error as error:
        reason = " ".join(str(error).split())
        return Service("PostgreSQL", "", f"{reason}. Start one, or name one in BLOX_TEST_DATABASE_URL.")
    if not may or not may[0]:
        return Service("PostgreSQL", "", "its user may not create databases (ALTER ROLE ... CREATEDB).")
    return Service(f"PostgreSQL {str(version[0]).split()[0] if version else ''}", url, "")


def redis(workers: int) -> Service:
    import redis as client

    url = os.environ.get("BLOX_TEST_REDIS_URL") or DEFAULT_REDIS_URL
    try:
        for worker in [""] + [f"gw{number}" for number in range(workers)]:
            with client.Redis.from_url(redis_url_of_worker(url, worker), socket_timeout=2) as connection:
                version = connection.info("server")["redis_version"]
                is_ours = connection.exists(OURS)
                if url == DEFAULT_REDIS_URL and connection.dbsize() and not is_ours:
                    number = urlsplit(redis_url_of_worker(url, worker)).path[1:]
                    return Service(
                        "Redis", "", f"its database {number} is in use. Name another in BLOX_TEST_REDIS_URL."
                    )
                if is_ours:
                    connection.flushdb()
                connection.set(OURS, "1")
    except client.RedisError as error:
        return Service("Redis", "", f"{error}. Start one, or name one in BLOX_TEST_REDIS_URL.")
    return Service(f"Redis {version}", url, "")


def redis_url_of_worker(url: str, worker: str) -> str:
    """`url` with a database number of its own for pytest-xdist's `worker` (`gw0`, ...), counted down from the URL's."""
    if not url or not worker:
        return url
    parts = urlsplit(url)
    number = int(parts.path.strip("/") or 0) - 1 - int(worker.removeprefix("gw"))
    if number < 0:
        raise ValueError("BLOX_TEST_REDIS_URL needs a database number above the number of pytest-xdist workers.")
    return urlunsplit(parts._replace(path=f"/{number}"))
