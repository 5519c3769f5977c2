"""Which due executions are next: by tier, round the tenants, round each tenant's flows, and within every cap.

A lane is what one flow has queued at one priority. A claim looks at the head of each lane, never at what stands behind
it, so a tenant with 50,000 queued costs it no more than a tenant with one.
"""

import heapq
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any, NamedTuple
from uuid import UUID

from django.conf import settings
from django.db import connection
from django.db.models import BooleanField, Count, ExpressionWrapper, Min, Q
from django.db.models.functions import Now

from accounts.models import User
from billing.services import concurrency_caps, priority_of_tier
from bloxserver.core import advisory
from executions.models import Execution, State

WAKE_BATCH = 1_000
# What may kill its worker waits for one that holds nothing: a short while when all that it held was put back and most is
# innocent, for longer when its last death points to it. Where all workers have something to do all the time it is
# claimed beside that, since to wait for ever would be worse.
PROBATION_PATIENCE = timedelta(seconds=5)
ALONE_PATIENCE = timedelta(minutes=2)
# `claim_alone` without the other: a clock of an older release has seen the expiry.
SUSPECT = Q(on_probation=True) | Q(claim_alone=True)


@dataclass(frozen=True, slots=True)
class Lane:
    priority: int
    user_id: UUID
    flow_id: UUID
    cap: int  # executions of this tenant at once
    is_ours: bool = True  # nobody else claims from this tenant's queue before this transaction ends


class Queued(NamedTuple):
    """What a claim has to know of an execution."""

    id: UUID
    priority: int
    user_id: UUID
    flow_id: UUID
    flow_limit: int | None
    due_at: datetime
    is_suspect: bool
    fence: int
    retry_of: UUID | None

    @property
    def has_record(self) -> bool:
        """Whether steps may be on record: it was claimed before, or retries another."""
        return self.fence > 0 or self.retry_of is not None


@dataclass
class Working:
    """How many executions hold a lease: counted from the rows, since no counter beside them could not be wrong."""

    by_user: Counter[UUID] = field(default_factory=Counter)
    by_flow: Counter[UUID] = field(default_factory=Counter)

    def add(self, user_id: UUID, flow_id: UUID, count: int = 1) -> None:
        self.by_user[user_id] += count
        self.by_flow[flow_id] += count


_WAKE = """
WITH due AS (
    SELECT id FROM executions_execution WHERE state = 'parked' AND due_at <= {now} ORDER BY due_at LIMIT %s {skip_locked}
) UPDATE executions_execution SET state = 'queued' WHERE id IN (SELECT id FROM due)
"""


def worker_priorities() -> list[int]:
    """The priorities that this worker claims; empty for all."""
    return [priority_of_tier(tier) for tier in settings.BLOX_WORKER_TIERS]


def wake_parked() -> None:
    """Queue the parked executions that have come due: from then on they count as every other queued one does.

    In the caller's transaction; the row locks and the condition on the state make it safe beside claims and wake-ups.
    """
    skip_locked = "FOR UPDATE SKIP LOCKED" if connection.vendor == "postgresql" else ""
    now = "statement_timestamp()" if connection.vendor == "postgresql" else "STRFTIME('%%Y-%%m-%%d %%H:%%M:%%f', 'NOW')"
    with connection.cursor() as cursor:
        cursor.execute(_WAKE.format(now=now, skip_locked=skip_locked), [WAKE_BATCH])


def anything_startable(priorities: Sequence[int] = ()) -> bool:
    """Whether a claim would find something now. What waits for a slot under its tenant's cap is not it."""
    if Execution.objects.filter(state=State.PARKED, due_at__lte=Now()).exists():
        return True
    return bool(next_lanes(limit=1, priorities=priorities))


def next_lanes(*, limit: int, priorities: Sequence[int], alone: bool = True, take_turns: bool = False) -> list[Lane]:
    """Up to `limit` lanes with something due and room under their caps, the next in turn first.

    Within a tier the tenant with the fewest leases is next, and a tenant's second lane comes after every tenant's first.
    Unless the worker is `alone`, a lane in which all is suspect, and has not waited for long, is none: it would keep back others.
    With `take_turns`, the tenants' turns to be claimed from are taken, of those whose nobody else has.
    """
    if connection.vendor == "postgresql":
        return _walk(limit, priorities, alone, take_turns)
    rows = Execution.objects.filter(Q() if alone else _let_in(), state=State.QUEUED, due_at__lte=Now())
    if priorities:
        rows = rows.filter(priority__in=priorities)
    heads = rows.order_by().values_list("priority", "user_id", "flow_id").annotate(Min("due_at"), Min("flow_limit"))
    return _in_turn(list(heads))[:limit]


def _in_turn(heads: list[tuple[int, UUID, UUID, datetime, int | None]]) -> list[Lane]:
    working = count_working({user for _, user, *_ in heads})
    tiers = dict(User.objects.filter(pk__in={user for _, user, *_ in heads}).values_list("pk", "tier"))
    caps = concurrency_caps()
    heads.sort(key=lambda head: (working.by_flow[head[2]], head[3]))
    seen: Counter[UUID] = Counter()
    turns = []
    for priority, user, flow, due_at, flow_limit in heads:
        cap = caps.of(user, tiers[user])
        if working.by_user[user] < cap and (flow_limit is None or working.by_flow[flow] < flow_limit):
            seen[user] += 1
            turns.append((priority, working.by_user[user] + seen[user], due_at, Lane(priority, user, flow, cap)))
    return [lane for *_, lane in sorted(turns, key=lambda turn: turn[:3])]


# What this worker may claim: anything if it holds nothing, otherwise what is no suspect, or has waited for long.
_LET_IN = """(
    %(alone)s OR NOT (on_probation OR claim_alone) OR due_at < statement_timestamp()
        - CASE WHEN claim_alone THEN %(alone_patience)s ELSE %(probation_patience)s END
)"""
_PATIENCE: dict[str, Any] = {"alone_patience": ALONE_PATIENCE, "probation_patience": PROBATION_PATIENCE}

# From each lane's head to the next lane's, by the index `execution_queue`: one short index scan a lane.
_WALK = f"""
WITH RECURSIVE head AS (
    (SELECT priority, user_id, flow_id, due_at, flow_limit FROM executions_execution
     WHERE state = 'queued' AND {_LET_IN} ORDER BY priority, user_id, flow_id, due_at LIMIT 1)
    UNION ALL
    SELECT following.* FROM head CROSS JOIN LATERAL (
        SELECT priority, user_id, flow_id, due_at, flow_limit FROM executions_execution
        WHERE state = 'queued' AND (priority, user_id, flow_id) > (head.priority, head.user_id, head.flow_id) AND {_LET_IN}
        ORDER BY priority, user_id, flow_id, due_at LIMIT 1
    ) following
), flow AS (
    SELECT user_id, flow_id, count(*) AS working FROM executions_execution
    WHERE state = 'working' GROUP BY user_id, flow_id
), tenant AS (
    SELECT user_id, sum(working) AS working FROM flow GROUP BY user_id
), tier AS (
    SELECT * FROM unnest(%(tiers)s::text[], %(caps)s::int[]) AS tier (name, cap)
), own AS (
    SELECT * FROM unnest(%(users)s::uuid[], %(own_caps)s::int[]) AS own (user_id, cap)
)
SELECT head.priority, head.user_id, head.flow_id, coalesce(own.cap, tier.cap)
FROM head
JOIN accounts_user ON accounts_user.id = head.user_id
JOIN tier ON tier.name = accounts_user.tier
LEFT JOIN own ON own.user_id = head.user_id
LEFT JOIN tenant ON tenant.user_id = head.user_id
LEFT JOIN flow ON flow.flow_id = head.flow_id
WHERE head.due_at <= statement_timestamp()
  AND (%(priorities)s::int[] = '{{}}' OR head.priority = ANY (%(priorities)s::int[]))
  AND coalesce(tenant.working, 0) < coalesce(own.cap, tier.cap)
  AND (head.flow_limit IS NULL OR coalesce(flow.working, 0) < head.flow_limit)
ORDER BY head.priority,
    coalesce(tenant.working, 0)
    + row_number() OVER (PARTITION BY head.user_id ORDER BY coalesce(flow.working, 0), head.due_at),
    head.due_at
LIMIT %(limit)s
"""  # noqa: S608 - of constants
_WALK_TAKING_TURNS = (
    f"SELECT lane.*, {advisory.trying(advisory.Turns.TENANT_CLAIMS, 'lane.user_id')} FROM ({_WALK}) AS lane"  # noqa: S608 - of constants
)


def _walk(limit: int, priorities: Sequence[int], alone: bool, take_turns: bool) -> list[Lane]:
    caps = concurrency_caps()
    with connection.cursor() as cursor:
        cursor.execute(
            _WALK_TAKING_TURNS if take_turns else _WALK,
            {
                "tiers": list(caps.by_tier),
                "caps": list(caps.by_tier.values()),
                "users": list(caps.by_user),
                "own_caps": list(caps.by_user.values()),
                "priorities": list(priorities),
                "limit": limit,
                "alone": alone,
                **_PATIENCE,
            },
        )
        return [Lane(*row) for row in cursor.fetchall()]


_COUNT = """
SELECT user_id, flow_id, count(*) FROM executions_execution
WHERE state = 'working' AND user_id = ANY (%s) GROUP BY user_id, flow_id
"""


def count_working(users: Collection[UUID]) -> Working:
    rows = Execution.objects.filter(state=State.WORKING, user__in=users).order_by()
    return _sum(rows.values_list("user_id", "flow_id").annotate(Count("pk")))


def _sum(counts: Iterable[tuple[UUID, UUID, int]]) -> Working:
    working = Working()
    for user_id, flow_id, count in counts:
        working.add(user_id, flow_id, count)
    return working


# The first rows of each lane, locked; a row that someone else has locked (a cancellation, say) is left for later.
_HEADS = f"""
SELECT first.* FROM unnest(%(priorities)s::int[], %(users)s::uuid[], %(flows)s::uuid[], %(shares)s::int[])
    AS lane (priority, user_id, flow_id, share)
CROSS JOIN LATERAL (
    SELECT id, priority, user_id, flow_id, flow_limit, due_at, on_probation OR claim_alone, fence, retry_of
    FROM executions_execution
    WHERE state = 'queued' AND priority = lane.priority AND user_id = lane.user_id AND flow_id = lane.flow_id
        AND due_at <= statement_timestamp() AND {_LET_IN}
    ORDER BY due_at LIMIT lane.share FOR UPDATE SKIP LOCKED
) first
"""  # noqa: S608 - of constants


def look_into(lanes: Sequence[Lane], *, limit: int, alone: bool) -> tuple[Working, list[Queued]]:
    """What their tenants have leases for, and the first executions of each lane, locked: no more in all than a few times
    `limit`. Suspects are among them where the worker is `alone`, that is, holds nothing, or when they have waited for long.

    To be called when the tenants' turns have been taken, so that it sees every lease that anyone has.
    """
    at_priority = Counter(lane.priority for lane in lanes)
    shares = [-(-limit // at_priority[lane.priority]) for lane in lanes]
    users = [lane.user_id for lane in lanes]
    if connection.vendor == "postgresql":
        parameters: dict[str, Any] = {
            "priorities": [lane.priority for lane in lanes],
            "users": users,
            "flows": [lane.flow_id for lane in lanes],
            "shares": shares,
            "alone": alone,
            **_PATIENCE,
        }
        with connection.cursor() as counts, connection.cursor() as heads:
            counts.execute(_COUNT, [list(set(users))])
            heads.execute(_HEADS, parameters)
            return _sum(counts.fetchall()), [Queued(*row) for row in heads.fetchall()]
    working = count_working(users)
    rows: list[Queued] = []
    for lane, share in zip(lanes, shares, strict=True):
        queued = Execution.objects.annotate(is_suspect=ExpressionWrapper(SUSPECT, BooleanField())).filter(
            Q() if alone else _let_in(),
            state=State.QUEUED,
            priority=lane.priority,
            user=lane.user_id,
            flow=lane.flow_id,
            due_at__lte=Now(),
        )
        rows += (Queued(*row) for row in queued.order_by("due_at").values_list(*Queued._fields)[:share])
    return working, rows


def _let_in() -> Q:
    """What may be claimed beside others, as `_LET_IN`."""
    waited = Q(claim_alone=False, due_at__lt=Now() - PROBATION_PATIENCE) | Q(due_at__lt=Now() - ALONE_PATIENCE)
    return ~SUSPECT | waited


def choose(rows: Iterable[Queued], *, caps: dict[UUID, int], working: Working, limit: int) -> list[Queued]:
    """Up to `limit` of `rows`, in turn and within the caps; `working` grows by what is chosen.

    A lane's rows go in the order in which they came due; one that its flow's limit stops keeps those behind it waiting.
    """
    lanes: dict[tuple[int, UUID], list[Queued]] = {}
    for row in sorted(rows, key=attrgetter("due_at"), reverse=True):
        lanes.setdefault((row.priority, row.flow_id), []).append(row)

    def turn(lane: list[Queued]) -> tuple[int, int, int, datetime]:
        head = lane[-1]
        return head.priority, working.by_user[head.user_id], working.by_flow[head.flow_id], head.due_at

    heads = [(turn(lane), number) for number, lane in enumerate(lanes.values())]
    by_number = list(lanes.values())
    heapq.heapify(heads)
    chosen: list[Queued] = []
    while heads and len(chosen) < limit:
        was, number = heapq.heappop(heads)
        lane = by_number[number]
        if was != (now := turn(lane)):  # another lane of this tenant has had a turn meanwhile
            heapq.heappush(heads, (now, number))
            continue
        head = lane[-1]
        if working.by_user[head.user_id] >= caps[head.user_id]:
            continue
        if head.flow_limit is not None and working.by_flow[head.flow_id] >= head.flow_limit:
            continue
        chosen.append(lane.pop())
        working.add(head.user_id, head.flow_id)
        if lane:
            heapq.heappush(heads, (turn(lane), number))
    return chosen
