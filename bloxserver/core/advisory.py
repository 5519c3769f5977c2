"""PostgreSQL's advisory locks: turns that a transaction takes on what has no row of its own to lock, until it ends.

On SQLite each says yes: its writing transactions begin IMMEDIATE and take turns as a whole. A lock is named by a
purpose and four bytes of an id, so two ids may share one; that costs a wait and nothing else.
"""

from enum import IntEnum
from uuid import UUID

from django.db import connection


class Turns(IntEnum):
    """What turns are taken on. A transaction takes those of a lower number first."""

    FLOW_OVERLAP = 1  # firings of a flow that are refused at its limit, or cancel others
    TENANT_CLAIMS = 2  # claims from one tenant's queue


def take(turns: Turns, key: UUID) -> None:
    """Wait for the turn, and keep it until the transaction ends."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s, %s)", [int(turns), _number(key)])


def trying(turns: Turns, column: str) -> str:
    """SQL for PostgreSQL that takes the turn on the id in `column` unless somebody has it; whether it is ours now."""
    return f"pg_try_advisory_xact_lock({int(turns)}, ('x' || right({column}::text, 8))::bit(32)::int)"


def _number(key: UUID) -> int:
    return int.from_bytes(key.bytes[-4:], signed=True)
