"""Counting the runs of subscribers' periods: here and not in billing, which has no executions to count."""

import time
from datetime import datetime

from billing import overage
from billing.periods import Period
from executions.usage.counting import runs_of

SECONDS = 30.0  # of one run of the task; the rest waits for the next


def report_overage(*, now: datetime, seconds: float = SECONDS) -> None:
    """Count each period that is due, and write down by how much more it is over its limit."""
    stop_at = time.monotonic() + seconds
    while time.monotonic() < stop_at and (period := overage.claim_period(now=now)) is not None:
        if overage.included_runs(period, now=now) is None:
            runs = 0  # nothing is over an unlimited tier's
        else:
            runs = runs_of(period.user, Period(period.starts_at, period.ends_at))
        overage.note_runs(period, runs=runs, now=now)
