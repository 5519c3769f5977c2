"""PostgreSQL's pipeline: statements that are sent together, and answered together."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from django.db import connection
from psycopg import Connection, Pipeline
from psycopg.generators import send
from psycopg.pq import PipelineStatus

# Django asks how many rows an UPDATE or DELETE has changed, and rolls back to a savepoint only before it is released.
ANSWER_AT_ONCE = ("UPDATE", "DELETE", "RELEASE")


@contextmanager
def together() -> Iterator[None]:
    """Send the statements of the `with` without waiting for each one's answer: those in `ANSWER_AT_ONCE`, a result that is
    read, a COMMIT and the end of the outermost `with` wait for all before them. So an error may come later than from its
    statement, though before the end of its transaction; and how many rows an INSERT has made is not known.

    Around a transaction it saves the waits for BEGIN, for each INSERT, and for COMMIT apart from those. On SQLite, which
    is asked without a network, it does nothing.
    """
    if connection.vendor != "postgresql":
        yield
        return
    connection.ensure_connection()
    raw = connection.connection
    if raw.info.pipeline_status != PipelineStatus.OFF:
        yield
        return
    with (
        connection.wrap_database_errors,
        raw.pipeline() as pipeline,
        connection.execute_wrapper(partial(_execute, raw, pipeline)),
    ):
        yield


def _execute(
    raw: Connection[Any],
    pipeline: Pipeline,
    execute: Callable[..., Any],
    sql: str,
    params: Any,
    many: bool,
    context: dict[str, Any],
) -> Any:
    result = execute(sql, params, many, context)
    with connection.wrap_database_errors:
        if raw.pgconn.flush():
            # A COMMIT or sync of psycopg would wait for an answer while what it is the answer to is half sent, for ever.
            raw.wait(send(raw.pgconn))
        if sql.lstrip().startswith(ANSWER_AT_ONCE):
            pipeline.sync()
    return result
