"""Leases: who works on what, by the database's clock.

The one place where time is the database's and not an argument: workers on machines whose clocks differ must agree on
when a lease has run out.
"""

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import takewhile
from threading import Event, Lock, Thread
from typing import Any, NamedTuple
from uuid import UUID

from django.conf import settings
from django.db import DatabaseError, InterfaceError, connection, transaction
from django.db.models import BooleanField, Case, DateTimeField, ExpressionWrapper, F, Value, When
from django.db.models.functions import Coalesce, Now
from django.utils import timezone

from bloxserver.core import pipeline
from executions.engine import lanes
from executions.models import Execution, JournalEntry, State, Step

logger = logging.getLogger(__name__)

LEASE = timedelta(seconds=settings.BLOX_LEASE_SECONDS)
RENEW_EVERY_SECONDS = settings.BLOX_LEASE_SECONDS / 3
LOOK_EVERY_SECONDS = 1.0  # for cancellations and lost leases
# What kills its worker mostly does so at once, so this short while finds it, and lets a worker take up a hundred that
# another has left within half a minute. What kills later is found by a longer one: 2 s, 16 s, 128 s ...
PROBATION_SECONDS = 0.25
PROBATION_GROWTH = 8
LONGEST_PROBATION = 5  # as an exponent: hours, so as long as the execution may work at all
TURN_PAUSES_SECONDS = (0.005, 0.01, 0.02, 0.04)  # while other claims have the turns of all tenants that are next


class Lease(NamedTuple):
    """What tells one claim of an execution from every other.

    The fence moves with each. But a claim that a crash of the database has forgotten (see `_TAKE`) is followed by one
    under the same fence, at another time, and so with another deadline.
    """

    fence: int
    deadline_at: datetime


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
    on_probation: bool
    expiries: int
    seconds_allowed: int
    seconds_worked: float
    deadline_at: datetime
    input: str
    trigger: str
    variables: str
    only_listener: str
    steps: list[Step] = field(default_factory=list)
    journal: list[JournalEntry] = field(default_factory=list)

    @property
    def lease(self) -> Lease:
        return Lease(self.fence, self.deadline_at)

    @property
    def probation_seconds(self) -> float:
        """For how long nothing may be claimed beside it."""
        if not self.on_probation:
            return 0.0
        return PROBATION_SECONDS * PROBATION_GROWTH ** min(max(self.expiries - 1, 0), LONGEST_PROBATION)


# What is claimed becomes this worker's, and its values: one statement, since a claim is half of a short execution's time.
# It is committed without waiting for the disk. A claim that a crash of the database forgets has not been: the execution is
# queued again under its old fence, and its next claim is told from this one by its deadline. Where a write after it is on
# disk (an effect under way, an end), so is the claim, by the order of the log.
# Not to begin with UPDATE lets a pipeline send the COMMIT with it.
_TAKE = """
WITH quickly AS (SELECT set_config('synchronous_commit', 'off', true))
UPDATE executions_execution AS e SET
    state = 'working', fence = e.fence + 1, lease_owner = %(owner)s,
    lease_until = statement_timestamp() + make_interval(secs => %(seconds)s),
    claimed_at = coalesce(e.claimed_at, statement_timestamp()), due_at = NULL,
    deadline_at = statement_timestamp() + make_interval(secs => greatest(0, e.seconds_allowed - e.seconds_worked)),
    claim_alone = e.claim_alone OR e.on_probation AND %(alone)s, on_probation = e.claim_alone OR e.on_probation
FROM executions_executionpayload AS payload, flows_flow AS flow, quickly
WHERE e.id = ANY (%(ids)s) AND payload.execution_id = e.id AND flow.id = e.flow_id
RETURNING e.id, e.fence, e.user_id, e.flow_id, flow.name, e.version_id, e.parent_id, e.retry_of, e.trigger_type, e.is_draft,
    e.started_at, e.on_probation, e.expiries, e.seconds_allowed, e.seconds_worked, e.deadline_at,
    payload.input, payload.trigger, payload.variables, payload.only_listener
"""
_COLUMNS = (  # the same, for SQLite
    *("pk", "fence", "user_id", "flow_id", "flow__name", "version_id", "parent_id", "retry_of", "trigger_type"),
    *("is_draft", "started_at", "on_probation", "expiries", "seconds_allowed", "seconds_worked", "deadline_at"),
    *("payload__input", "payload__trigger", "payload__variables", "payload__only_listener"),
)


def claim(owner: str, *, limit: int, holding: int) -> list[Claimed]:
    """Take up to `limit` due executions for `owner`, in turn and within the caps (`lanes.py`); `holding` is how many it
    works on already.

    An execution on probation is taken by itself, and by a worker that holds nothing if one comes in time (`lanes.py`), so
    that what it may do to a worker befalls no other. It goes in its turn: what is before it is taken first.
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
    with pipeline.transaction():
        lanes.wake_parked()
        following = lanes.next_lanes(limit=limit, priorities=priorities, alone=not holding, take_turns=True)
        ours = [lane for lane in following if lane.is_ours]
        if not ours:
            return None if following else []
        working, rows = lanes.look_into(ours, limit=limit, alone=not holding)
        caps = {lane.user_id: lane.cap for lane in ours}
        candidates = lanes.choose(rows, caps=caps, working=working, limit=limit)
        if not candidates:
            return []
        candidates = list(takewhile(lambda row: not row.is_suspect, candidates)) or candidates[:1]
        taken = _take([row.id for row in candidates], owner, alone=not holding)
        resumed = [row.id for row in candidates if row.has_record]
        # Under the same locks: a flow that is deleted at this moment waits, and a failure to load undoes the claim.
        record = _load_record(resumed) if resumed else {}
    claimed = {each.pk: each for each in (Claimed(*row) for row in taken)}
    for pk, (steps, journal) in record.items():
        claimed[pk].steps, claimed[pk].journal = steps, journal
    return [claimed[row.id] for row in candidates]


def _take(ids: list[UUID], owner: str, *, alone: bool) -> Iterable[tuple[Any, ...]]:
    """Make leases of queued rows that are locked: the values of `Claimed`, to be read once the claim is committed."""
    if connection.vendor == "postgresql":
        cursor = connection.cursor()
        cursor.execute(_TAKE, {"ids": ids, "owner": owner, "seconds": LEASE.total_seconds(), "alone": alone})
        return cursor
    rows = Execution.objects.filter(pk__in=ids)
    now = timezone.now()  # one file, one clock
    seconds = {
        pk: max(0.0, allowed - worked)
        for pk, allowed, worked in rows.values_list("pk", "seconds_allowed", "seconds_worked")
    }
    is_suspect = ExpressionWrapper(lanes.SUSPECT, BooleanField())
    deadlines = [When(pk=pk, then=Value(now + timedelta(seconds=left))) for pk, left in seconds.items()]
    rows.update(
        state=State.WORKING,
        fence=F("fence") + 1,
        lease_owner=owner,
        lease_until=now + LEASE,
        claimed_at=Coalesce(F("claimed_at"), Value(now)),
        due_at=None,
        deadline_at=Case(*deadlines, output_field=DateTimeField()),
        claim_alone=is_suspect if alone else F("claim_alone"),
        on_probation=is_suspect,
    )
    return list(rows.values_list(*_COLUMNS))


def let_others_in(claimed: Claimed) -> None:
    """Its probation is over: it has not taken its worker down. A later expiry of its lease puts it on a longer one.

    Conditional on the lease, as every write of a run is: a lease that has expired meanwhile stays on record as it was.
    """
    held = Execution.objects.filter(pk=claimed.pk, state=State.WORKING, fence=claimed.fence)
    held.filter(deadline_at=claimed.deadline_at).update(on_probation=False, claim_alone=False)


def _load_record(ids: list[UUID]) -> dict[UUID, tuple[list[Step], list[JournalEntry]]]:
    """The steps and the journal of each."""
    record: dict[UUID, tuple[list[Step], list[JournalEntry]]] = {pk: ([], []) for pk in ids}
    for step in Step.objects.filter(execution__in=ids).select_related("large_output").order_by("number"):
        record[step.execution_id][0].append(step)
    for entry in JournalEntry.objects.filter(execution__in=ids):
        record[entry.execution_id][1].append(entry)
    return record


@dataclass(frozen=True, slots=True)
class Holder:
    """How the keeper reaches one run: both are called from the keeper's thread, or from another run's."""

    lease: Lease
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
            before, self._held[execution_id] = self._held.get(execution_id), holder
        if before is not None:  # this worker's own, whose lease was lost
            before.lost()

    def release(self, execution_id: UUID, lease: Lease) -> None:
        """Let go of what was held under `lease`: this worker may have claimed the execution anew since."""
        with self._lock:
            if (holder := self._held.get(execution_id)) is not None and holder.lease == lease:
                del self._held[execution_id]

    def close(self) -> None:
        self._done.set()
        self.join()

    def run(self) -> None:
        renew_at = time.monotonic() + RENEW_EVERY_SECONDS
        while not self._done.wait(LOOK_EVERY_SECONDS):
            renewing = time.monotonic() >= renew_at
            try:
                self._look(renewing=renewing)
                if renewing:
                    renew_at = time.monotonic() + RENEW_EVERY_SECONDS
            except (DatabaseError, InterfaceError):
                # The database is away: a lease that runs out meanwhile may go to another, whose fence refuses us then.
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
            with transaction.atomic():
                # Locked in the order of their keys, as by who writes them: neither waits for the other in a circle.
                mine = rows.filter(lease_owner=self.owner).select_for_update(of=("self",)).order_by("pk")
                rows.filter(pk__in=list(mine.values_list("pk", flat=True))).update(lease_until=Now() + LEASE)
        columns = ("pk", "fence", "deadline_at", "cancel_requested_at", "cancel_reason")
        found = {
            pk: (Lease(fence, deadline_at), canceled, reason)
            for pk, fence, deadline_at, canceled, reason in rows.values_list(*columns)
        }
        for execution_id, holder in held.items():
            lease, canceled, reason = found.get(execution_id, (None, None, ""))
            if lease != holder.lease:
                holder.lost()
            elif canceled is not None:
                holder.cancel(reason)
