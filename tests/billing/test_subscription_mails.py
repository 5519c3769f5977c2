"""The nine mails about subscriptions: what they say, as text and as HTML, and how operators see them."""

from typing import Any

import pytest
from django.core import mail
from django.core.mail import EmailMultiAlternatives
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from accounts.models import Tier, User
from billing import subscription_mails
from billing.models import BillingMail, MailKind
from billing.notices import note_mail
from billing.subscription_mails import SAMPLES
from tests.billing.shop import Shop

pytestmark = pytest.mark.django_db

PREVIEWS = "/admin/billing/billingmail/previews/"


def noted(user: User, kind: MailKind, **changes: Any) -> BillingMail:
    note_mail(user=user, kind=kind, key=f"{kind}:1", context={**SAMPLES[kind], **changes}, now=timezone.now())
    return BillingMail.objects.get(user=user, kind=kind)


def sent(user: User, kind: MailKind, **changes: Any) -> tuple[str, str, str]:
    """Subject, text and HTML of the one mail that goes out."""
    noted(user, kind, **changes)
    subscription_mails.send_due_mails()
    [message] = mail.outbox
    assert message.to == [user.email]
    assert isinstance(message, EmailMultiAlternatives)
    [(html, mimetype)] = message.alternatives
    assert mimetype == "text/html"
    return str(message.subject), str(message.body), str(html)


@pytest.mark.parametrize("kind", MailKind, ids=str)
def test_each_kind_is_sent_once_as_text_and_html_and_leaves_no_gap(
    alice: User, settings: Settings, kind: MailKind
) -> None:
    settings.BLOX_BILLING_URL = "https://app.shop.example/billing"
    subject, text, html = sent(alice, kind)
    assert text.startswith("Hello Alice,\n\n") and text.endswith(
        "\n\nYour subscription: https://app.shop.example/billing\n"
    )
    assert "<h1 style" in html and '<a href="https://app.shop.example/billing"' in html
    for said in (subject, text):
        assert not any(gap in said for gap in ("None", "{{", "{%", "  ", " ,", " .", "\n\n\n", "&")), said
    subscription_mails.send_due_mails()
    assert len(mail.outbox) == 1
    row = BillingMail.objects.get()
    assert (row.attempts, row.due_at, row.error) == (1, None, "") and row.sent_at is not None


@pytest.mark.parametrize(
    ("kind", "subject", "says"),
    [
        (MailKind.TRIAL_STARTED, "Your trial of Pro has begun", "nothing is charged until 5 December 2026, 09:00 UTC"),
        (
            MailKind.TRIAL_STARTED,
            "Your trial of Pro has begun",
            "100 flows and 100,000 runs a month, 20 of them at once",
        ),
        (MailKind.TRIAL_ENDING, "Your trial of Pro ends on 5 December", "cancel before that moment: you pay nothing"),
        (MailKind.CONVERTED, "Welcome to Pro: your first payment has arrived", "first payment of 29.00 USD"),
        (
            MailKind.PAYMENT_SUCCEEDED,
            "We have received your payment of 29.00 USD",
            "Invoice A1B2C3D4-0002: https://invoice.stripe.com/i/acct_1/test_1",
        ),
        (
            MailKind.PAYMENT_FAILED_SOFT,
            "Your payment of 29.00 USD did not go through",
            "Nothing has changed for your flows.\n\nWe will try again on 8 December 2026.",
        ),
        (
            MailKind.PAYMENT_FAILED_WARNING,
            "Second try: your payment of 29.00 USD did not go through",
            "We will try once more on 8 December 2026. If that fails too, your account goes back to the free tier",
        ),
        (MailKind.CANCELED, "Your subscription ends on 31 December 2026", "Until then all stays as it is"),
        (
            MailKind.CANCELED,
            "Your subscription ends on 31 December 2026",
            "your history is kept for 30 days more, then runs that are older than 7 days go.",
        ),
        (
            MailKind.PAYMENT_FAILED_WARNING,
            "Second try: your payment of 29.00 USD did not go through",
            "your history is kept for 30 days more, then runs that are older than 7 days go.",
        ),
    ],
)
def test_it_says_what_has_happened_and_what_will(alice: User, kind: MailKind, subject: str, says: str) -> None:
    got, text, _ = sent(alice, kind)
    assert got == subject
    assert says in text


def test_a_downgrade_names_the_flows_that_were_stopped_and_the_way_back(alice: User) -> None:
    User.objects.filter(pk=alice.pk).update(tier=Tier.FREE)
    alice.refresh_from_db()
    subject, text, html = sent(alice, MailKind.DOWNGRADED, stopped_flows=["Weekly report", "<b>Orders & co</b>"])
    assert subject == "Your account is on the Free tier now"
    assert "After 3 failed payments, your account has gone from the Pro tier to the Free tier." in text
    assert "At most 1 flow can run at a time now, with 1,000 runs a month. So these, which ran longest ago" in text
    assert "\n- Weekly report\n- <b>Orders & co</b>\n" in text
    assert "As soon as the open invoice is paid, the tier comes back at once." in text
    assert "- Weekly report<br>- &lt;b&gt;Orders &amp; co&lt;/b&gt;" in html


@pytest.mark.parametrize("kind", [MailKind.DOWNGRADED, MailKind.BACK_TO_FREE], ids=str)
def test_a_fall_says_until_when_history_is_kept(alice: User, kind: MailKind) -> None:
    User.objects.filter(pk=alice.pk).update(tier=Tier.FREE)
    alice.refresh_from_db()
    said = "Your history is kept as before for 30 days more. Then runs that are older than 7 days are deleted"
    assert said in sent(alice, kind)[1]


@pytest.mark.parametrize("kind", [MailKind.DOWNGRADED, MailKind.BACK_TO_FREE], ids=str)
def test_where_no_flow_was_stopped_none_is_spoken_of(alice: User, kind: MailKind) -> None:
    assert "were stopped" not in sent(alice, kind, stopped_flows=[])[1]


def test_an_operators_downgrade_is_told_without_words_of_payments(alice: User) -> None:
    BillingMail.objects.create(
        user=alice, kind=MailKind.DOWNGRADED, dedupe_key="1", context={"tier": "free", "stopped_flows": ["Orders"]}
    )
    subscription_mails.send_due_mails()
    body = str(mail.outbox[0].body)
    assert "Your account has gone to the Free tier." in body and "payment" not in body and "invoice" not in body


def test_a_fall_of_the_users_own_limit_is_told_without_words_of_tiers(alice: User) -> None:
    context = {"tier": "free", "stopped_flows": ["Orders"], "own_limit": True}
    BillingMail.objects.create(user=alice, kind=MailKind.DOWNGRADED, dedupe_key="1", context=context)
    subscription_mails.send_due_mails()
    body = str(mail.outbox[0].body)
    assert mail.outbox[0].subject == "Fewer of your flows can run now"
    assert "\n- Orders\n" in body and "has gone" not in body and "history" not in body


def test_a_mail_that_waits_for_its_review_is_not_sent(alice: User) -> None:
    note = noted(alice, MailKind.DOWNGRADED)
    BillingMail.objects.filter(pk=note.pk).update(due_at=None)
    subscription_mails.send_due_mails()
    assert not mail.outbox


def test_who_subscribes_is_mailed_that_the_trial_has_begun(shop: Shop, carol: User) -> None:
    shop.subscribe(carol)
    subscription_mails.send_due_mails()
    assert [(message.to, message.subject) for message in mail.outbox] == [
        ([carol.email], "Your trial of Pro has begun")
    ]


def test_an_operator_sees_a_mail_as_it_is_sent(admin_client: Client, alice: User) -> None:
    row = noted(alice, MailKind.CANCELED)
    page = admin_client.get(f"/admin/billing/billingmail/{row.pk}/change/").content.decode()
    assert "Your subscription ends on 31 December 2026" in page and "Hello Alice" in page and "<iframe sandbox" in page


def test_an_operator_sees_a_sample_of_each_kind(admin_client: Client) -> None:
    assert PREVIEWS in admin_client.get("/admin/billing/billingmail/").content.decode()
    page = admin_client.get(PREVIEWS).content.decode()
    assert page.count('srcdoc="&lt;!doctype html') == len(MailKind)
    assert "Hello Ada Lovelace" in page and "Your trial of Pro has begun" in page


def test_a_user_who_is_no_operator_sees_no_samples(client: Client, alice: User) -> None:
    client.force_login(alice, backend="django.contrib.auth.backends.ModelBackend")
    assert client.get(PREVIEWS).status_code == 302
    User.objects.filter(pk=alice.pk).update(is_staff=True)
    assert client.get(PREVIEWS).status_code == 403


def test_a_closed_account_is_not_written_to(alice: User) -> None:
    row = noted(alice, MailKind.CANCELED)
    User.objects.filter(pk=alice.pk).update(is_active=False)
    subscription_mails.send_due_mails()
    row.refresh_from_db()
    assert (mail.outbox, row.due_at, row.error) == ([], None, "The account is closed.")
