"""Counters of ended executions, which the database itself keeps: what lists and statistics do not count row by row.

The triggers are looked for after every `migrate` instead of being a migration's: SQLite rebuilds a table for many
changes of it, and forgets its triggers. Where they are missing, all is counted anew.
"""

import time
from collections.abc import Iterable
from typing import Any
from uuid import UUID

from django.db import connection, transaction
from django.db.models import Count, Sum

from executions.models import Execution, ExecutionTally, State
from flows.models import Flow

NAME = "execution_ended_is_tallied"
CROWD = 16  # rows of one flow that are worth folding
FLOWS_A_FOLD = 1_000
ROWS_A_FOLD = 5_000  # in one transaction
SECONDS = 2.0  # of one run of the task

# The columns of a row, whatever `{row}` is; worked time is `Execution.duration_ms`.
_POSTGRESQL_ROW = (
    "{row}user_id, {row}flow_id, {row}status, 1, "
    "coalesce(greatest(0, round(extract(epoch from {row}completed_at - {row}claimed_at) * 1000)), 0)"
)
_SQLITE_MS = "(strftime('%s', {0}) * 1000 + substr(strftime('%f', {0}), 4))"
_SQLITE_ROW = (
    "{row}user_id, {row}flow_id, {row}status, 1, "
    f"coalesce(max(0, {_SQLITE_MS.format('{row}completed_at')} - {_SQLITE_MS.format('{row}claimed_at')}), 0)"
)
_INSERT = "INSERT INTO executions_executiontally (user_id, flow_id, status, runs, milliseconds) "
_POSTGRESQL = [
    "LOCK TABLE executions_execution IN SHARE ROW EXCLUSIVE MODE",  # nothing ends uncounted, or counted twice
    f"""
    CREATE OR REPLACE FUNCTION {NAME}() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
      {_INSERT} VALUES ({_POSTGRESQL_ROW.format(row="NEW.")});
      RETURN NULL;
    END $$
    """,  # noqa: S608 - constants of this file
    f"""
    DROP TRIGGER IF EXISTS {NAME} ON executions_execution;
    CREATE TRIGGER {NAME} AFTER UPDATE OF state ON executions_execution FOR EACH ROW
    WHEN (OLD.state <> 'ended' AND NEW.state = 'ended') EXECUTE FUNCTION {NAME}()
    """,
    f"""
    DROP TRIGGER IF EXISTS {NAME}_at_once ON executions_execution;
    CREATE TRIGGER {NAME}_at_once AFTER INSERT ON executions_execution FOR EACH ROW
    WHEN (NEW.state = 'ended') EXECUTE FUNCTION {NAME}()
    """,
]
_SQLITE = [
    f"""
    CREATE TRIGGER IF NOT EXISTS {NAME} AFTER UPDATE OF state ON executions_execution
    WHEN OLD.state <> 'ended' AND NEW.state = 'ended'
    BEGIN {_INSERT} VALUES ({_SQLITE_ROW.format(row="NEW.")}); END
    """,
    f"""
    CREATE TRIGGER IF NOT EXISTS {NAME}_at_once AFTER INSERT ON executions_execution WHEN NEW.state = 'ended'
    BEGIN {_INSERT} VALUES ({_SQLITE_ROW.format(row="NEW.")}); END
    """,  # noqa: S608
]


def install(**_: Any) -> None:
    """Make the triggers and count what is there, unless the triggers are there. For `post_migrate`."""
    if _is_installed():
        return
    with transaction.atomic(), connection.cursor() as cursor:
        for statement in _POSTGRESQL if connection.vendor == "postgresql" else _SQLITE:
            cursor.execute(statement)
        recount()


def recount() -> None:
    """Count all anew, in a transaction of the caller's in which nothing else ends."""
    row = _POSTGRESQL_ROW if connection.vendor == "postgresql" else _SQLITE_ROW
    _, _, status, _, milliseconds = row.format(row="").split(", ", 4)
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM executions_executiontally")
        cursor.execute(
            f"{_INSERT} SELECT user_id, flow_id, {status}, count(*), sum({milliseconds}) "  # noqa: S608
            "FROM executions_execution WHERE state = 'ended' GROUP BY user_id, flow_id, status"
        )


def _is_installed() -> bool:
    """Both triggers, on a database whose migrations have come as far as the table."""
    catalogue = (
        "SELECT count(*) FROM pg_trigger WHERE tgname LIKE %s AND tgrelid = to_regclass('executions_execution')"
        if connection.vendor == "postgresql"
        else "SELECT count(*) FROM sqlite_master WHERE type = 'trigger' AND name LIKE %s"
    )
    with connection.cursor() as cursor:
        if ExecutionTally._meta.db_table not in connection.introspection.table_names(cursor):
            return True
        cursor.execute(catalogue, [f"{NAME}%"])
        return cursor.fetchone()[0] == 2


def subtract(ids: Iterable[UUID]) -> None:
    """Take these executions, which are about to be deleted, out of the counters. In the caller's transaction."""
    ended = Execution.objects.filter(pk__in=ids, state=State.ENDED)
    # `duration_ms` in Python, by the row: a thousand at a time, and no third spelling of it in SQL.
    counted: dict[tuple[UUID, UUID, str], list[int]] = {}
    for row in ended.only("user_id", "flow_id", "status", "claimed_at", "completed_at"):
        sums = counted.setdefault((row.user_id, row.flow_id, row.status), [0, 0])
        sums[0] -= 1
        sums[1] -= row.duration_ms or 0
    ExecutionTally.objects.bulk_create(
        ExecutionTally(user_id=user, flow_id=flow, status=status, runs=runs, milliseconds=milliseconds)
        for (user, flow, status), (runs, milliseconds) in counted.items()
    )


def fold(*, seconds: float | None = SECONDS) -> None:
    """Replace the rows of flows that have many by their sums, for about `seconds` (None: until none has).

    Any number may fold at once: each takes other rows, by row locks.
    """
    stop_at = None if seconds is None else time.monotonic() + seconds
    while crowded := list(_crowded()):
        folded = 0
        for user_id, flow_id, _ in crowded:
            if stop_at is not None and time.monotonic() >= stop_at:
                return
            folded += _fold(user_id, flow_id)
        if not folded:
            return  # another is at it


def _crowded() -> Iterable[tuple[UUID, UUID, int]]:
    flows = ExecutionTally.objects.order_by().values_list("user_id", "flow_id").annotate(rows=Count("pk"))
    return flows.filter(rows__gt=CROWD)[:FLOWS_A_FOLD]


def _fold(user_id: UUID, flow_id: UUID) -> int:
    of_flow = ExecutionTally.objects.filter(user_id=user_id, flow_id=flow_id)
    with transaction.atomic():
        locked = of_flow.select_for_update(skip_locked=True).order_by("pk")
        ids = list(locked.values_list("pk", flat=True)[:ROWS_A_FOLD])
        rows = ExecutionTally.objects.filter(pk__in=ids)
        sums = list(
            rows.order_by().values("user_id", "flow_id", "status").annotate(r=Sum("runs"), m=Sum("milliseconds"))
        )
        rows.delete()
        ExecutionTally.objects.bulk_create(
            ExecutionTally(
                user_id=row["user_id"],
                flow_id=row["flow_id"],
                status=row["status"],
                runs=row["r"],
                milliseconds=row["m"],
            )
            for row in sums
            if row["r"] or row["m"]
        )
    return len(ids)


def ended(*, user_id: UUID, flow_id: UUID | None = None) -> dict[str, tuple[int, int]]:
    """For each status how many executions of the user (of one flow) have ended with it, and their milliseconds of work."""
    rows = ExecutionTally.objects.filter(user_id=user_id)
    if flow_id is None:
        rows = rows.exclude(flow__in=Flow.with_deleted.filter(user_id=user_id, deleted_at__isnull=False))
    else:
        rows = rows.filter(flow_id=flow_id)
    sums = rows.order_by().values_list("status").annotate(runs=Sum("runs"), milliseconds=Sum("milliseconds"))
    return {status: (runs, milliseconds) for status, runs, milliseconds in sums}
