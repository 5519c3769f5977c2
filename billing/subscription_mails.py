"""The mails about subscriptions: their texts are templates, and the HTML is made of the text.

A template's first line is the subject; what follows are paragraphs, with blank lines between them.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.conf import settings
from django.core.mail import EmailMessage
from django.template import Context
from django.template.loader import get_template, render_to_string
from django.utils import timezone

from accounts.mail import address_of
from accounts.models import Tier, User
from billing.kept_history import GRACE
from billing.models import BillingMail, MailKind
from billing.services import limits_of, limits_on
from bloxserver.core.mail import compose, send_due

FOLDER = "billing/mails"


@dataclass(frozen=True, slots=True)
class MailText:
    subject: str
    text: str
    html: str


def is_any_due(*, now: datetime) -> bool:
    return BillingMail.objects.due(now).exists()


def send_due_mails() -> None:
    """Attempt each mail that is due."""
    send_due(BillingMail.objects.select_related("user"), _composed)


def mail_text(*, kind: str, context: dict[str, Any], user: User) -> MailText:
    """What a mail of this kind says to `user`; `context` is that of a `BillingMail`."""
    template: Any = get_template(f"{FOLDER}/{kind}.txt")
    said = template.template.render(Context(_values(context, user), autoescape=False))
    subject, _, body = said.strip().partition("\n")
    paragraphs = [paragraph.strip() for paragraph in body.split("\n\n") if paragraph.strip()]
    html = render_to_string(f"{FOLDER}/frame.html", {"subject": subject, "paragraphs": paragraphs})
    return MailText(subject, "\n\n".join(paragraphs) + "\n", html)


def _composed(mail: BillingMail) -> EmailMessage:
    to = address_of(mail.user)
    said = mail_text(kind=mail.kind, context=mail.context, user=mail.user)
    return compose(name=mail.pk.hex, to=[to], subject=said.subject, text=said.text, html=said.html)


def _values(context: dict[str, Any], user: User) -> dict[str, Any]:
    """The context as templates write it: moments as such, tiers by their titles; and what they say of the user."""
    values = {name: _moment(value) if name.endswith("_at") else value for name, value in context.items()}
    titles = {name: Tier(values[name]).label for name in ("tier", "from_tier") if values.get(name) in Tier.values}
    limits = limits_of(user)
    return {
        **values,
        **titles,
        "name": " ".join((user.name or "").split()),
        "limits": limits,
        "flows": f"{limits.flows:,}",
        "free_history_days": limits_on(Tier.FREE, user_id=user.pk, now=timezone.now()).history_days,
        "history_grace_days": GRACE.days,
        "runs": "" if limits.runs_per_month is None else f"{limits.runs_per_month:,}",
        "manage_url": settings.BLOX_BILLING_URL,
    }


def _moment(value: Any) -> Any:
    return datetime.fromisoformat(value) if isinstance(value, str) else value


_INVOICE = {
    "tier": "pro",
    "amount": "29.00",
    "currency": "USD",
    "invoice": "in_1",
    "number": "A1B2C3D4-0002",
    "invoice_url": "https://invoice.stripe.com/i/acct_1/test_1",
}
_FAILED = {**_INVOICE, "next_attempt_at": "2026-12-08T09:00:00+00:00"}
_FELL = {"tier": "free", "from_tier": "pro", "failed_payments": 0, "stopped_flows": ["Weekly report", "Order alert"]}

# A context of each kind, for the admin's preview.
SAMPLES: dict[str, dict[str, Any]] = {
    MailKind.TRIAL_STARTED: {"tier": "pro", "trial_ends_at": "2026-12-05T09:00:00+00:00"},
    MailKind.TRIAL_ENDING: {"tier": "pro", "trial_ends_at": "2026-12-05T09:00:00+00:00"},
    MailKind.CONVERTED: _INVOICE,
    MailKind.PAYMENT_SUCCEEDED: _INVOICE,
    MailKind.PAYMENT_FAILED_SOFT: {**_FAILED, "attempt": 1},
    MailKind.PAYMENT_FAILED_WARNING: {**_FAILED, "attempt": 2},
    MailKind.DOWNGRADED: {**_FELL, "failed_payments": 3},
    MailKind.CANCELED: {"tier": "pro", "ends_at": "2026-12-31T09:00:00+00:00"},
    MailKind.BACK_TO_FREE: _FELL,
}
