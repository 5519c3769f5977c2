"""What calls under way may still cost, set aside so that calls beside each other cannot pass a budget."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from decimal import ROUND_FLOOR, Decimal
from uuid import UUID

from django.db import transaction

from billing.errors import BudgetExceeded
from billing.metering import refusals
from billing.metering.calls import SMALLEST, ZERO, Ask, Reservation, dollars
from billing.metering.periods import lock_periods, mark_refusal, save
from billing.models import Budget, BudgetPeriod, BudgetReservation
from billing.months import month_of

LEAST_ANSWER_TOKENS = 100  # an answer that is cut off sooner is worth less than the refusal that it replaces
BATCH = 500  # periods of one sweep


def reserve_llm(
    *,
    call_id: UUID,
    user_id: UUID,
    flow_id: UUID | None,
    tokens: int,
    cost: Decimal | None,
    now: datetime,
    lease: timedelta,
    tokens_out: int = 0,
    cost_out: Decimal = ZERO,
) -> Reservation | None:
    """Set aside what a call may come to at most, on each budget that it counts on; None where there is none.

    `tokens` are in and out together, `cost` in US dollars (None: the price is not known); `tokens_out` and `cost_out` are
    the answer's part of them. Where the whole does not fit and an answer of `LEAST_ANSWER_TOKENS` or more does, that is
    reserved, and `max_tokens_out` of what is given says to what the answer must be bounded. `lease` is how long the call
    may take: what nobody has settled or released by then counts as spent. Every attempt takes a `call_id` of its own, so
    that what a lost one may have cost is not forgotten.

    Raises `BudgetExceeded` when spent, reserved and this would pass 100 %, or when a budget limits dollars alone and the
    price is not known. Not for use inside a transaction, which would take the note of the refusal back with it.

    Safe under concurrency by the locks of the month's rows, taken in the order of their keys.
    """
    budgets = list(Budget.objects.applying_to(user_id=user_id, flow_id=flow_id).values_list("pk", flat=True))
    if not budgets:
        return None
    ask = Ask(
        tokens=tokens,
        cost=None if cost is None else dollars(cost),
        tokens_out=tokens_out,
        cost_out=dollars(cost_out),
    )
    with transaction.atomic():
        periods = lock_periods(budgets, month_of(now))
        refusal = _refusal(periods, ask, now=now)
        if refusal is None:
            fitting = ask.bounded(min((_room_for_answer(period, ask) for period in periods), default=tokens_out))
            _set_aside(periods, fitting, call_id=call_id, expires_at=now + lease, now=now)
    if refusal is not None:
        raise refusal
    return Reservation(call_id, fitting.tokens, fitting.cost, None if fitting is ask else fitting.tokens_out)


def _refusal(periods: Sequence[BudgetPeriod], ask: Ask, *, now: datetime) -> BudgetExceeded | None:
    """Of several, one that no waiting for calls under way would lift."""
    found = [refusal for period in periods if (refusal := _refusal_by(period, ask, now=now))]
    return min(found, key=lambda refusal: refusal.temporary, default=None)


def _refusal_by(period: BudgetPeriod, ask: Ask, *, now: datetime) -> BudgetExceeded | None:
    if ask.cost is None and period.budget.monthly_tokens is None:
        return refusals.price_unknown(period)
    least = min(LEAST_ANSWER_TOKENS, ask.tokens_out)
    if _room_for_answer(period, ask) >= least:
        return None
    temporary = _room_for_answer(period, ask, beside_reserved=False) >= least
    if not temporary:
        mark_refusal(period, now=now)
    return refusals.used_up(period, ask, temporary=temporary)


def _room_for_answer(period: BudgetPeriod, ask: Ask, *, beside_reserved: bool = True) -> int:
    """The longest answer, in tokens, that the budget leaves room for, up to `ask.tokens_out`; -1: not even the question."""
    budget, room = period.budget, ask.tokens_out
    if budget.monthly_tokens is not None:
        reserved = period.reserved_tokens if beside_reserved else 0
        room = min(room, budget.monthly_tokens - period.spent_tokens - reserved - (ask.tokens - ask.tokens_out))
    if budget.monthly_cost is not None and ask.cost is not None:
        reserved_cost = period.reserved_cost if beside_reserved else ZERO
        left = budget.monthly_cost - period.spent_cost - reserved_cost
        room = min(room, _affordable(ask, ask.cost, left))
    return max(room, -1)


def _affordable(ask: Ask, cost: Decimal, left: Decimal) -> int:
    if cost <= left:
        return ask.tokens_out
    if not ask.cost_out or not ask.tokens_out:
        return -1
    # Less the smallest sum: what the bounded answer costs is rounded up.
    tokens = (left - SMALLEST - (cost - ask.cost_out)) * ask.tokens_out / ask.cost_out
    return int(tokens.to_integral_value(ROUND_FLOOR))


def _set_aside(
    periods: Sequence[BudgetPeriod], ask: Ask, *, call_id: UUID, expires_at: datetime, now: datetime
) -> None:
    for period in periods:
        period.reserved_cost += ask.cost or ZERO
        period.reserved_tokens += ask.tokens
    BudgetReservation.objects.bulk_create(
        BudgetReservation(period=period, call_id=call_id, cost=ask.cost, tokens=ask.tokens, expires_at=expires_at)
        for period in periods
    )
    save(periods, now=now)


def release_llm(*, call_id: UUID, now: datetime) -> None:
    """Give back what was reserved for a call that surely was not charged; nothing where nothing is reserved.

    Safe to repeat and under concurrency by the locks of the reservations' periods.
    """
    with transaction.atomic():
        periods = lock_reserved([call_id])
        for reservation in take_reservations(periods, [call_id]):
            take_back(periods[reservation.period_id], reservation)
        save(periods.values(), now=now)


def lapse_expired(*, now: datetime) -> int:
    """Count as spent what expired with nobody saying what came of the call: the provider may have charged. How many.

    Any number may do so at once, and beside late answers: a reservation changes under its period's lock alone.
    """
    lapsed = []
    with transaction.atomic():
        expired = BudgetReservation.objects.expired(now)
        rows = BudgetPeriod.objects.filter(pk__in=expired.values("period")).locked(skip_locked=True)
        periods = {period.pk: period for period in rows[:BATCH]}
        for reservation in expired.filter(period__in=periods) if periods else ():
            period = periods[reservation.period_id]
            take_back(period, reservation)
            period.spent_cost += reservation.cost or ZERO
            period.spent_tokens += reservation.tokens
            period.unpriced_calls += reservation.cost is None
            lapsed.append(reservation.pk)
        save(periods.values(), now=now)
        BudgetReservation.objects.filter(pk__in=lapsed).update(lapsed=True)
    return len(lapsed)


def lock_reserved(call_ids: Sequence[UUID]) -> dict[UUID, BudgetPeriod]:
    """The periods on which these calls have reservations, by id, locked until the caller's commit."""
    reserved = BudgetReservation.objects.filter(call_id__in=call_ids).values("period")
    return {period.pk: period for period in BudgetPeriod.objects.filter(pk__in=reserved).locked()}


def take_reservations(periods: Mapping[UUID, BudgetPeriod], call_ids: Sequence[UUID]) -> list[BudgetReservation]:
    """Take the calls' reservations, as they are now that their periods are locked, out of the table."""
    if not periods:
        return []
    rows = list(BudgetReservation.objects.filter(call_id__in=call_ids, period__in=periods))
    BudgetReservation.objects.filter(pk__in=[row.pk for row in rows]).delete()
    return rows


def take_back(period: BudgetPeriod, reservation: BudgetReservation) -> None:
    """Out of what is reserved on a locked period, or out of what is spent where it has lapsed."""
    cost = reservation.cost or ZERO
    if reservation.lapsed:
        period.spent_cost -= cost
        period.spent_tokens -= reservation.tokens
        period.unpriced_calls -= reservation.cost is None
    else:
        period.reserved_cost -= cost
        period.reserved_tokens -= reservation.tokens
