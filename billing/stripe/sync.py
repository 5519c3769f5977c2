"""Bringing what is known here of a customer to what Stripe says, whoever asks, in whatever order.

A sync takes a ticket, asks Stripe, and writes what it read unless a later ticket's has been written. Whatever changes at
Stripe sends an event, and its sync takes a ticket after the change: so what the last ticket reads has seen every change,
and no older read undoes it. Nothing is locked while Stripe is asked.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from typing import TypeAlias

from django.db import transaction
from django.db.models import F

from accounts.models import User
from accounts.services import set_tier
from billing.entitlements import best_tier, rank
from billing.models import MailKind, StripeCustomer, Subscription
from billing.models.stripe import ENDED
from billing.notices import note_mail, note_mail_of_downgrade
from billing.overage import entitled_runs
from billing.periods import keep_period
from billing.stripe.missed import missed_periods
from billing.stripe.reading import CustomerRead, SubscriptionRead, read_customer

logger = logging.getLogger(__name__)

Missed: TypeAlias = Mapping[str, Sequence[tuple[datetime, datetime]]]  # by Stripe's id of the subscription


def sync(customer: StripeCustomer, *, now: datetime) -> CustomerRead:
    """Read the customer at Stripe and bring rows, tier and periods to it; what was read. Raises the SDK's errors."""
    ticket = _take_ticket(customer)
    read = read_customer(customer.stripe_id)
    missed = {each.stripe_id: missed_periods(customer.user_id, each) for each in read.subscriptions}
    apply(customer, ticket=ticket, read=read, missed=missed, now=now)
    return read


def _take_ticket(customer: StripeCustomer) -> int:
    """Later callers get greater ones: the UPDATE's row lock makes them queue."""
    with transaction.atomic():
        StripeCustomer.objects.filter(pk=customer.pk).update(ticket=F("ticket") + 1)
        return StripeCustomer.objects.values_list("ticket", flat=True).get(pk=customer.pk)


def apply(customer: StripeCustomer, *, ticket: int, read: CustomerRead, missed: Missed, now: datetime) -> bool:
    """Write what was read under `ticket`, with the periods that were missed; False, and no change, when a later read has been
    written or the account is closed. The locks of user and customer, in this order, make one of several at a time write."""
    with transaction.atomic():
        user = User.objects.select_for_update(of=("self",), no_key=True).get(pk=customer.user_id)
        row = StripeCustomer.objects.select_for_update(of=("self",)).get(pk=customer.pk)
        if row.applied_ticket >= ticket or user.deleted_at is not None:
            return False
        known = {subscription.stripe_id: subscription for subscription in Subscription.objects.for_user(user)}
        was = best_tier(known.values())
        said = [_with_tier(subscription, known.get(subscription.stripe_id)) for subscription in read.subscriptions]
        for subscription in sorted(said, key=lambda each: each.created_at):
            before = known.get(subscription.stripe_id)
            _keep_missed(user, before, subscription, missed.get(subscription.stripe_id, []), now=now)
            _write(user, before, subscription, now=now)
        _move_tier(user, was=was, subscriptions=said, key=f"{row.stripe_id}:{ticket}", now=now)
        row.email, row.applied_ticket, row.synced_at = read.email, ticket, now
        row.save(update_fields=["email", "applied_ticket", "synced_at"])
    return True


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
