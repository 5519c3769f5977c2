"""How many runs over the included limit each period of a subscription has, written down before Stripe is told.

A period's rows add up to what it has been found to be over by. Whoever counts knows executions, so it stands above this
app; whoever sends is `billing.stripe.metering`.
"""

from collections.abc import Callable
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Count, Sum

from accounts.models import User
from billing.models import OverageReport, SubscriptionPeriod
from billing.periods import SETTLED_AFTER, most_runs
from billing.services import limits_of, limits_on
from billing.tiers import TIERS

EVERY = timedelta(hours=1)
BEFORE_END = timedelta(minutes=10)  # the clock looks every five, and the rows are sent within moments
RETRY_AFTER = timedelta(minutes=10)  # a count that broke off


def claim_period(*, now: datetime) -> SubscriptionPeriod | None:
    """One that is due to be counted, with its user, put off for a moment: the row lock lets one of two claimers have it,
    and whoever dies now leaves it due again later."""
    with transaction.atomic():
        due = SubscriptionPeriod.objects.due(now).order_by("count_due_at").select_related("user")
        period = due.select_for_update(skip_locked=True, of=("self",)).first()
        if period is not None:
            SubscriptionPeriod.objects.filter(pk=period.pk).update(count_due_at=now + RETRY_AFTER)
    return period


def entitled_runs(user: User, tier: str, *, now: datetime) -> int | None:
    """What a subscription to `tier` includes now, or what an operator has set; where the user is on a higher tier by now,
    what that brings. None: all."""
    paid_for = limits_on(tier, user_id=user.pk, now=now).runs_per_month
    return most_runs(paid_for, limits_of(user, now=now).runs_per_month)


def note_runs(period: SubscriptionPeriod, *, count: Callable[[], int], now: datetime) -> OverageReport | None:
    """Write down what the period's runs are over the limit and what has not been written down before. `count` says how many
    they are, and is not asked where none can be over.

    The period's row lock gives each count the sum of those before it; a count that is older than the last adds nothing.
    """
    runs = count() if _limit(period) is not None else 0  # before the lock: on SQLite it would hold up others
    with transaction.atomic():
        row = SubscriptionPeriod.objects.select_for_update(of=("self",)).get(pk=period.pk)
        # After the count: what has come to be included meanwhile may have let in some of these runs.
        row.included_runs = most_runs(row.included_runs, entitled_runs(row.user, row.tier, now=now))
        limit = _limit(row)
        over = 0 if limit is None else max(0, runs - limit)
        ledger = OverageReport.objects.filter(user=period.user, period_start=row.starts_at)
        told = ledger.aggregate(runs=Sum("value", default=0), rows=Count("pk"))
        row.count_due_at = _next_count(row, now)
        row.save(update_fields=["count_due_at", "included_runs"])
        if over <= told["runs"]:
            return None
        sequence = told["rows"] + 1
        return OverageReport.objects.create(
            user=period.user,
            period_start=row.starts_at,
            sequence=sequence,
            value=over - told["runs"],
            identifier=f"blox-overage-{row.pk}-{sequence}",
            used_at=min(now, row.ends_at - timedelta(seconds=1)),
            created_at=now,
            due_at=now,
        )


def _limit(period: SubscriptionPeriod) -> int | None:
    """The most runs that have been included at any time of the period; None: all, also where the tier sells no overage."""
    return period.included_runs if TIERS[period.tier].overage_price else None


def _next_count(period: SubscriptionPeriod, now: datetime) -> datetime | None:
    """None once it has been counted after its end. Also shortly before: where the subscription ends too, the last invoice
    may be made at that moment."""
    before, last = period.ends_at - BEFORE_END, period.ends_at + SETTLED_AFTER
    if now >= last:
        return None
    return min(now + EVERY, last if now >= before else before)
