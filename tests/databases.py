"""A database with every migration applied, made once and copied by each worker of each run, until a migration changes.

Django still migrates the copy, and finds nothing to do.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

REPOSITORY = Path(__file__).resolve().parents[1]
FOLDER = REPOSITORY / ".pytest_cache" / "migrated"
MADE_OF = ["requirements.txt", "*/migrations/*.py", "bloxserver/core/*.py"]  # what migrations import is in core


def begin_with_migrated(database: dict[str, Any]) -> None:
    """Let Django's test runner begin with a copy, for this entry of `DATABASES`."""
    if database["ENGINE"].endswith("sqlite3"):
        copy_migrated_file(database["TEST"]["NAME"])
    else:
        database["TEST"]["TEMPLATE"] = _migrated_template(database["NAME"])


def copy_migrated_file(to: Path | str) -> None:
    """The one on SQLite."""
    file = FOLDER / f"{_key()}.sqlite3"
    with _one_at_a_time():
        if not file.exists():
            for outdated in FOLDER.glob("*.sqlite3"):
                outdated.unlink()
            with tempfile.TemporaryDirectory(dir=FOLDER) as var:
                _migrate(BLOX_TEST_DATABASE_URL="", BLOX_VAR_DIR=var)
                Path(var, "bloxserver.sqlite3").rename(file)
        shutil.copyfile(file, to)


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """The first worker makes it, the others wait."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _migrated_template(name: str) -> str:
    """The name of the one on PostgreSQL, which bears its key as its comment, written last."""
    import psycopg
    from psycopg.sql import SQL, Identifier, Literal

    url = urlsplit(os.environ["BLOX_TEST_DATABASE_URL"])
    template, key = f"{name}_migrated", _key()
    maintenance = urlunsplit(url._replace(scheme="postgresql", path="/postgres"))
    with _one_at_a_time(), psycopg.connect(maintenance, autocommit=True) as connection:
        comment = connection.execute(
            "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = %s", [template]
        ).fetchone()
        if comment != (key,):
            connection.execute(SQL("DROP DATABASE IF EXISTS {}").format(Identifier(template)))
            connection.execute(SQL("CREATE DATABASE {}").format(Identifier(template)))
            with tempfile.TemporaryDirectory() as var:
                _migrate(BLOX_TEST_DATABASE_URL=urlunsplit(url._replace(path=f"/{template}")), BLOX_VAR_DIR=var)
            connection.execute(SQL("COMMENT ON DATABASE {} IS {}").format(Identifier(template), Literal(key)))
    return template


def _migrate(**environment: str) -> None:
    command = [sys.executable, "manage.py", "migrate", "--verbosity=0"]
    settings = {"DJANGO_SETTINGS_MODULE": "tests.settings", "PYTEST_XDIST_WORKER": ""}
    subprocess.run(command, cwd=REPOSITORY, env=os.environ | settings | environment, check=True)


def _key() -> str:
    digest = hashlib.sha256()
    for file in sorted(file for pattern in MADE_OF for file in REPOSITORY.glob(pattern)):
        digest.update(f"{file.relative_to(REPOSITORY)}\n".encode() + file.read_bytes())
    return digest.hexdigest()[:16]
