"""Bringing what is known here of a customer to what Stripe says, whoever asks, in whatever order.

A sync takes a ticket, asks Stripe, and writes what it read unless a later ticket's has been written. Whatever changes at
Stripe sends an event, and its sync takes a ticket after the change: so what the last ticket reads has seen every change,
and no older read undoes it. Nothing is locked while Stripe is asked.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from datetime import datetime, timedelta
from typing import TypeAlias

from django.db import transaction
from django.db.models import F

from accounts.models import User
from accounts.services import set_tier
from billing.entitlements import best_tier, rank
from billing.models import MailKind, StripeCustomer, Subscription, SubscriptionStatus
from billing.models.stripe import ENDED
from billing.notices import note_mail, note_mail_of_downgrade
from billing.overage import entitled_runs
from billing.periods import keep_period
from billing.stripe.missed import missed_periods
from billing.stripe.reading import CustomerRead, SubscriptionRead, read_customer

logger = logging.getLogger(__name__)

Missed: TypeAlias = Mapping[str, Sequence[tuple[datetime, datetime]]]  # by Stripe's id of the subscription

READ_AFTER = timedelta(days=1)  # an event may be lost
EVENT_LATE = timedelta(hours=1)  # after a moment at which something was to happen
GRACE = timedelta(days=1)  # a wrong key that somebody has set and takes back takes nobody's tier


def sync(customer: StripeCustomer, *, now: datetime, grace: timedelta = GRACE) -> CustomerRead:
    """Read the customer at Stripe and bring rows, tier and periods to it; what was read. Raises the SDK's errors.

    A customer that is missing there is noted. When it has been so for `grace`, and is at another read, its subscriptions end.
    """
    ticket = _take_ticket(customer)
    read = read_customer(customer.stripe_id)
    missed = {each.stripe_id: missed_periods(customer.user_id, each) for each in read.subscriptions}
    apply(customer, ticket=ticket, read=read, missed=missed, now=now, grace=grace)
    return read


def _take_ticket(customer: StripeCustomer) -> int:
    """Later callers get greater ones: the UPDATE's row lock makes them queue."""
    with transaction.atomic():
        StripeCustomer.objects.filter(pk=customer.pk).update(ticket=F("ticket") + 1)
        return StripeCustomer.objects.values_list("ticket", flat=True).get(pk=customer.pk)


def apply(
    customer: StripeCustomer,
    *,
    ticket: int,
    read: CustomerRead,
    missed: Missed,
    now: datetime,
    grace: timedelta = GRACE,
) -> bool:
    """Write what was read under `ticket`, with the periods that were missed; False, and no change, when a later read has been
    written or the account is closed. The locks of user and customer, in this order, make one of several at a time write."""
    with transaction.atomic():
        user = User.objects.select_for_update(of=("self",), no_key=True).get(pk=customer.user_id)
        row = StripeCustomer.objects.select_for_update(of=("self",)).get(pk=customer.pk)
        if row.applied_ticket >= ticket:
            return False
        if user.deleted_at is not None:
            StripeCustomer.objects.filter(pk=row.pk).update(resync_due_at=None)
            return False
        may_come_back = read.missing and (row.missing_since is None or now < row.missing_since + grace)
        row.missing_since = (row.missing_since or now) if read.missing else None
        if read.missing:
            _warn_of_missing(row, may_come_back)
        if not may_come_back:
            _bring(user, read, missed, key=f"{row.stripe_id}:{ticket}", now=now)
            row.email = read.email
        row.applied_ticket, row.synced_at = ticket, now
        row.resync_due_at = _next_read(Subscription.objects.for_user(user).live(), now)
        row.save(update_fields=["email", "missing_since", "applied_ticket", "synced_at", "resync_due_at"])
    return True


def end_here(user: User, *, now: datetime) -> None:
    """The subscriptions of an account that is closed have been ended at Stripe, whose events nobody listens to any more."""
    with transaction.atomic():
        user = User.objects.select_for_update(of=("self",), no_key=True).get(pk=user.pk)
        for row in Subscription.objects.for_user(user).live():
            _write(user, row, _ended(row, now), now=now)


def _warn_of_missing(row: StripeCustomer, may_come_back: bool) -> None:
    logger.warning(
        "stripe customer=%s is not known at Stripe, since %s: %s (is STRIPE_API_KEY of another account?)",
        row.stripe_id,
        text(row.missing_since),
        "its subscriptions stay as they are for now" if may_come_back else "its subscriptions end",
    )


def _bring(user: User, read: CustomerRead, missed: Missed, *, key: str, now: datetime) -> None:
    """Rows, periods and tier, to what was read; what Stripe lists no more has ended."""
    known = {subscription.stripe_id: subscription for subscription in Subscription.objects.for_user(user)}
    said = [_with_tier(subscription, known.get(subscription.stripe_id)) for subscription in read.subscriptions]
    if read.complete:
        listed = {subscription.stripe_id for subscription in said}
        said += [_ended(row, now) for row in known.values() if row.stripe_id not in listed and row.status not in ENDED]
    for subscription in sorted(said, key=lambda each: each.created_at):
        before = known.get(subscription.stripe_id)
        _keep_missed(user, before, subscription, missed.get(subscription.stripe_id, []), now=now)
        _write(user, before, subscription, now=now)
    _move_tier(user, was=best_tier(known.values()), subscriptions=said, key=key, now=now)


def _ended(row: Subscription, now: datetime) -> SubscriptionRead:
    """The row, as Stripe would tell of it if it had ended now."""
    known = SubscriptionRead(**{field.name: getattr(row, field.name) for field in fields(SubscriptionRead)})
    return replace(known, status=SubscriptionStatus.CANCELED, ended_at=now, cancel_at=None, pending_tier="")


def _next_read(live: Iterable[Subscription], now: datetime) -> datetime | None:
    """In a day, or when the event of a moment that should change a subscription is late; None where none lives."""
    moments = [(each.period_end, each.cancel_at, each.trial_ends_at) for each in live]
    if not moments:
        return None
    late = (moment + EVENT_LATE for of_one in moments for moment in of_one if moment is not None)
    return min([now + READ_AFTER, *(moment for moment in late if moment > now)])


def _with_tier(read: SubscriptionRead, known: Subscription | None) -> SubscriptionRead:
    """One whose price nobody here knows keeps the tier that it brought last: who pays is not to lose it by a mistake."""
    if not read.price_unknown:
        return read
    tier = known.tier if known else read.tier
    if read.ended_at is None:
        logger.warning("stripe subscription=%s has a price of no known tier: it brings %s", read.stripe_id, tier)
    return replace(read, tier=tier, pending_tier="" if read.pending_tier == tier else read.pending_tier)


def _keep_missed(
    user: User,
    known: Subscription | None,
    read: SubscriptionRead,
    periods: Sequence[tuple[datetime, datetime]],
    *,
    now: datetime,
) -> None:
    """Of the higher tier of those before and after: which it was is not known, and nothing is charged that may be free."""
    tier = max((read.tier, known.tier if known else read.tier), key=rank)
    for starts_at, ends_at in periods:
        keep_period(
            user=user,
            starts_at=starts_at,
            ends_at=ends_at,
            tier=tier,
            trial=read.trial_ends_at is not None and starts_at < read.trial_ends_at,
            included_runs=entitled_runs(user, tier, now=now),
            now=now,
        )


def _write(user: User, known: Subscription | None, read: SubscriptionRead, *, now: datetime) -> None:
    fields = asdict(read)
    Subscription.objects.update_or_create(
        stripe_id=fields.pop("stripe_id"), defaults={**fields, "user": user, "synced_at": now}
    )
    if read.period_start is not None and read.period_end is not None:
        keep_period(
            user=user,
            starts_at=read.period_start,
            ends_at=min(filter(None, (read.period_end, read.ended_at))),
            tier=read.tier,
            trial=read.is_trial_period,
            included_runs=entitled_runs(user, read.tier, now=now),
            now=now,
        )
    _tell_of(user, known, read, now=now)


def _tell_of(user: User, known: Subscription | None, read: SubscriptionRead, *, now: datetime) -> None:
    if read.status == "trialing" and (known is None or known.status != "trialing"):
        context = {"tier": read.tier, "trial_ends_at": text(read.trial_ends_at)}
        key = f"trial_started:{read.stripe_id}"
        note_mail(user=user, kind=MailKind.TRIAL_STARTED, key=key, context=context, now=now)
    if read.cancel_at is not None and (known is None or known.cancel_at is None):
        context = {"tier": read.tier, "ends_at": text(read.cancel_at)}
        # Of the request, not of the end: who takes it back and asks again is told again, and a reread tells nothing new.
        asked_at = read.canceled_at or read.cancel_at
        key = f"canceled:{read.stripe_id}:{int(asked_at.timestamp())}"
        note_mail(user=user, kind=MailKind.CANCELED, key=key, context=context, now=now)


def _move_tier(user: User, *, was: str, subscriptions: Sequence[SubscriptionRead], key: str, now: datetime) -> None:
    """The tier follows what the subscriptions bring. One that is higher than they brought before (`was`) is an operator's,
    and stays; one that is lower than they bring now never does.

    `key` is of this read, which is written once.
    """
    will = best_tier(subscriptions)
    if rank(will) <= rank(user.tier) and (will == was or user.tier != was):
        return
    before = user.tier
    set_tier(user=user, tier=will, now=now)
    if rank(will) < rank(before):
        ended = all(subscription.status in ENDED for subscription in subscriptions)
        kind = MailKind.BACK_TO_FREE if ended else MailKind.DOWNGRADED
        failed = max((subscription.failed_payments for subscription in subscriptions), default=0)
        context = {"tier": will, "from_tier": before, "failed_payments": failed, "stopped_flows": []}
        note_mail_of_downgrade(user=user, kind=kind, key=f"{kind}:{key}", context=context, now=now)


def text(moment: datetime | None) -> str | None:
    """As a mail's context holds a moment."""
    return None if moment is None else moment.isoformat()
