"""The ledger of deliveries: what was refused or repeated is written down, and can be replayed.

(What is accepted is written with its execution, by `triggers.services.webhooks`.) Whoever has a webhook's URL can call
it as often as he likes, so the ledger is bounded for each trigger: so many rows a minute, beyond which one row counts
what is alike, and so many bytes of requests kept for a replay.
"""

import logging
import threading
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from math import ceil
from typing import TypeAlias
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models import F

from bloxserver.api.throttling import limiter
from bloxserver.core import json_text
from bloxserver.core.errors import NotFound
from executions.models import Execution
from executions.services import accept
from flows.services import share_flows
from triggers.errors import NotReplayable, TriggerDisabled
from triggers.models import Delivery, Trigger, Verdict
from triggers.services.webhooks import Arrival, Call, Origin, fingerprint_of, key_of, webhook_firing

logger = logging.getLogger(__name__)

ROWS_A_MINUTE = 60  # of a trigger, each for one call that was refused or repeated
KEPT_KIB_A_MINUTE = 2048  # of requests kept for a replay, for each trigger
RELEASE_BATCH = 1000
FLOOD_ROUNDS = 50

VERDICTS = {
    "not_found": Verdict.DISABLED,
    "flow_not_running": Verdict.FLOW_STOPPED,
    "usage_limit_exceeded": Verdict.OVER_LIMIT,
    "rate_limit_exceeded": Verdict.THROTTLED,
    "concurrency_limit": Verdict.THROTTLED,  # the flow's own, no quota: nothing is used up
    "bad_signature": Verdict.BAD_SIGNATURE,
    "idempotency_key_reused": Verdict.KEY_REUSED,
    "payload_too_large": Verdict.TOO_LARGE,
    "method_not_allowed": Verdict.METHOD_NOT_ALLOWED,
    "invalid_trigger_config": Verdict.FAILED,
}
# Refused for what can change. The others would be refused again, or are not to be trusted.
KEPT = frozenset({Verdict.FLOW_STOPPED, Verdict.DISABLED, Verdict.OVER_LIMIT, Verdict.THROTTLED, Verdict.FAILED})
WHY_NOT = {
    Verdict.DUPLICATE: "It repeated a delivery that had been accepted.",
    Verdict.BAD_SIGNATURE: "Nobody knows who sent it: its signature was not good.",
    Verdict.KEY_REUSED: "Its idempotency key belongs to another delivery.",
    Verdict.TOO_LARGE: "Its body was too large to be read.",
    Verdict.INVALID: "It could not be read as a payload.",
    Verdict.METHOD_NOT_ALLOWED: "The webhook does not take its method.",
}

Group: TypeAlias = tuple[UUID, datetime, Verdict, str]  # trigger, minute, verdict, code


def record_refusal(
    *,
    trigger: Trigger,
    origin: Origin,
    status: int,
    code: str,
    reason: str,
    read: Callable[[], Call],
    now: datetime,
) -> None:
    """Write down a refused call, as well as that can be done: it never raises.

    `read` gives the call for a replay, or raises what it likes where it cannot be read or trusted.
    """
    verdict = VERDICTS.get(code, Verdict.FAILED if status >= 500 else Verdict.INVALID)
    row = _row(trigger, origin, verdict, now, code=code[:64], reason=json_text.clean(reason)[:500])
    _record(row, read if verdict in KEPT else None)


def record_duplicate(arrival: Arrival, *, execution_id: UUID) -> None:
    """Write down a call that was answered with an earlier one's execution; it never raises."""
    origin, now = arrival.call.origin, arrival.now
    row = _row(arrival.trigger, origin, Verdict.DUPLICATE, now, execution_id=execution_id, key=arrival.key)
    _record(row, None)


def replay_delivery(*, delivery: Delivery, now: datetime) -> Execution:
    """Accept a refused delivery after all, as a call of its trigger as that is now; once.

    Raises `NotReplayable` and `TriggerDisabled` (409), `NotFound`, and what acceptance raises (402, 409).
    The locks are the flow's, then the delivery's, as when a trigger is deleted. If its key has come again meanwhile,
    the constraint on receipts says so.
    """
    trigger = delivery.trigger
    try:
        with transaction.atomic():
            share_flows([trigger.flow])
            row = Delivery.objects.select_for_update(of=("self",), no_key=True).filter(pk=delivery.pk).first()
            if row is None:
                raise NotFound("Not found.")
            _require_replayable(row)
            if not trigger.enabled:
                raise TriggerDisabled(f'The trigger "{trigger.name}" is disabled; enable it first.')
            firing = webhook_firing(trigger, now=now, method=row.method, **json_text.loads(row.request))
            execution = accept(firing, now=now)
            row.execution_id, row.replayed_at = execution.pk, now
            row.save(update_fields=["execution_id", "replayed_at"])
            return execution
    except IntegrityError as error:
        raise NotReplayable("Its sender has sent it again since, and that delivery was accepted.") from error


def release_deliveries(*, now: datetime) -> int:
    """Let go of the keys and requests of deliveries that are over 72 hours old, up to a thousand; how many there were.

    The rows stay, as long as the tier keeps history.
    """
    ids = list(Delivery.objects.expired(now).values_list("pk", flat=True)[:RELEASE_BATCH])
    if ids:
        Delivery.objects.filter(pk__in=ids).update(held=False, request="")
    return len(ids)


def _require_replayable(row: Delivery) -> None:
    if row.replayable:
        return
    details = {"executionId": str(row.execution_id)} if row.execution_id else None
    if row.replayed_at is not None:
        raise NotReplayable("It has been replayed already; retry that execution instead.", details=details)
    if row.verdict == Verdict.ACCEPTED:
        raise NotReplayable("It was accepted; retry its execution instead.", details=details)
    if row.times > 1 or row.minute is not None:
        raise NotReplayable("The row stands for many calls, whose contents are not kept.")
    why = WHY_NOT.get(Verdict(row.verdict), "What it sent is not kept, or no longer: that is for 72 hours at most.")
    raise NotReplayable(f"It cannot be replayed. {why}", details=details)


def _row(trigger: Trigger, origin: Origin, verdict: Verdict, now: datetime, **fields: object) -> Delivery:
    method = json_text.clean(origin.method)[:16]
    return Delivery(
        trigger=trigger,
        received_at=now,
        verdict=verdict,
        address=origin.address,
        method=method,
        size=origin.size,
        **fields,
    )


def _record(row: Delivery, read: Callable[[], Call] | None) -> None:
    try:
        if not limiter().hit(f"delivery/{row.trigger_id}", per_minute=ROWS_A_MINUTE).allowed:
            _flood.add(row)
            return
        if read is not None:
            _keep(row, read)
        row.save(force_insert=True)
    except Exception:  # the caller has his answer, and it is no worse for this
        logger.exception("A delivery of the webhook %s is not on record.", row.trigger_id)


def _keep(row: Delivery, read: Callable[[], Call]) -> None:
    try:
        call = read()
        row.key = key_of(call)
    except Exception as error:  # it was refused before it had been read, and reading it fails in whatever way
        logger.info("A delivery of the webhook %s cannot be kept for a replay: %s", row.trigger_id, error)
        return
    request = json_text.dumps({"headers": dict(call.headers), "query": dict(call.query), "payload": call.payload})
    cost = ceil(len(request.encode()) / 1024)
    if limiter().hit(f"delivery-kept/{row.trigger_id}", per_minute=KEPT_KIB_A_MINUTE, cost=cost).allowed:
        row.request, row.held = request, True
        row.fingerprint = fingerprint_of(call) if row.key else ""


class _Flood:
    """Counts calls that get no row of their own into one row for all that are alike.

    In each process one call at a time writes such a row, with all that came while the one before was writing, so that
    a flood neither queues for the row's lock nor costs a write a call.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pending: Counter[Group] = Counter()
        self._writing: set[Group] = set()

    def add(self, row: Delivery) -> None:
        row.minute = row.received_at.replace(second=0, microsecond=0)
        row.key, row.execution_id, row.times = None, None, 0
        group = (row.trigger_id, row.minute, Verdict(row.verdict), row.code)
        with self._lock:
            self._pending[group] += 1
            if group in self._writing:
                return
            self._writing.add(group)
        for _ in range(FLOOD_ROUNDS):  # what then is left, the next call takes
            if not self._write(row, group):
                return
        with self._lock:
            self._writing.discard(group)

    def _write(self, row: Delivery, group: Group) -> bool:
        """Write what is pending; False, and somebody else may write, when that is nothing."""
        with self._lock:
            count = self._pending.pop(group, 0)
            if not count:
                self._writing.discard(group)
                return False
        try:
            _add_to_row(row, group, count)
        except BaseException:
            with self._lock:
                self._pending[group] += count
                self._writing.discard(group)
            raise
        return True


def _add_to_row(row: Delivery, group: Group, count: int) -> None:
    trigger_id, minute, verdict, code = group
    rows = Delivery.objects.filter(trigger_id=trigger_id, minute=minute, verdict=verdict, code=code)
    if not rows.update(times=F("times") + count):
        Delivery.objects.bulk_create([row], ignore_conflicts=True)  # with a count of zero: another may come first
        rows.update(times=F("times") + count)


_flood = _Flood()
