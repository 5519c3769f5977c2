"""The database's connections: whether an error says that it is away, and what has not been used for a while."""

import threading
import time

from django.db import InterfaceError, OperationalError, close_old_connections, connection

# It refuses every write: it has become a standby, or an operator has set it so. psycopg has no OperationalError for it.
READ_ONLY = "25006"  # SQLSTATE
TRUSTED_SECONDS = 1.0  # a connection that has just worked works
_looked = threading.local()


def is_away(error: BaseException) -> bool:
    """Whether the same may succeed in a moment."""
    if isinstance(error, OperationalError | InterfaceError):
        return True
    return getattr(error.__cause__, "sqlstate", None) == READ_ONLY


def look_after_connection() -> None:
    """What Django does before each request, for a thread that takes up work all the time: its connection is asked whether
    it works after an error, or when that was last done a second ago."""
    now = time.monotonic()
    if connection.errors_occurred or now - getattr(_looked, "at", 0.0) > TRUSTED_SECONDS:
        _looked.at = now
        close_old_connections()
