"""Leases: who works on what, by the database's clock.

The one place where time is the database's and not an argument: workers on machines whose clocks differ must agree on
when a lease has run out.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from threading import Event, Lock, Thread
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import DatabaseError, InterfaceError, connection, transaction
from django.db.models.functions import Now

from bloxserver.core import advisory, bulk
from executions.engine import lanes
from executions.models import Execution, JournalEntry, State, Step

logger = logging.getLogger(__name__)

LEASE = timedelta(seconds=settings.BLOX_LEASE_SECONDS)
RENEW_EVERY_SECONDS = settings.BLOX_LEASE_SECONDS / 3
LOOK_EVERY_SECONDS = 1.0  # for cancellations and lost leases
TURN_PAUSES_SECONDS = (0.005, 0.01, 0.02, 0.04)  # while other claims have the turns of all tenants that are next


@dataclass(slots=True)
class Claimed:
    """An execution that this worker holds, with all that is on record of it: values, since its row changes meanwhile."""

    pk: UUID
    fence: int
    user_id: UUID
    flow_id: UUID
    flow_name: str
    version_id: UUID
    parent_id: UUID | None
    retry_of: UUID | None
    trigger_type: str
    is_draft: bool
    started_at: datetime
    claim_alone: bool
    seconds_allowed: int
    seconds_worked: float
    input: str
    trigger: str
    variables: str
    only_listener: str
    steps: list[Step] = field(default_factory=list)
    journal: list[JournalEntry] = field(default_factory=list)


_COLUMNS = (
    "pk",
    "fence",
    "user_id",
    "flow_id",
    "flow__name",
    "version_id",
    "parent_id",
    "retry_of",
    "trigger_type",
    "is_draft",
    "started_at",
    "claim_alone",
    "seconds_allowed",
    "seconds_worked",
    "payload__input",
    "payload__trigger",
    "payload__variables",
    "payload__only_listener",
)


def database_now() -> datetime:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT statement_timestamp()"
            if connection.vendor == "postgresql"
            else "SELECT STRFTIME('%Y-%m-%d %H:%M:%f+00:00', 'NOW')"
        )
        moment = cursor.fetchone()[0]
    return moment if isinstance(moment, datetime) else datetime.fromisoformat(moment)


def claim(owner: str, *, limit: int, holding: int) -> list[Claimed]:
    """Take up to `limit` due executions for `owner`, in turn and within the caps (`lanes.py`); `holding` is how many it
    works on already.

    An execution whose lease has once expired is taken alone, so that what it may do to a worker befalls no other.
    """
    priorities = lanes.worker_priorities()
    for pause in TURN_PAUSES_SECONDS:
        claimed = _claim_once(owner, limit=limit, holding=holding, priorities=priorities)
        if claimed is not None:
            return claimed
        if holding:  # its drain comes again soon
            break
        time.sleep(pause)
    return []


def _claim_once(owner: str, *, limit: int, holding: int, priorities: list[int]) -> list[Claimed] | None:
    """One claim; None when there is something for it, all of which others are claiming at this moment.

    A tenant's cap is a budget that all workers spend, so a claim first takes the turns of the tenants that are next:
    an advisory lock for each, until the commit. Leases are counted in a statement that begins after that, hence sees
    every lease that anyone took before; only claims make leases, so no cap is ever passed. A turn that another has is
    not waited for: a claimer that stands still with one keeps back that tenant alone, and no two can block each other.
    The rows are taken under row locks by an update conditional on their state: two workers never take the same one.
    """
    with transaction.atomic():
        lanes.wake_parked()
        following = lanes.next_lanes(limit=limit, priorities=priorities)
        caps = {lane.user_id: lane.cap for lane in following}
        turns = advisory.try_all(advisory.Turns.TENANT_CLAIMS, caps)
        if not turns:
            return None if following else []
        working = lanes.count_working(turns)
        rows = lanes.first_in([lane for lane in following if lane.user_id in turns], limit=limit, suspects=not holding)
        candidates = lanes.choose(rows, caps=caps, working=working, limit=limit)
        if candidates and candidates[0].claim_alone:
            candidates = candidates[:1]
        else:
            candidates = [row for row in candidates if not row.claim_alone]
        if not candidates:
            return []
        _take(candidates, owner)
        # Under the same locks: a flow that is deleted at this moment waits, and a failure to load undoes the claim.
        return _load([row.id for row in candidates])


def _take(rows: list[lanes.Queued], owner: str) -> None:
    """Make leases of queued rows that are locked."""
    now = database_now()
    taken = [
        (
            row.id,
            State.WORKING,
            row.fence + 1,
            owner,
            now + LEASE,
            row.claimed_at or now,
            None,
            now + timedelta(seconds=max(0.0, row.seconds_allowed - row.seconds_worked)),
        )
        for row in rows
    ]
    columns = ("state", "fence", "lease_owner", "lease_until", "claimed_at", "due_at", "deadline_at")
    bulk.update(Execution, taken, where=("id",), set=columns)


def _load(ids: list[UUID]) -> list[Claimed]:
    """The claimed rows, with steps and journal where they have any: what was claimed before, or retries another."""
    claimed = {row[0]: Claimed(*row) for row in Execution.objects.filter(pk__in=ids).values_list(*_COLUMNS)}
    resumed = [row.pk for row in claimed.values() if row.fence > 1 or row.retry_of]
    if resumed:
        for step in Step.objects.filter(execution__in=resumed).select_related("large_output").order_by("number"):
            claimed[step.execution_id].steps.append(step)
        for entry in JournalEntry.objects.filter(execution__in=resumed):
            claimed[entry.execution_id].journal.append(entry)
    return [claimed[pk] for pk in ids]


@dataclass(frozen=True, slots=True)
class Holder:
    """How the keeper reaches one run: both are called from the keeper's thread."""

    fence: int
    lost: Callable[[], Any]
    cancel: Callable[[str], Any]


class LeaseKeeper(Thread):
    """Renews the leases of one worker process and tells its runs of what befell their rows. Has its own connection."""

    def __init__(self, owner: str) -> None:
        super().__init__(name="lease-keeper", daemon=True)
        self.owner = owner
        self._held: dict[UUID, Holder] = {}
        self._lock = Lock()
        self._done = Event()

    def hold(self, execution_id: UUID, holder: Holder) -> None:
        with self._lock:
            self._held[execution_id] = holder

    def release(self, execution_id: UUID, fence: int) -> None:
        """Let go of what was held under `fence`: this worker may have claimed the execution anew since."""
        with self._lock:
            if (holder := self._held.get(execution_id)) is not None and holder.fence == fence:
                del self._held[execution_id]

    def close(self) -> None:
        self._done.set()
        self.join()

    def run(self) -> None:
        renew_at = time.monotonic() + RENEW_EVERY_SECONDS
        while not self._done.wait(LOOK_EVERY_SECONDS):
            renewing = time.monotonic() >= renew_at
            renew_at += RENEW_EVERY_SECONDS if renewing else 0.0
            try:
                self._look(renewing=renewing)
            except (DatabaseError, InterfaceError):
                # The database is away: leases run out, and every later write is refused by its fence.
                connection.close()
            except Exception:
                logger.exception("The lease keeper has a fault")  # it must live: its runs would lose their leases
        connection.close()

    def _look(self, *, renewing: bool) -> None:
        with self._lock:
            held = dict(self._held)
        if not held:
            return
        rows = Execution.objects.filter(pk__in=held, state=State.WORKING)
        if renewing:
            rows.filter(lease_owner=self.owner).update(lease_until=Now() + LEASE)
        found = {
            pk: (fence, canceled, reason)
            for pk, fence, canceled, reason in rows.values_list("pk", "fence", "cancel_requested_at", "cancel_reason")
        }
        for execution_id, holder in held.items():
            fence, canceled, reason = found.get(execution_id, (None, None, ""))
            if fence != holder.fence:
                holder.lost()
            elif canceled is not None:
                holder.cancel(reason)
