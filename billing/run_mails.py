"""The mails that tell a user that 80 or 100 % of a period's runs are used."""

from datetime import datetime

from django.conf import settings
from django.core.mail import EmailMessage

from accounts.mail import address_of
from billing.models import RunNotice
from billing.models.budgets import Percent
from billing.periods import period_of
from billing.services import limits_of
from billing.tiers import Limits
from bloxserver.core.mail import compose, send_due
from bloxserver.core.outbox import NotDelivered


def is_any_due(*, now: datetime) -> bool:
    return RunNotice.objects.due(now).exists()


def send_due_mails() -> None:
    """Attempt each mail that is due."""
    send_due(RunNotice.objects.select_related("user"), _composed)


def _composed(notice: RunNotice) -> EmailMessage:
    to, limits = address_of(notice.user), limits_of(notice.user)
    if limits.runs_per_month != notice.limit:
        raise NotDelivered("The limit is another by now.", final=True)
    used = "All" if notice.percent == Percent.STOP else f"{notice.percent} %"
    lines = [
        f"{used} of the {notice.limit:,} runs of your {notice.user.tier} tier are used in this period.",
        _what_then(notice, limits),
        "",
        f"Used: {notice.runs:,} of {notice.limit:,} runs since {notice.period_start:%Y-%m-%d %H:%M} UTC",
        f"Reset: {notice.period_end:%Y-%m-%d} at {notice.period_end:%H:%M} UTC",
        f"Usage: {settings.BLOX_PUBLIC_URL}/api/v1/usage",
    ]
    subject = f"{used} of your {notice.limit:,} runs are used"
    return compose(name=notice.pk.hex, to=[to], subject=subject, text="\n".join(lines))


def _what_then(notice: RunNotice, limits: Limits) -> str:
    """What happens at 100 %: now, or when it is reached."""
    in_trial = period_of(user=notice.user, now=notice.period_start).trial
    price = f", at ${limits.overage_price:.2f} for each 1,000 runs" if limits.overage_price and not in_trial else ""
    what = f"your flows go on{price}."
    if limits.refused_over_runs:
        what = f"new executions are refused until {notice.period_end:%Y-%m-%d}; a higher tier lifts that at once."
    return what[0].upper() + what[1:] if notice.percent == Percent.STOP else f"Once all are used, {what}"
