"""Counting the runs of subscribers' periods: here and not in billing, which has no executions to count."""

import logging
import time
from datetime import datetime
from functools import partial

from accounts.models import User
from billing import overage
from billing.models import SubscriptionPeriod
from billing.periods import Period
from executions.dispatch import Job, ring
from executions.usage.counting import runs_of

logger = logging.getLogger(__name__)

SECONDS = 2.0  # of one run of the task, since executions wait meanwhile


def report_overage(*, now: datetime, seconds: float = SECONDS) -> None:
    """Count the periods that are due, and write down by how much more each is over its limit. What is not done in
    `seconds` is rung for again."""
    stop_at = time.monotonic() + seconds
    while (period := overage.claim_period(now=now)) is not None:
        try:
            _report(period, now)
        except Exception:  # it is due again later; the others must not wait for it
            logger.exception("The runs of period %s could not be counted", period.pk)
        if time.monotonic() >= stop_at:
            ring(Job.OVERAGE)
            return


def report_overage_of(user: User, *, now: datetime) -> None:
    """Count the user's open periods now, whenever they are due: the row locks of `note_runs` keep counts apart."""
    for period in SubscriptionPeriod.objects.filter(user=user, count_due_at__isnull=False).select_related("user"):
        _report(period, now)


def _report(period: SubscriptionPeriod, now: datetime) -> None:
    lasts = Period(period.starts_at, period.ends_at)
    overage.note_runs(period, count=partial(runs_of, period.user, lasts), now=now)
