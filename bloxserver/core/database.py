"""Whether an error says that the database is away for now, or that what it was asked is at fault."""

from django.db import InterfaceError, OperationalError

# It refuses every write: it has become a standby, or an operator has set it so. psycopg has no OperationalError for it.
READ_ONLY = "25006"  # SQLSTATE


def is_away(error: BaseException) -> bool:
    """Whether the same may succeed in a moment."""
    if isinstance(error, OperationalError | InterfaceError):
        return True
    return getattr(error.__cause__, "sqlstate", None) == READ_ONLY
