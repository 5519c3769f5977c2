"""What a worker writes: one thread, one connection, and the changes of many executions in one transaction.

Every change carries the lease under which its execution was claimed. A change whose lease is no more is refused, and
its run drops what it did: the execution is another worker's now.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

from django.db import DatabaseError, InterfaceError, connection, transaction
from django.db.models import Q
from django.db.models.functions import Now
from django.utils import timezone

from billing.metering import MeteredCall, settle_all
from bloxserver.core import bulk, json_text, pipeline
from bloxserver.core.database import is_away
from bloxserver.core.errors import DomainError
from executions import endings, events
from executions.endings import Ending
from executions.engine.leases import LEASE, Lease
from executions.engine.speech import Speaker
from executions.models import (
    LARGE_OUTPUT_CHARACTERS,
    Execution,
    ExecutionPayload,
    JournalEntry,
    LargeOutput,
    State,
    Step,
)
from flows.blocks.base import BlockError

logger = logging.getLogger(__name__)
T = TypeVar("T")


class LeaseLost(Exception):
    """The execution is not this worker's any more (or the database has been away for as long as a lease lasts)."""


class Unwritable(Exception):
    """The database is there and refuses what a run wants recorded: the execution cannot go on."""


@dataclass(slots=True)
class Transaction:
    """What a block asked to have done in the transaction that records its result."""

    entry: JournalEntry  # its value is written when `run` has given it
    run: Callable[[], Any]


@dataclass(slots=True)
class Change:
    """What one run wants written, all or nothing.

    A transaction comes in a change of its own: it may fail, and what the run has on record must not fail with it.
    """

    execution_id: UUID
    lease: Lease
    parent_id: UUID | None = None
    steps: list[Step] = field(default_factory=list)
    journal: list[JournalEntry] = field(default_factory=list)
    model_calls: list[MeteredCall] = field(default_factory=list)  # whose answers are among the above
    response: str | None = None
    transaction: Transaction | None = None
    ending: Ending | None = None
    release: dict[str, Any] | None = None  # fields of the execution row, when it is parked or handed back


class Store:
    """The writer of one drain. `save` is for its event loop; everything else runs in the database thread."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="execution-store")
        self.speaker = Speaker(self.call)
        self._waiting: list[tuple[Change, asyncio.Future[Any]]] = []
        self._writing = False

    async def call(self, fn: Callable[[], T]) -> T:
        """Run `fn` in the database thread, once."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, fn)

    async def call_patiently(self, fn: Callable[[], T]) -> T:
        """Run `fn`, which is safe to repeat, in the database thread. Raises `LeaseLost` as `patiently` does."""
        return await self.call(partial(patiently, fn))

    async def save(self, change: Change) -> Any:
        """Write `change`, together with what other runs have waiting. Gives what its transaction gave.

        Raises `LeaseLost`, `Unwritable`, and whatever its transaction raised (nothing of the change is written then).
        """
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((change, future))
        if not self._writing:
            self._writing = True
            asyncio.get_running_loop().call_soon(self._write_waiting)  # with what others save in this round of the loop
        return await future

    def close(self) -> None:
        self._thread.submit(close_connection)
        self._thread.shutdown()

    def _write_waiting(self) -> None:
        batch, self._waiting = self._waiting, []
        work = asyncio.get_running_loop().run_in_executor(
            self._thread, write_patiently, [change for change, _ in batch]
        )
        work.add_done_callback(partial(self._written, [future for _, future in batch]))

    def _written(self, futures: list[asyncio.Future[Any]], work: asyncio.Future[list[Any]]) -> None:
        for future, outcome in zip(futures, work.result(), strict=True):
            if future.cancelled():
                continue
            if isinstance(outcome, BaseException):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)
        self._writing = bool(self._waiting)
        if self._writing:
            self._write_waiting()


def close_connection() -> None:
    """Close the connection of the thread that calls this (`connection.close`, as an argument, is the caller's own)."""
    connection.close()


def patiently(fn: Callable[[], T], *, seconds: float = LEASE.total_seconds()) -> T:
    """`fn()`, again and again while the database is away. Raises `LeaseLost` when it is away for `seconds`."""
    give_up_at = time.monotonic() + seconds
    pause = 0.05
    while True:
        try:
            return fn()
        except (DatabaseError, InterfaceError) as error:
            if not is_away(error):
                raise
            connection.close()
            if time.monotonic() + pause > give_up_at:
                logger.warning("The database has been away for %.1f s: %s", seconds, error)
                raise LeaseLost from error
            time.sleep(pause)
            pause = min(2 * pause, 1.0)


def write_patiently(changes: list[Change], *, seconds: float = LEASE.total_seconds()) -> list[Any]:
    """`write`, patiently; for each change what it gave, or the exception that befell it. Never raises."""
    alone = len(changes) == 1
    try:
        return patiently(partial(write, changes), seconds=seconds if alone else seconds / 2)
    except Exception as error:
        if alone:
            return [_refusal(changes[0], error)]
        # One of them may be the reason: the others must not share its fate.
        return [write_patiently([change], seconds=seconds / 2 / len(changes))[0] for change in changes]


def _refusal(change: Change, error: Exception) -> Exception:
    if isinstance(error, LeaseLost) or change.transaction is not None:
        return error
    logger.error("A change of execution %s cannot be written", change.execution_id, exc_info=error)
    return Unwritable(str(error))


def write(changes: list[Change]) -> list[Any]:
    """All changes in one transaction; for each what its own transaction gave, or the exception that befell it."""
    with pipeline.transaction():
        held = _lock_held(changes)
        outcomes = [
            _run_transaction(change) if (change.execution_id, change.lease) in held else LeaseLost()
            for change in changes
        ]
        good = [
            change for change, outcome in zip(changes, outcomes, strict=True) if not isinstance(outcome, BaseException)
        ]
        _write_records(good)
        # In one call for all: usage and budgets are locked in one order, whatever else is written with them.
        settle_all(calls=[call for change in good for call in change.model_calls], now=timezone.now())
        ends = [(each.execution_id, each.lease.fence, each.ending) for each in good if each.ending]
        endings.end_held(ends, now=timezone.now())
        for change in good:
            if change.release is not None:
                _release(change, change.release, cancel_reason=held[change.execution_id, change.lease])
    if ended := [(change.execution_id, change.parent_id) for change in good if change.ending]:
        _after(partial(endings.after_end, ended))
    if going_on := [change.execution_id for change in good if not change.ending]:
        _after(partial(events.announce, going_on))
    return outcomes


_LOCK = """
SELECT id, fence, deadline_at, cancel_requested_at, cancel_reason,
    lease_until < statement_timestamp() + make_interval(secs => %s)
FROM executions_execution WHERE id = ANY (%s) AND state = 'working' ORDER BY id FOR UPDATE
"""


def _lock_held(changes: list[Change]) -> dict[tuple[UUID, Lease], str | None]:
    """The rows that are being worked on, by id and lease, locked in the order of their keys; each with the reason for
    which it is to be cancelled, if it is.

    Who writes is alive: a lease that is about to run out is renewed, so that no effect begins under one that has. (It has
    after the database was away for its length, if no sweeper was there before us.)
    """
    ids = {change.execution_id for change in changes}
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute(_LOCK, [LEASE.total_seconds() / 2, list(ids)])
            rows = cursor.fetchall()
    else:  # whose writers take turns
        working = Execution.objects.filter(pk__in=ids, state=State.WORKING).annotate(
            is_late=Q(lease_until__lt=Now() + LEASE / 2)
        )
        rows = list(working.values_list("pk", *Lease._fields, "cancel_requested_at", "cancel_reason", "is_late"))
    held = {
        (pk, Lease(fence, deadline_at)): None if requested is None else reason
        for pk, fence, deadline_at, requested, reason, _ in rows
    }
    ours = {change.execution_id for change in changes if (change.execution_id, change.lease) in held}
    if late := [pk for pk, *_, is_late in rows if is_late and pk in ours]:
        Execution.objects.filter(pk__in=late).update(lease_until=Now() + LEASE)
    return held


def _after(tell: Callable[[], None]) -> None:
    """What follows a commit may fail (a broker, a connection): it is latency, and the sweeper catches up on it."""
    try:
        tell()
    except DatabaseError:
        logger.warning("Could not tell of a change", exc_info=True)


def _run_transaction(change: Change) -> Any:
    if change.transaction is None:
        return None
    entry = change.transaction.entry
    recorded = JournalEntry.objects.filter(
        execution_id=entry.execution_id, step_key=entry.step_key, position=entry.position
    ).first()
    if recorded is not None:  # the commit was made, and its answer lost with the connection
        return json_text.loads(recorded.value)
    try:
        with transaction.atomic():
            value = change.transaction.run()
            entry.value = json_text.dumps(value)
    except (BlockError, DomainError) as error:
        return error
    except BaseException as error:  # another package's code: it must not end the database thread
        if is_away(error):
            raise
        crash = RuntimeError(f"The transaction crashed: {error!r}")
        crash.__cause__ = error
        return crash
    entry.save(force_insert=True)
    return value


def _write_records(changes: list[Change]) -> None:
    # A step that two changes of its run bring is written once, as it is now.
    steps = {step.pk: step for change in changes for step in change.steps}
    large = [step for step in steps.values() if step.output and len(step.output) > LARGE_OUTPUT_CHARACTERS]
    steps.update((step.pk, _without_output(step)) for step in large)
    bulk.upsert(list(steps.values()), unique=("execution", "key"))
    bulk.insert([LargeOutput(step_id=step.pk, text=step.output or "") for step in large], ignore_conflicts=True)
    bulk.insert([entry for change in changes for entry in change.journal], ignore_conflicts=True)
    responses = {change.execution_id: change.response for change in changes if change.response is not None}
    bulk.update(ExecutionPayload, list(responses.items()), where=("execution",), set=("response",))


def _without_output(step: Step) -> Step:
    row = copy(step)  # the run goes on with the whole step
    row.output, row.is_output_apart = None, True
    return row


def _release(change: Change, fields: dict[str, Any], *, cancel_reason: str | None) -> None:
    Execution.objects.filter(pk=change.execution_id, fence=change.lease.fence).update(
        lease_owner="", lease_until=None, deadline_at=None, **fields
    )
    if cancel_reason is not None:  # while it was on its way out: no worker would see it any more
        row = Execution(pk=change.execution_id, fence=change.lease.fence, parent_id=change.parent_id)
        endings.end_unheld(row, endings.canceled(cancel_reason), now=timezone.now())
