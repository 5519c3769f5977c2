"""Telling Stripe's meter of the runs over the limit: each row of the ledger once, whatever breaks in between.

A row is sent under its identifier, which Stripe takes once within a day at least. What may have been sent before that is
looked up in the meter's sum first.
"""

import logging
import math
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import Exists, OuterRef, Sum

from accounts.models import User
from billing.errors import BillingUnavailable
from billing.models import OverageReport, StripeCustomer, Subscription, SubscriptionPeriod
from billing.signals import usage_is_billed
from billing.stripe.client import Outcome, client, is_away, is_busy, said
from billing.stripe.prices import METER_EVENT
from bloxserver.core import json_text

logger = logging.getLogger(__name__)

WAITS = (60, 300, 1_800, 3_600)  # seconds after each attempt, and the last ever after
IDENTIFIER_REMEMBERED = timedelta(hours=23)  # Stripe says 24 at least
MINUTE = 60  # seconds
AFTER_INVOICE = "It was sent when no invoice was to come that could have these runs: charge them by hand."
OLDEST = timedelta(days=35)  # Stripe takes nothing that was used before


def send(*, now: datetime, user: User | None = None) -> Outcome:
    """Tell Stripe of one row that is due, of `user` where one is given."""
    report = _claim(now, user)
    if report is None:
        return Outcome.NOTHING_DUE
    try:
        is_late = _is_late(report, now)
        sent = _tell(report, now)
    except Exception as error:  # whatever it is: the operator reads it on the row, and it is tried again
        _fail(report, error, now)
        return Outcome.AWAY if is_away(error) or (user and is_busy(error)) else Outcome.FAILED
    OverageReport.objects.filter(pk=report.pk).update(
        sent_at=now, due_at=None, error=AFTER_INVOICE if sent and is_late else ""
    )
    return Outcome.DONE


def bill_until(*, user: User, now: datetime) -> None:
    """Have the user's runs over the limit counted until `now`, and tell Stripe of all that is on the ledger, also of what
    waits for another attempt. Raises `BillingUnavailable`."""
    usage_is_billed.send(sender=Subscription, user=user, now=now)
    OverageReport.objects.filter(user=user, due_at__gt=now).update(due_at=now)
    while (outcome := send(now=now, user=user)) is not Outcome.NOTHING_DUE:
        if outcome is Outcome.AWAY:
            raise BillingUnavailable(
                "Stripe does not take the runs over the limit, which must be billed first: try again later."
            )


def _claim(now: datetime, user: User | None) -> OverageReport | None:
    """Count an attempt at one, a period's in their order, and put it off: the row lock lets one of two claimers have it,
    and whoever dies now leaves it due again later."""
    before = OverageReport.objects.filter(
        user=OuterRef("user"), period_start=OuterRef("period_start"), sequence__lt=OuterRef("sequence")
    )
    with transaction.atomic():
        due = OverageReport.objects.due(now).exclude(Exists(before.filter(due_at__isnull=False))).order_by("due_at")
        due = due.filter(user=user) if user else due
        report = due.select_for_update(skip_locked=True, of=("self",)).first()
        if report is not None:
            OverageReport.objects.filter(pk=report.pk).update(
                attempts=report.attempts + 1,
                due_at=now + timedelta(seconds=WAITS[min(report.attempts, len(WAITS) - 1)]),
                first_sent_at=report.first_sent_at or now,
            )
            report.attempts += 1
    return report


def _is_late(report: OverageReport, now: datetime) -> bool:
    """Whether no invoice can have it any more. Stripe adds to a draft until it is final: an hour after the period's end,
    or as the dashboard says, and at once where the subscription was ended at once. Without an invoice one is to come, as
    long as there is a subscription."""
    period = SubscriptionPeriod.objects.filter(user=report.user_id, starts_at=report.period_start).first()
    if period is None or now < period.ends_at:
        return False
    end = int(period.ends_at.timestamp())
    asked: Any = {"customer": _customer(report).stripe_id, "created": {"gte": end - MINUTE}, "limit": 100}
    invoices = client().v1.invoices.list(asked).auto_paging_iter()
    statuses = [invoice.status for invoice in invoices if abs(invoice.period_end - end) <= MINUTE]
    if statuses:
        return "draft" not in statuses
    return not Subscription.objects.live().filter(user=report.user_id).exists()


def _customer(report: OverageReport) -> StripeCustomer:
    return StripeCustomer.objects.get(user=report.user_id)


def _tell(report: OverageReport, now: datetime) -> bool:
    """False if it has been sent before. `report` has the moment of the first attempt of those before this one."""
    from stripe import InvalidRequestError

    customer = _customer(report)
    if report.first_sent_at and now - report.first_sent_at > IDENTIFIER_REMEMBERED and _has_arrived(customer, report):
        return False
    try:
        client().v1.billing.meter_events.create(
            {
                "event_name": METER_EVENT,
                "payload": {"stripe_customer_id": customer.stripe_id, "value": str(report.value)},
                "identifier": report.identifier,
                "timestamp": max(int(report.used_at.timestamp()), _whole_minute(report.period_start)),
            }
        )
    except InvalidRequestError as error:
        if "already exists with identifier" not in str(error):
            raise
        return False
    return True


def _has_arrived(customer: StripeCustomer, report: OverageReport) -> bool:
    """Whether the meter's sum over the period has this row beside those that are known to have been sent."""
    of_period = {"user": report.user_id, "period_start": report.period_start}
    sent = OverageReport.objects.filter(**of_period, sent_at__isnull=False).aggregate(runs=Sum("value", default=0))
    period = SubscriptionPeriod.objects.get(user=report.user_id, starts_at=report.period_start)
    for meter in client().v1.billing.meters.list({"status": "active", "limit": 100}).auto_paging_iter():
        if meter.event_name == METER_EVENT:
            summaries: Any = client().v1.billing.meters.event_summaries.list(
                meter.id,
                {
                    "customer": customer.stripe_id,
                    "start_time": _whole_minute(period.starts_at),
                    "end_time": _whole_minute(period.ends_at),
                },
            )
            return sum(each.aggregated_value for each in summaries.data) >= sent["runs"] + report.value
    return False


def _whole_minute(moment: datetime) -> int:
    """Seconds since the epoch: Stripe sums over whole minutes. The next one, so that what was used in the last second of
    the period before is not taken for this one's; so nothing is told to have been used before it."""
    return math.ceil(moment.timestamp() / 60) * 60


def _fail(report: OverageReport, error: Exception, now: datetime) -> None:
    """An attempt that is not the latest says nothing. What has become too old for Stripe is given up."""
    message = json_text.clean(said(error))[:2_000]
    gone = {"due_at": None} if now - report.used_at > OLDEST else {}
    OverageReport.objects.filter(pk=report.pk, attempts=report.attempts, sent_at=None).update(error=message, **gone)
    logger.warning("overage report=%s attempt=%d: %s", report.pk, report.attempts, json_text.one_line(message))
