"""The database's connections: whether an error says that it is away, and what has not been used for a while. And its schema:
whether it is the one that this code needs."""

import logging
import threading
import time

from django.db import InterfaceError, OperationalError, close_old_connections, connection
from django.db.migrations.executor import MigrationExecutor

logger = logging.getLogger(__name__)

# It refuses every write: it has become a standby, or an operator has set it so. psycopg has no OperationalError for it.
READ_ONLY = "25006"  # SQLSTATE
UNDEFINED = frozenset({"42703", "42P01"})  # column, table
TRUSTED_SECONDS = 1.0  # a connection that has just worked works
_looked = threading.local()


def is_away(error: BaseException) -> bool:
    """Whether the same may succeed in a moment."""
    if isinstance(error, OperationalError | InterfaceError):
        return True
    return getattr(error.__cause__, "sqlstate", None) == READ_ONLY


def is_behind(error: BaseException) -> bool:
    """Whether the schema lacks what this code asks for: its migrations are still to come. (SQLite's `OperationalError`.)"""
    return getattr(error.__cause__, "sqlstate", None) in UNDEFINED


def look_after_connection() -> None:
    """What Django does before each request, for a thread that takes up work all the time: its connection is asked whether
    it works after an error, or when that was last done a second ago."""
    now = time.monotonic()
    if connection.errors_occurred or now - getattr(_looked, "at", 0.0) > TRUSTED_SECONDS:
        _looked.at = now
        close_old_connections()


def missing_migrations() -> list[str]:
    """Those of this code that the database has not had, as `app.name`. It may have had others too, of a later release."""
    executor = MigrationExecutor(connection)
    plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
    return [f"{migration.app_label}.{migration.name}" for migration, _ in plan]


def wait_for_migrations() -> None:
    """Returns once the database has had all migrations of this code, and says what it waits for."""
    said = ""
    while text := _why_not_yet():
        if text != said:
            logger.warning("Waiting. %s", text)
            said = text
        time.sleep(1)


def _why_not_yet() -> str:
    try:
        missing = missing_migrations()
    except OperationalError as error:
        return f"The database does not answer: {str(error).strip()}"
    finally:
        connection.close()  # it may be broken, and Celery is about to fork
    return f"The database lacks {', '.join(missing)}: run `manage.py migrate` of this release." if missing else ""
