"""PostgreSQL's pipeline: statements that are sent together, and answered together."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from django.db import connection
from django.db.transaction import atomic
from psycopg import Connection, Error, Pipeline
from psycopg.generators import send
from psycopg.pq import PipelineStatus

# These wait for their answer: Django asks how many rows its UPDATE or DELETE has changed, and rolls back to a savepoint only
# before it is released.
ANSWER_AT_ONCE = ("UPDATE", "DELETE", "RELEASE")


@contextmanager
def transaction(*, savepoint: bool = True) -> Iterator[None]:
    """`transaction.atomic()` whose statements are sent together, its BEGIN and COMMIT too.

    Each result that is read, each of `ANSWER_AT_ONCE`, and the end wait for all statements before them. So an error may
    come later than from its statement, though before the end, and how many rows an INSERT has made is not known. Within
    another transaction it is a part of that, with a savepoint or without, like `atomic`. On SQLite, which is asked without
    a network, it is `atomic`.
    """
    is_outermost = not connection.in_atomic_block
    with atomic(savepoint=savepoint):
        if connection.vendor != "postgresql" or _is_in_pipeline():
            yield
            return
        raw = connection.connection
        with (
            connection.wrap_database_errors,
            raw.pipeline() as pipeline,
            connection.execute_wrapper(partial(_execute, raw, pipeline)),
        ):
            try:
                yield
                if is_outermost and not connection.needs_rollback:
                    with connection.cursor() as cursor:
                        cursor.execute("COMMIT")  # Django's own then finds nothing to commit, and asks nobody
            except BaseException:
                _collect(pipeline)
                raise


def _is_in_pipeline() -> bool:
    return connection.connection.info.pipeline_status != PipelineStatus.OFF


def _execute(
    raw: Connection[Any],
    pipeline: Pipeline,
    execute: Callable[..., Any],
    sql: str,
    params: Any,
    many: bool,
    context: dict[str, Any],
) -> Any:
    if sql.startswith("ROLLBACK"):
        _collect(pipeline)
    result = execute(sql, params, many, context)
    with connection.wrap_database_errors:
        if raw.pgconn.flush():
            # A COMMIT or sync of psycopg would wait for an answer while what it is the answer to is half sent, for ever.
            raw.wait(send(raw.pgconn))
        if sql.lstrip().startswith(ANSWER_AT_ONCE):
            pipeline.sync()
    return result


def _collect(pipeline: Pipeline) -> None:
    """After an error: the answers that are still to come, that what follows was aborted, so that nobody takes them for his."""
    for _ in range(2):  # the first stops at an error, with what comes after it not yet read
        with suppress(Error):
            pipeline.sync()
