"""The limits that operators have set for single users, as this process knows them.

Limits are asked for at every API request, webhook and acceptance, so asking must cost no query: a process keeps the whole
table, which is small, for `KEPT_SECONDS`. A change is in force at once in the process that commits it, and everywhere
within 5 seconds; an override that expires does so at its moment.
"""

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple, TypeAlias
from uuid import UUID

from django.db import DatabaseError, InterfaceError, connection

from billing.models import LimitOverride
from billing.tiers import SETTABLE
from bloxserver.core.database import is_away, is_behind

logger = logging.getLogger(__name__)

KEPT_SECONDS = 5.0
RETRY_SECONDS = 1.0  # after the table could not be read


class Override(NamedTuple):
    limit: str
    value: int | None
    expires_at: datetime | None

    def is_active(self, now: datetime) -> bool:
        return self.expires_at is None or self.expires_at > now


Table: TypeAlias = Mapping[UUID, Sequence[Override]]  # by user


class _Known(NamedTuple):
    table: Table
    until: float  # on the monotonic clock
    changes: int  # that this process has made before it was read


_known = _Known({}, 0.0, 0)
_writing = threading.Lock()


def overrides_of(user_id: UUID, *, now: datetime) -> dict[str, int | None]:
    """What the user has instead of the tier's limits, by their names. None is unlimited."""
    return {each.limit: each.value for each in _table().get(user_id, ()) if each.is_active(now)}


def users_with(limit: str, *, now: datetime) -> dict[UUID, int | None]:
    """Who has this limit otherwise than by tier, and how."""
    return {
        user_id: each.value
        for user_id, overrides in _table().items()
        for each in overrides
        if each.limit == limit and each.is_active(now)
    }


def forget() -> None:
    """Whoever asks next reads the table: to be called when a change of it has been committed."""
    global _known
    with _writing:
        _known = _Known(_known.table, 0.0, _known.changes + 1)


def keep(table: Table) -> None:
    """This is the table as it is now."""
    global _known
    with _writing:
        _known = _Known(table, time.monotonic() + KEPT_SECONDS, _known.changes)


def _table() -> Table:
    known = _known
    return known.table if time.monotonic() < known.until else _read(known.changes)


def _read(changes: int) -> Table:
    """Several threads may do it at once, which costs them less than waiting for each other would. What was read before
    this process made a change is not kept; how long it is kept counts from before it was read."""
    global _known
    began = time.monotonic()
    try:
        table, seconds = _load(), KEPT_SECONDS
    except (DatabaseError, InterfaceError) as error:
        # A transaction is lost by it. Outside of one, an answer that needs no database must not begin to fail.
        if connection.in_atomic_block or not (is_away(error) or is_behind(error)):
            raise
        logger.warning("The overrides of limits cannot be read, so what was known of them holds (%s).", error)
        table, seconds = _known.table, RETRY_SECONDS
    with _writing:
        if _known.changes == changes:
            _known = _Known(table, began + seconds, changes)
    return table


def _load() -> Table:
    """Without limits that only another release knows."""
    table: dict[UUID, list[Override]] = defaultdict(list)
    rows = LimitOverride.objects.filter(limit__in=SETTABLE).order_by()
    for user_id, *override in rows.values_list("user_id", *Override._fields):
        table[user_id].append(Override(*override))
    return dict(table)
