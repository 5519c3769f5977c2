"""One customer's year, from the sign-up to a second subscription, with all figures at each point: `pytest -s` shows them."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from pytest_django import Settings

from billing.models import SubscriptionPeriod
from billing.stripe.client import client
from tests.billing.limits import give
from tests.billing.story import Story, told
from tests.executions.factories import make_flow

pytestmark = pytest.mark.django_db(transaction=True)  # so that an override is in force at once

YEAR = datetime.now(UTC).year + 1
INCLUDED = 200  # runs, by an agreement with Carol: overage comes after a few hundred then, not after 100,000


def on(month: int, day: int, hour: int = 12) -> datetime:
    return datetime(YEAR, month, day, hour, tzinfo=UTC)


@pytest.fixture
def story(transactional_db: None, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Story]:
    with told(settings, monkeypatch, begins=on(1, 5, 10)) as story:
        yield story


def test_a_customers_year_adds_up_at_every_point(story: Story) -> None:
    signs_up(story)
    tries(story)
    pays(story)
    does_not_pay(story)
    pays_after_all(story)
    leaves(story)
    comes_back(story)


def signs_up(story: Story) -> None:
    story.check("signs up", tier="free", status="", period="Jan 01 00 - Feb 01 00", limit=1_000, runs=0, mails=[])
    assert story.run(40) == 40
    story.until(on(1, 10))
    assert story.run(30) == 30
    story.check("runs a little", runs=70, estimate=0, flows="1/1", ledger=0, mails=[])


def tries(story: Story) -> None:
    story.until(on(1, 12, 10))
    subscription = story.shop.subscribe(story.user)
    give(story.user, "runs_per_month", INCLUDED)
    make_flow(story.user, name="Second")
    assert subscription.trial_ends_at == on(1, 26, 10)
    story.check(
        "trial begins", tier="pro", status="trialing", period="Jan 12 10 - Jan 26 10", limit=INCLUDED, runs=0,
        flows="2/100", lines=[0], invoice="paid", mails=["trial_started"],
    )  # fmt: skip
    story.until(on(1, 20))
    story.run(260)
    # Of what is used in a trial nothing is charged, and nothing is estimated.
    story.check("60 too many in it", runs=260, estimate=0, ledger=0, meter=0, mails=["runs_100"])
    story.until(on(1, 23))
    story.check("trial ends soon", status="trialing", runs=260, ledger=0, mails=["trial_ending"])


def pays(story: Story) -> None:
    story.until(on(1, 26))
    story.check(
        "first payment", tier="pro", status="active", period="Jan 26 10 - Feb 26 10", runs=0,
        ledger=0, lines=[2_900], invoice="paid", mails=["converted"],
    )  # fmt: skip
    story.until(on(2, 3))
    story.run(170)
    story.check("below the limit", runs=170, estimate=0, ledger=0, mails=["runs_80"])
    story.until(on(2, 10))
    story.run(130)
    story.check("100 over", runs=300, estimate=0.05, ledger=100, mails=["runs_100"])
    period = SubscriptionPeriod.objects.filter(user=story.user).latest("starts_at")
    story.until(period.ends_at - timedelta(seconds=1))
    story.run(20)
    story.check("20 in the last second", runs=320, estimate=0.06, ledger=120, mails=[])
    story.until(on(2, 26))
    story.check(
        "renewal, with overage", period="Feb 26 10 - Mar 26 10", runs=0, estimate=0, ledger=120, lines=[2_900, 6],
        invoice="paid", mails=["payment_succeeded"],
    )  # fmt: skip


def does_not_pay(story: Story) -> None:
    story.shop.stripe.configure(after_retries="past_due")
    story.until(on(3, 10))
    story.run(240)
    story.check("40 over; old runs deleted", runs=240, estimate=0.02, ledger=160, mails=["runs_100"])
    story.shop.stripe.card_declines(story.shop.customer(story.user))
    story.until(on(3, 26))
    story.check(
        "first refusal", tier="pro", status="past_due", period="Mar 26 10 - Apr 26 10", runs=0, lines=[2_900, 2],
        invoice="open", mails=["payment_failed_soft"],
    )  # fmt: skip
    story.until(on(3, 28))
    story.run(210)
    story.until(on(3, 29))
    story.check(
        "second refusal", tier="pro", status="past_due", runs=210, ledger=170, flows="2/100",
        mails=["runs_100", "payment_failed_warning"],
    )  # fmt: skip
    story.until(on(3, 31))
    assert story.run(1) == 0  # the cap is that of a month, and all of March's runs count
    story.check(
        "third refusal", tier="free", status="past_due", period="Mar 01 00 - Apr 01 00", limit=INCLUDED, runs=450,
        estimate=0, flows="1/1", ledger=170, invoice="open", mails=["downgraded", "runs_100"],
    )  # fmt: skip
    story.until(on(4, 5))
    assert story.run(150) == 150
    # The period that is still open goes on to be counted, by what Carol has agreed on.
    story.check("on free meanwhile", tier="free", status="past_due", runs=150, estimate=0, ledger=320, mails=[])


def pays_after_all(story: Story) -> None:
    story.until(on(4, 8))
    story.shop.stripe.card_works(story.shop.customer(story.user))
    [unpaid] = [each for each in story.shop.stripe.objects("invoice") if each["status"] == "open"]
    client().v1.invoices.pay(unpaid["id"])
    story.shop.stripe.flush()
    story.check(
        "pays after all", tier="pro", status="active", period="Mar 26 10 - Apr 26 10", runs=360, estimate=0.08,
        flows="1/100", ledger=320, lines=[2_900, 2], invoice="paid", mails=["payment_succeeded"],
    )  # fmt: skip
    story.until(on(4, 26))
    story.check(
        "renewal", period="Apr 26 10 - May 26 10", runs=0, ledger=320, lines=[2_900, 8], invoice="paid",
        mails=["payment_succeeded"],
    )  # fmt: skip


def leaves(story: Story) -> None:
    story.until(on(5, 5))
    story.run(80)
    [subscription] = story.shop.stripe.objects("subscription")
    client().v1.subscriptions.update(subscription["id"], {"cancel_at_period_end": True})
    story.shop.stripe.flush()
    story.check("cancels", tier="pro", status="active", runs=80, ledger=320, mails=["canceled"])
    story.until(on(5, 10))
    story.run(180)
    story.check("60 over", tier="pro", runs=260, estimate=0.03, ledger=380, mails=["runs_100"])
    story.until(on(5, 26))
    assert story.run(1) == 0
    story.check(
        "back to free", tier="free", status="canceled", period="May 01 00 - Jun 01 00", limit=INCLUDED, runs=260,
        estimate=0, flows="1/1", ledger=380, lines=[3], invoice="paid", mails=["back_to_free", "payment_succeeded", "runs_100"],
    )  # fmt: skip
    story.until(on(6, 1))
    assert (story.run(150), story.run(100)) == (150, 50)
    story.check("the cap of June", runs=INCLUDED, estimate=0, ledger=380, mails=["runs_100"])


def comes_back(story: Story) -> None:
    story.until(on(7, 10, 10))
    story.shop.subscribe(story.user)
    story.user.limit_overrides.get().delete()
    story.check(
        "second subscription", tier="pro", status="active", period="Jul 10 10 - Aug 10 10", limit=100_000, runs=0,
        ledger=380, lines=[2_900], invoice="paid", mails=["payment_succeeded"],
    )  # fmt: skip
    assert not SubscriptionPeriod.objects.filter(starts_at__gte=on(7, 1), trial=True).exists()
    story.run(300)
    story.until(on(8, 10))
    story.check(
        "its renewal", period="Aug 10 10 - Sep 10 10", runs=0, ledger=380, invoice="paid", mails=["payment_succeeded"]
    )
