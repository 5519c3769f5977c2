"""What calls came to, counted once: in the usage of their day, and on the budgets on which they were reserved."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

from django.db import connection, transaction

from billing.metering.calls import ZERO, MeteredCall, Passed, dollars
from billing.metering.periods import save
from billing.metering.reservations import lock_reserved, take_back, take_reservations
from billing.models import BudgetPeriod, LlmUsage, SettledCall
from billing.models.usage import NO_FLOW
from bloxserver.core import bulk, json_text

ROW_OF = ("user", "day", "flow_id", "model", "provider", "own_key")
ADDED = ("calls", "cached_calls", "unpriced_calls", "tokens_in", "tokens_out", "cost")


def settle_all(*, calls: Iterable[MeteredCall], now: datetime) -> list[Passed]:
    """Count what `calls` came to, in the caller's transaction: the one that puts their answers on record. The budgets of
    which 80 or 100 % are spent now; their owners are told by mail after the commit, by the clock.

    A call that was settled before is passed over: `SettledCall`'s primary key lets one of two insert it, and the other
    waits for that one's commit. An answer whose price is not known counts on a budget with what was reserved for it.

    Calls that are settled in one transaction should be so in one call of this: usage and budgets are then locked in
    one order, and no two transactions wait for each other.
    """
    with transaction.atomic(savepoint=False):
        first_time = _not_yet_settled({call.call_id: call for call in calls}, now=now)
        if not first_time:
            return []
        bulk.upsert(_usage_of(first_time, now=now), unique=ROW_OF, add=ADDED)
        return _spend({call.call_id: call for call in first_time}, now=now)


def _not_yet_settled(calls: Mapping[UUID, MeteredCall], *, now: datetime) -> list[MeteredCall]:
    """Put them on the list of settled calls, and give those that were not on it."""
    if not calls:
        return []
    call_field, moment_field = SettledCall._meta.concrete_fields
    moment = moment_field.get_db_prep_save(now, connection)
    rows = [(call_field.get_db_prep_save(call_id, connection), moment) for call_id in sorted(calls)]
    table = connection.ops.quote_name(SettledCall._meta.db_table)
    with connection.cursor() as cursor:  # Django's own insert does not tell which rows conflicted
        cursor.execute(
            f"INSERT INTO {table} (call_id, settled_at) VALUES {', '.join(['(%s, %s)'] * len(rows))} "  # noqa: S608
            "ON CONFLICT DO NOTHING RETURNING call_id",
            [value for row in rows for value in row],
        )
        inserted = {call_field.to_python(call_id) for (call_id,) in cursor.fetchall()}
    return [call for call_id, call in calls.items() if call_id in inserted]


def _usage_of(calls: Sequence[MeteredCall], *, now: datetime) -> list[LlmUsage]:
    """A row for each day's row that they add to, in one order for all."""
    rows: dict[tuple[str, ...], LlmUsage] = {}
    day = now.astimezone(UTC).date()
    for call in calls:
        model, provider = (json_text.clean(text)[:length] for text, length in ((call.model, 200), (call.provider, 100)))
        key = (str(call.user_id), str(call.flow_id or NO_FLOW), model, provider, str(call.own_key))
        row = rows.setdefault(
            key,
            LlmUsage(
                user_id=call.user_id,
                day=day,
                flow_id=call.flow_id or NO_FLOW,
                model=model,
                provider=provider,
                own_key=call.own_key,
                cost=ZERO,
            ),
        )
        _add(row, call)
    return [rows[key] for key in sorted(rows)]


def _add(row: LlmUsage, call: MeteredCall) -> None:
    row.calls += 1
    if call.cached:
        row.cached_calls += 1
        return
    row.tokens_in += call.tokens_in
    row.tokens_out += call.tokens_out
    if call.cost is None:
        row.unpriced_calls += 1
    else:
        row.cost += dollars(call.cost)


def _spend(calls: Mapping[UUID, MeteredCall], *, now: datetime) -> list[Passed]:
    """On the budgets that were there when the calls began, and in the month in which they began."""
    periods = lock_reserved(list(calls))
    for reservation in take_reservations(periods, list(calls)):
        period, call = periods[reservation.period_id], calls[reservation.call_id]
        take_back(period, reservation)
        if not call.cached:
            _count(period, call, reserved=reservation.cost)
    return save(periods.values(), now=now)


def _count(period: BudgetPeriod, call: MeteredCall, *, reserved: Decimal | None) -> None:
    period.spent_tokens += call.tokens_in + call.tokens_out + call.lost_tokens
    period.spent_cost += dollars(call.lost_cost)
    cost = reserved if call.cost is None else dollars(call.cost)
    if cost is None:
        period.unpriced_calls += 1
    else:
        period.spent_cost += cost
