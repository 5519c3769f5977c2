"""PostgreSQL's pipeline: statements that are sent together, and answered together."""

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connection


@contextmanager
def together() -> Iterator[None]:
    """Send the statements of the `with` without waiting for each one's answer; the first result that is read waits for all
    before it. So none of them knows how many rows it changed, and an error may come with a later one or at the end.

    On SQLite, which is asked without a network, it does nothing.
    """
    if connection.vendor != "postgresql":
        yield
        return
    connection.ensure_connection()
    with connection.wrap_database_errors, connection.connection.pipeline():
        yield
