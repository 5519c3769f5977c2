"""Runs over the limit of a paid tier: told to Stripe's meter, each once, whatever breaks in between."""

import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.core import mail
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from pytest_django import Settings

from accounts.models import User
from accounts.services import set_tier
from billing import overage as ledger
from billing import overrides, run_mails, tiers
from billing.models import DeletedRuns, OverageReport, StripeCustomer, Subscription, SubscriptionPeriod
from billing.stripe import metering, services
from billing.stripe.client import Outcome, client
from executions import overage
from executions.usage.notices import notice_runs
from tests.billing.limits import give
from tests.billing.shop import Shop, opened
from tests.conftest import api_as
from tests.executions.factories import make_execution, make_flow

pytestmark = pytest.mark.django_db

LIMIT = tiers.TIERS["pro"].runs_per_month or 0


@pytest.fixture
def paying(shop: Shop, carol: User) -> User:
    """Past the trial, in the first period that is paid for."""
    return subscribed(shop, carol)


def subscribed(shop: Shop, user: User) -> User:
    shop.subscribe(user)
    shop.stripe.advance(days=15)
    user.refresh_from_db()
    return user


def use(user: User, runs: int, at: datetime) -> None:
    """So many runs, whose executions are deleted already: they count all the same."""
    DeletedRuns.objects.create(user=user, starts_at=at, runs=runs)


def told(shop: Shop) -> list[int]:
    return [int(event["payload"]["value"]) for event in shop.stripe.objects("billing.meter_event")]


def report(shop: Shop) -> None:
    """The clock's two tasks, at Stripe's time."""
    overage.report_overage(now=shop.now)
    while metering.send(now=shop.now) is Outcome.DONE:
        pass


def test_each_hour_what_came_over_the_limit_since_is_told(shop: Shop, paying: User) -> None:
    use(paying, LIMIT, shop.now)
    report(shop)
    assert told(shop) == []

    for more in (1_500, 0, 250):
        shop.stripe.advance(hours=1)
        use(paying, more, shop.now)
        report(shop)
        report(shop)  # not due again within the hour

    assert told(shop) == [1_500, 250]
    reports = OverageReport.objects.order_by("sequence")
    assert [(each.sequence, each.value, each.sent_at is not None) for each in reports] == [
        (1, 1_500, True),
        (2, 250, True),
    ]


def test_the_invoice_has_what_the_runs_cost(shop: Shop, paying: User) -> None:
    use(paying, LIMIT + 3_000, shop.now)
    report(shop)
    shop.stripe.advance(days=32)
    amounts = [invoice["amount_due"] for invoice in shop.stripe.objects("invoice")]
    assert amounts == [0, 2_900, 2_900 + 150]  # $0.50 for 1,000


def test_the_last_hour_of_a_period_is_told_within_it_after_its_end(shop: Shop, paying: User) -> None:
    use(paying, LIMIT + 10, shop.now)
    report(shop)
    period = SubscriptionPeriod.objects.latest("starts_at")
    use(paying, 7, period.ends_at - timedelta(seconds=5))
    shop.stripe.advance_to(period.ends_at + timedelta(minutes=5))
    report(shop)

    last = OverageReport.objects.get(sequence=2)
    assert (last.value, last.used_at) == (7, period.ends_at - timedelta(seconds=1))
    assert told(shop) == [10, 7]
    period.refresh_from_db()
    assert period.count_due_at is None  # it is closed
    shop.stripe.advance(hours=2)
    assert shop.stripe.objects("invoice")[-1]["amount_due"] == 2_900 + 1  # 17 runs come to 0.85 cents
    report(shop)
    assert told(shop) == [10, 7]


def test_a_period_that_is_ended_at_once_is_counted_soon_after(shop: Shop, paying: User) -> None:
    report(shop)  # the next is due in an hour
    shop.stripe.advance_to(shop.now + timedelta(minutes=5))
    client().v1.subscriptions.cancel(Subscription.objects.get().stripe_id)
    shop.stripe.flush()
    period = SubscriptionPeriod.objects.latest("starts_at")
    assert (period.ends_at, period.count_due_at) == (shop.now, shop.now + timedelta(minutes=2))


def test_what_is_used_in_a_trial_costs_nothing(shop: Shop, carol: User) -> None:
    shop.subscribe(carol)
    use(carol, LIMIT + 5_000, shop.now)
    for _ in range(3):
        shop.stripe.advance(days=7)
        report(shop)
    assert told(shop) == []


def test_no_overage_is_estimated_in_a_trial(shop: Shop, carol: User) -> None:
    shop.subscribe(carol)
    use(carol, LIMIT + 5_000, shop.now)
    usage = api_as(carol).get("/api/v1/usage").json()
    assert (usage["runsUsed"], usage["estimatedOverage"]) == (LIMIT + 5_000, 0)


def test_the_mail_in_a_trial_names_no_price_for_more_runs(shop: Shop, carol: User) -> None:
    shop.subscribe(carol)
    make_execution(make_flow(carol), started_at=shop.now)
    use(carol, LIMIT, shop.now)
    notice_runs(now=shop.now)
    run_mails.send_due_mails()
    assert "Your flows go on." in str(mail.outbox[-1].body)


def test_a_period_counts_by_the_tier_that_was_paid_for(shop: Shop, paying: User) -> None:
    use(paying, LIMIT + 10, shop.now)
    User.objects.filter(pk=paying.pk).update(tier="free")  # fallen back since
    report(shop)
    assert told(shop) == [10]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("limit", "over"), [(LIMIT + 900, [100]), (10, [LIMIT + 990]), (None, [])])
def test_what_an_operator_has_set_is_included_also_for_who_has_fallen_back(
    settings: Settings, carol: User, limit: int | None, over: list[int]
) -> None:
    with opened(settings) as shop:
        give(carol, "runs_per_month", limit)
        paying = subscribed(shop, carol)
        User.objects.filter(pk=paying.pk).update(tier="free")
        use(paying, LIMIT + 1_000, shop.now)
        report(shop)
        assert told(shop) == over


def test_an_unlimited_tier_has_no_overage(shop: Shop, paying: User) -> None:
    User.objects.filter(pk=paying.pk).update(tier="enterprise")
    SubscriptionPeriod.objects.update(tier="enterprise")
    use(paying, 10 * LIMIT, shop.now)
    report(shop)
    assert told(shop) == []


def test_what_was_used_until_an_operator_ends_the_subscription_is_on_the_last_invoice(shop: Shop, paying: User) -> None:
    use(paying, LIMIT + 3_000, shop.now)
    shop.stripe.advance(days=2)
    services.cancel_subscription(user=paying, at_period_end=False, now=shop.now)
    assert told(shop) == [3_000]
    assert shop.stripe.objects("invoice")[-1]["amount_due"] == 150


def test_what_was_used_until_an_account_is_closed_is_on_the_last_invoice(shop: Shop, paying: User) -> None:
    use(paying, LIMIT + 3_000, shop.now)
    StripeCustomer.objects.update(close_due_at=timezone.now())
    shop.stripe.hold_webhooks()
    services.work()
    assert [report.value for report in OverageReport.objects.all()] == [3_000]
    assert [each["status"] for each in shop.stripe.objects("subscription")] == ["canceled"]


def test_what_stripe_is_told_after_the_invoice_is_final_is_said_to_be_charged_by_hand(shop: Shop, paying: User) -> None:
    use(paying, LIMIT + 10, shop.now)
    period = SubscriptionPeriod.objects.latest("starts_at")
    shop.stripe.advance_to(period.ends_at + timedelta(minutes=61))
    report(shop)
    row = OverageReport.objects.get()
    assert row.sent_at is not None
    assert "by hand" in row.error


def test_what_is_sent_after_a_subscription_was_ended_at_once_is_said_to_be_charged_by_hand(
    shop: Shop, paying: User
) -> None:
    use(paying, LIMIT + 10, shop.now)
    report(shop)
    shop.stripe.advance(seconds=600)
    use(paying, 7, shop.now - timedelta(seconds=60))
    client().v1.subscriptions.cancel(Subscription.objects.get().stripe_id, {"invoice_now": True})  # in the dashboard
    shop.stripe.flush()
    shop.stripe.advance(seconds=180)
    report(shop)
    assert [(row.value, "by hand" in row.error) for row in OverageReport.objects.order_by("sequence")] == [
        (10, False),
        (7, True),
    ]


def test_without_a_last_invoice_what_is_sent_later_is_to_be_charged_by_hand(shop: Shop, paying: User) -> None:
    use(paying, LIMIT + 10, shop.now)
    shop.stripe.advance(seconds=600)
    client().v1.subscriptions.cancel(Subscription.objects.get().stripe_id)
    shop.stripe.flush()
    shop.stripe.advance(seconds=180)
    report(shop)
    assert "by hand" in OverageReport.objects.get().error


def leaves_at_the_periods_end(shop: Shop, user: User) -> datetime:
    """When that is."""
    services.cancel_subscription(user=user, now=shop.now)
    shop.stripe.flush()
    return Subscription.objects.get().cancel_at or shop.now


def clock(shop: Shop, until: datetime) -> None:
    """The tasks as beat sends them: a count every five minutes."""
    while shop.now < until:
        shop.stripe.advance_to(min(until, shop.now + timedelta(minutes=5)))
        report(shop)


def test_what_is_used_before_a_subscription_ends_with_its_period_is_on_the_last_invoice(
    shop: Shop, paying: User
) -> None:
    use(paying, LIMIT, shop.now)
    end = leaves_at_the_periods_end(shop, paying)
    shop.stripe.advance_to(end - timedelta(minutes=50))
    report(shop)
    use(paying, 3_000, shop.now + timedelta(minutes=35))
    clock(shop, end + timedelta(minutes=10))
    assert shop.stripe.objects("invoice")[-1]["amount_due"] == 150
    assert OverageReport.objects.get().error == ""


@pytest.mark.parametrize(("waits", "amount"), [(True, 150), (False, 100)])
def test_what_is_used_in_the_last_minutes_is_billed_or_said_to_be_charged_by_hand(
    shop: Shop, paying: User, waits: bool, amount: int
) -> None:
    shop.stripe.configure(last_waits=waits)
    use(paying, LIMIT + 2_000, shop.now)
    end = leaves_at_the_periods_end(shop, paying)
    shop.stripe.advance_to(end - timedelta(minutes=20))
    clock(shop, end - timedelta(minutes=2))
    use(paying, 1_000, shop.now)
    clock(shop, end + timedelta(minutes=10))
    shop.stripe.advance(hours=2)
    assert shop.stripe.objects("invoice")[-1]["amount_due"] == amount
    last = OverageReport.objects.get(sequence=2)
    assert (last.value, "by hand" in last.error) == (1_000, not waits)


def test_a_period_that_went_by_while_stripe_was_not_asked_is_found_and_counted(shop: Shop, paying: User) -> None:
    shop.stripe.hold_webhooks()
    first = SubscriptionPeriod.objects.latest("starts_at")
    use(paying, LIMIT + 10, first.starts_at)
    use(paying, LIMIT + 20, first.ends_at + timedelta(days=3))
    shop.stripe.advance_to(first.ends_at + timedelta(days=32))
    use(paying, LIMIT + 30, shop.now)
    shop.stripe.drop_webhooks()
    shop.stripe.release_webhooks()

    services.sync_customer(user=paying, now=shop.now)
    report(shop)

    periods = list(SubscriptionPeriod.objects.filter(starts_at__gte=first.starts_at).order_by("starts_at"))
    assert [period.starts_at for period in periods] == [first.starts_at, first.ends_at, periods[1].ends_at]
    rows = OverageReport.objects.order_by("period_start")
    assert [(row.period_start, row.value, "by hand" in row.error) for row in rows] == [
        (periods[0].starts_at, 10, True),
        (periods[1].starts_at, 20, True),
        (periods[2].starts_at, 30, False),
    ]
    assert told(shop) == [10, 20, 30]


def test_a_trial_that_went_by_while_stripe_was_not_asked_costs_nothing(shop: Shop, carol: User) -> None:
    shop.stripe.hold_webhooks()
    shop.stripe.complete_checkout(shop.checkout(api_as(carol)))
    use(carol, LIMIT + 10, shop.now)
    shop.stripe.advance(days=15)
    use(carol, LIMIT + 20, shop.now)
    shop.stripe.advance(days=32)
    services.sync_customer(user=carol, now=shop.now)
    report(shop)
    periods = SubscriptionPeriod.objects.order_by("starts_at")
    assert [(period.trial, period.count_due_at is None) for period in periods] == [
        (True, True),
        (False, True),
        (False, False),
    ]
    assert [row.value for row in OverageReport.objects.all()] == [20]


def test_where_no_period_is_missing_stripe_is_asked_for_no_invoice(shop: Shop, paying: User) -> None:
    before = len(shop.stripe.log)
    services.sync_customer(user=paying, now=shop.now)
    shop.stripe.advance(days=31)
    assert SubscriptionPeriod.objects.count() == 3
    assert not [path for path in shop.paths()[before:] if path.startswith("GET /v1/invoices")]


def test_a_period_that_cannot_be_counted_holds_up_no_other(shop: Shop, paying: User) -> None:
    use(paying, LIMIT + 10, shop.now)
    period = SubscriptionPeriod.objects.latest("starts_at")
    other = User.objects.create_user("other@shop.example", tier="pro")
    broken = SubscriptionPeriod.objects.create(
        user=other,
        starts_at=period.starts_at,
        ends_at=period.ends_at,
        tier="pro",
        included_runs=LIMIT,
        count_due_at=timezone.now() - timedelta(days=1),  # its turn comes first
    )
    use(other, LIMIT + 10, shop.now)
    taken = {"period_start": period.starts_at - timedelta(days=90), "used_at": shop.now, "created_at": shop.now}
    OverageReport.objects.create(
        user=paying, sequence=1, value=1, identifier=f"blox-overage-{broken.pk}-1", sent_at=shop.now, **taken
    )
    report(shop)
    assert told(shop) == [10]
    broken.refresh_from_db()
    assert broken.count_due_at == shop.now + ledger.RETRY_AFTER


def test_what_was_used_in_the_first_part_of_a_minute_is_found_in_the_meters_sum(shop: Shop, paying: User) -> None:
    use(paying, LIMIT + 10, shop.now)
    overage.report_overage(now=shop.now)
    row = OverageReport.objects.get()
    OverageReport.objects.update(used_at=row.period_start)
    SubscriptionPeriod.objects.update(count_due_at=None)
    shop.stripe.cut_next(requests=2)
    report(shop)
    shop.stripe.advance(days=2)
    report(shop)
    assert told(shop) == [10]


def test_runs_that_an_override_included_stay_so_after_the_subscription(shop: Shop, paying: User) -> None:
    override = give(paying, "runs_per_month", 5 * LIMIT)
    overrides.forget()
    use(paying, 3 * LIMIT, shop.now)
    report(shop)
    override.delete()
    overrides.forget()
    User.objects.filter(pk=paying.pk).update(tier="free")
    shop.stripe.advance(hours=1)
    report(shop)
    assert told(shop) == []


def test_a_change_to_a_lower_tier_charges_nothing_that_was_unlimited(shop: Shop, paying: User) -> None:
    use(paying, 2 * LIMIT, shop.now)
    set_tier(user=paying, tier="enterprise", now=shop.now)  # by an operator
    report(shop)
    set_tier(user=paying, tier="pro", now=shop.now)
    shop.stripe.advance(hours=1)
    report(shop)
    assert told(shop) == []


def test_a_period_of_a_tier_that_sells_no_overage_has_none(shop: Shop, paying: User) -> None:
    SubscriptionPeriod.objects.update(tier="free", included_runs=1_000)  # its price was not known
    use(paying, 50_000, shop.now)
    report(shop)
    assert told(shop) == []


@pytest.mark.parametrize("kept", [{"included_runs": None}, {"tier": "enterprise"}], ids=["unlimited", "no overage"])
def test_where_no_run_can_be_over_none_is_counted(kept: dict[str, Any], shop: Shop, paying: User) -> None:
    SubscriptionPeriod.objects.update(**kept)
    with CaptureQueriesContext(connection) as captured:
        overage.report_overage(now=shop.now)
    assert "included_runs" in str(captured.captured_queries)
    assert DeletedRuns._meta.db_table not in str(captured.captured_queries)


# Crashes. --------------------------------------------------------------------------------------------------------
def test_a_crash_before_the_sending_loses_nothing(shop: Shop, paying: User) -> None:
    use(paying, LIMIT + 10, shop.now)
    overage.report_overage(now=shop.now)  # the row is written; the process dies here
    assert told(shop) == []
    report(shop)
    assert told(shop) == [10]


def test_a_crash_between_sending_and_marking_is_told_once(shop: Shop, paying: User) -> None:
    use(paying, LIMIT + 10, shop.now)
    shop.stripe.cut_next(requests=2)  # Stripe has it, and the answer is lost; the SDK's second try too
    report(shop)
    [row] = OverageReport.objects.all()
    assert (row.sent_at, row.attempts) == (None, 1)
    assert "APIConnectionError" in row.error

    shop.stripe.advance(hours=1)
    report(shop)  # "already exists": it is there

    row.refresh_from_db()
    assert (row.due_at, row.error) == (None, "")
    assert row.sent_at == shop.now
    assert told(shop) == [10]


@pytest.mark.parametrize("arrived", [True, False])
def test_what_may_have_been_sent_longer_ago_than_stripe_remembers_is_looked_up(
    shop: Shop, paying: User, arrived: bool
) -> None:
    use(paying, LIMIT + 10, shop.now)
    if arrived:
        shop.stripe.cut_next(requests=2)
    else:
        shop.stripe.fail_next(requests=2)
    report(shop)
    assert told(shop) == ([10] if arrived else [])

    shop.stripe.advance(days=2)
    report(shop)

    assert told(shop) == [10]
    assert OverageReport.objects.get().sent_at is not None


def test_a_stripe_that_is_away_for_hours_is_told_all_of_it_later(shop: Shop, paying: User) -> None:
    use(paying, LIMIT, shop.now)
    shop.stripe.fail_next(requests=1_000)
    for _ in range(4):
        shop.stripe.advance(hours=2)
        use(paying, 100, shop.now)
        report(shop)
    shop.stripe.fail_next(requests=0)
    for _ in range(8):
        shop.stripe.advance(hours=2)
        report(shop)
    assert told(shop) == [100] * 4


def test_what_is_too_old_for_stripe_is_given_up_and_says_so(shop: Shop, paying: User) -> None:
    use(paying, LIMIT + 10, shop.now)
    overage.report_overage(now=shop.now)
    shop.stripe.advance(days=36)
    metering.send(now=shop.now)
    row = OverageReport.objects.get()
    assert (row.sent_at, row.due_at) == (None, None)
    assert "35 days" in row.error


def test_an_older_count_that_comes_late_adds_nothing(shop: Shop, paying: User) -> None:
    period = SubscriptionPeriod.objects.select_related("user").latest("starts_at")
    assert ledger.note_runs(period, count=lambda: LIMIT + 10, now=shop.now) is not None
    assert ledger.note_runs(period, count=lambda: LIMIT + 4, now=shop.now) is None
    assert OverageReport.objects.get().value == 10


def test_what_comes_to_be_included_during_a_count_is_not_charged(shop: Shop, paying: User) -> None:
    def count() -> int:
        give(paying, "runs_per_month", 5 * LIMIT)
        overrides.forget()
        return LIMIT + 10

    period = SubscriptionPeriod.objects.select_related("user").latest("starts_at")
    assert ledger.note_runs(period, count=count, now=shop.now) is None
    assert SubscriptionPeriod.objects.get(pk=period.pk).included_runs == 5 * LIMIT


@pytest.mark.django_db(transaction=True)
def test_counts_and_sendings_at_a_time_tell_each_run_once(settings: Settings, carol: User) -> None:
    with opened(settings) as shop:
        paying = subscribed(shop, carol)
        use(paying, LIMIT + 10, shop.now)
        now = shop.now
        in_threads(4, lambda: overage.report_overage(now=now))
        in_threads(4, lambda: _send_all(now))
        assert told(shop) == [10]
        assert OverageReport.objects.count() == 1


def _send_all(now: datetime) -> None:
    while metering.send(now=now) is Outcome.DONE:
        pass


def in_threads(count: int, work: Callable[[], Any]) -> None:
    def run() -> None:
        try:
            work()
        finally:
            connection.close()

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
