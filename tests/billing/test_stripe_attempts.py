"""Attempts at events and at the meter: each claimed by one, put off longer each time, and silent once overtaken."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from queue import Empty
from typing import Any

import pytest
from celery import current_app
from django.db import connection
from django.utils import timezone
from pytest_django import Settings

from accounts.models import Tier, User
from billing.dispatch import Job
from billing.errors import BillingUnavailable
from billing.models import BillingMail, OverageReport, StripeCustomer, StripeEvent, Subscription, SubscriptionPeriod
from billing.stripe import metering, services
from billing.stripe.events import MAX_ATTEMPTS, handle
from executions import overage
from tests.billing.limits import all_at_once
from tests.billing.shop import KEY, Shop, opened
from tests.billing.test_overage import LIMIT, report, subscribed, told, use
from tests.billing.test_stripe_webhooks import body, signed
from tests.billing.test_subscriptions import past_due
from tests.local_server import Received, answer, serving

pytestmark = pytest.mark.django_db

REFUSAL = json.dumps({"error": {"type": "invalid_request_error", "message": "It comes late."}}).encode()


def updated(shop: Shop, user: User, id: str = "evt_1") -> StripeEvent:
    """An event of the user's customer that has come and is due."""
    signed(shop, body(id=id, data={"object": {"id": shop.customer(user), "object": "customer"}}))
    return StripeEvent.objects.get(pk=id)


@contextmanager
def overtaken(settings: Settings, shop: Shop) -> Iterator[None]:
    """The clock makes an attempt at which Stripe answers with a refusal only after the block."""
    asked, resume = threading.Event(), threading.Event()

    def refuse_late(_: Received) -> bytes:
        asked.set()
        resume.wait(20)
        return answer(400, REFUSAL)

    def attempt() -> None:
        try:
            services.work()
        finally:
            connection.close()

    with serving(refuse_late) as slow:
        settings.STRIPE_API_BASE = slow.url
        late = threading.Thread(target=attempt)
        late.start()
        assert asked.wait(10)
        settings.STRIPE_API_BASE = shop.stripe.url
        try:
            yield
        finally:
            resume.set()
            late.join(20)


# Events. -----------------------------------------------------------------------------------------------------------
@pytest.mark.django_db(transaction=True)
def test_of_several_clocks_that_look_at_once_one_handles_an_event(settings: Settings, carol: User) -> None:
    with opened(settings) as shop:
        shop.subscribe(carol)
        updated(shop, carol)
        before = len(shop.paths())
        all_at_once([services.work] * 4, held_up="UPDATE")
        assert shop.paths()[before:].count(f"GET /v1/customers/{shop.customer(carol)}") == 1


@pytest.mark.django_db(transaction=True)
def test_a_failure_that_comes_after_the_event_was_handled_says_nothing(settings: Settings, carol: User) -> None:
    with opened(settings) as shop:
        shop.subscribe(carol)
        event = updated(shop, carol)
        with overtaken(settings, shop):
            assert services.replay_event(event.pk, now=timezone.now()).state == "done"
    event.refresh_from_db()
    assert (event.state, event.error) == ("done", "")


def test_an_event_is_put_off_longer_after_each_failure_and_given_up_after_the_eighth(shop: Shop, carol: User) -> None:
    shop.subscribe(carol)
    event = updated(shop, carol)
    StripeEvent.objects.filter(pk=event.pk).update(payload="{")  # nothing can be done about it
    waits, now = [], timezone.now()
    for _ in range(8):
        handle(now=now)
        event.refresh_from_db()
        waits.append(event.due_at and (event.due_at - now) // timedelta(minutes=1))
        now = event.due_at or now
    assert waits == [1, 5, 30, 2 * 60, 6 * 60, 12 * 60, 24 * 60, None]


def test_an_event_whose_last_attempt_broke_off_is_given_up_and_says_so(shop: Shop) -> None:
    signed(shop, body())
    StripeEvent.objects.update(attempts=MAX_ATTEMPTS)  # claimed for the last time, and the wait over, without a word
    services.work()
    event = StripeEvent.objects.get(pk="evt_1")
    assert (event.state, event.attempts) == ("given up", MAX_ATTEMPTS)
    assert "broke off" in event.error


def test_while_stripe_is_away_one_event_a_round_is_tried(shop: Shop, carol: User) -> None:
    shop.subscribe(carol)
    for name in ("evt_1", "evt_2"):
        updated(shop, carol, name)
    shop.stripe.fail_next(requests=1_000)
    services.work()
    assert list(StripeEvent.objects.filter(due_at__isnull=False).order_by("pk").values_list("attempts", flat=True)) == [
        1,
        0,
    ]


def test_a_backlog_of_events_holds_up_neither_overage_nor_closing_nor_reading(shop: Shop, carol: User) -> None:
    use(subscribed(shop, carol), LIMIT + 10, shop.now)
    overage.report_overage(now=shop.now)
    OverageReport.objects.update(due_at=timezone.now())
    leaving, silent = (User.objects.create_user(f"{name}@shop.example") for name in ("leaving", "silent"))
    for user in (leaving, silent):
        shop.subscribe(user)
    StripeCustomer.objects.filter(user=leaving).update(close_due_at=timezone.now())
    StripeCustomer.objects.filter(user=silent).update(resync_due_at=timezone.now(), email="")
    for number in range(100):
        updated(shop, carol, f"evt_{number}")

    services.work(seconds=0.1)

    assert StripeEvent.objects.due(timezone.now()).count() > 0
    assert told(shop) == [10]
    assert StripeCustomer.objects.get(user=leaving).close_due_at is None
    assert StripeCustomer.objects.get(user=silent).email == silent.email


def test_what_one_kind_of_work_leaves_over_the_others_use(shop: Shop, carol: User) -> None:
    shop.subscribe(carol)
    for number in range(20):
        updated(shop, carol, f"evt_{number}")
    services.work()
    assert not StripeEvent.objects.due(timezone.now()).exists()


def test_no_event_is_given_up_while_stripe_refuses_the_key(shop: Shop, carol: User) -> None:
    shop.subscribe(carol)
    event = updated(shop, carol)
    StripeEvent.objects.filter(pk=event.pk).update(attempts=MAX_ATTEMPTS - 1)
    shop.stripe.refuse_key(KEY)
    services.work()
    event.refresh_from_db()
    assert event.due_at is not None and event.due_at <= timezone.now() + timedelta(hours=1)


def test_a_subscription_that_has_ended_is_no_second_one(
    shop: Shop, carol: User, caplog: pytest.LogCaptureFixture
) -> None:
    shop.subscribe(carol)
    services.cancel_subscription(user=carol, at_period_end=False, now=shop.now)
    shop.subscribe(carol)
    assert Subscription.objects.count() == 2
    assert "several subscriptions" not in caplog.text


def test_an_account_that_is_blocked_and_not_deleted_keeps_its_subscription(shop: Shop, carol: User) -> None:
    shop.subscribe(carol)
    User.objects.filter(pk=carol.pk).update(is_active=False)
    event = updated(shop, carol)
    services.work()
    event.refresh_from_db()
    assert (event.state, shop.stripe.objects("subscription")[0]["status"]) == ("done", "trialing")


def rung(queue: str) -> list[str]:
    """The tasks that were sent to a queue, taken off it."""
    names: list[str] = []
    with current_app.connection_for_read() as connection, suppress(Empty):
        bells = connection.SimpleQueue(queue, no_ack=True)
        while True:
            names.append(bells.get_nowait().headers["task"])
    return names


def test_the_clock_is_rung_for_an_event_that_is_new_or_taken_up_again(
    shop: Shop, django_capture_on_commit_callbacks: Any
) -> None:
    def come() -> list[str]:
        with django_capture_on_commit_callbacks(execute=True):
            signed(shop, body())
        return rung("clock")

    rung("clock")
    assert (come(), come()) == ([Job.WORK_ON_STRIPE], [])
    StripeEvent.objects.update(due_at=None)  # it was given up
    assert (come(), come()) == ([Job.WORK_ON_STRIPE], [])


# The meter. --------------------------------------------------------------------------------------------------------
@pytest.fixture
def paying(shop: Shop, carol: User) -> User:
    return subscribed(shop, carol)


def meter_posts(shop: Shop) -> int:
    return shop.paths().count("POST /v1/billing/meter_events")


@pytest.mark.django_db(transaction=True)
def test_of_several_clocks_that_look_at_once_one_tells_the_meter(settings: Settings, carol: User) -> None:
    with opened(settings) as shop:
        use(subscribed(shop, carol), LIMIT + 10, shop.now)
        overage.report_overage(now=shop.now)
        all_at_once([lambda: metering.send(now=shop.now)] * 4, held_up="UPDATE")
        assert meter_posts(shop) == 1


@pytest.mark.django_db(transaction=True)
def test_counts_at_a_time_write_the_ledger_once_and_none_fails(settings: Settings, carol: User) -> None:
    with opened(settings) as shop:
        paying = subscribed(shop, carol)
        use(paying, LIMIT + 10, shop.now)
        all_at_once([lambda: overage.report_overage_of(paying, now=shop.now)] * 4)
    assert [(row.sequence, row.value) for row in OverageReport.objects.all()] == [(1, 10)]


@pytest.mark.django_db(transaction=True)
def test_a_refusal_that_comes_after_the_meter_was_told_says_nothing(settings: Settings, carol: User) -> None:
    """On a row that was sent an error would say that the customer is to be charged by hand."""
    with opened(settings) as shop:
        use(subscribed(shop, carol), LIMIT + 10, shop.now)
        now = timezone.now()
        overage.report_overage(now=shop.now)
        OverageReport.objects.update(due_at=now)
        with overtaken(settings, shop):
            OverageReport.objects.update(due_at=now)  # the wait is over
            metering.send(now=shop.now)
        assert told(shop) == [10]
    row = OverageReport.objects.get()
    assert (row.sent_at is not None, row.error) == (True, "")


def test_a_row_that_fails_is_put_off_longer_each_time_up_to_an_hour(shop: Shop, paying: User) -> None:
    use(paying, LIMIT + 10, shop.now)
    overage.report_overage(now=shop.now)
    shop.stripe.fail_next(requests=1_000)
    waits, now = [], shop.now
    for _ in range(5):
        metering.send(now=now)
        due_at = OverageReport.objects.get().due_at
        assert due_at is not None
        waits.append((due_at - now) // timedelta(minutes=1))
        now = due_at
    assert waits == [1, 5, 30, 60, 60]


def test_a_periods_rows_are_told_in_their_order(shop: Shop, paying: User) -> None:
    """The look into the meter's sum counts on it."""
    use(paying, LIMIT + 10, shop.now)
    overage.report_overage(now=shop.now)
    OverageReport.objects.update(due_at=shop.now + timedelta(hours=2))  # it has failed
    shop.stripe.advance(hours=1)
    use(paying, 7, shop.now)
    report(shop)
    assert told(shop) == []
    shop.stripe.advance(hours=1)
    report(shop)
    assert told(shop) == [10, 7]


def test_how_long_stripe_remembers_counts_from_the_first_attempt(shop: Shop, paying: User) -> None:
    use(paying, LIMIT + 10, shop.now)
    shop.stripe.cut_next(requests=2)  # it arrives
    report(shop)
    shop.stripe.advance(hours=22)
    shop.stripe.fail_next(requests=2)
    metering.send(now=shop.now)
    shop.stripe.advance(hours=22)
    metering.send(now=shop.now)
    assert told(shop) == [10]
    assert OverageReport.objects.get().sent_at is not None


def test_what_was_told_before_is_not_taken_for_a_row_that_has_not_arrived(shop: Shop, paying: User) -> None:
    use(paying, LIMIT + 10, shop.now)
    report(shop)
    shop.stripe.advance(hours=1)
    use(paying, 7, shop.now)
    shop.stripe.fail_next(requests=2)
    report(shop)
    shop.stripe.advance(days=2)
    report(shop)
    assert told(shop) == [10, 7]


def test_rows_of_others_and_of_other_periods_do_not_hide_that_one_has_arrived(shop: Shop, paying: User) -> None:
    start = SubscriptionPeriod.objects.latest("starts_at").starts_at
    other = User.objects.create_user("other@shop.example")
    for user, period_start in ((other, start), (paying, start - timedelta(days=31))):
        sent = {"period_start": period_start, "used_at": shop.now, "due_at": None, "sent_at": shop.now}
        OverageReport.objects.create(user=user, sequence=1, value=50, identifier=f"blox-{user.pk}", **sent)
    use(paying, LIMIT + 10, shop.now)
    shop.stripe.cut_next(requests=2)
    report(shop)
    shop.stripe.advance(days=2)
    report(shop)
    assert told(shop) == [10]


def test_what_is_told_within_the_hour_after_its_period_is_on_the_invoice_and_needs_nobody(
    shop: Shop, paying: User
) -> None:
    use(paying, LIMIT + 3_000, shop.now)
    period = SubscriptionPeriod.objects.latest("starts_at")
    shop.stripe.advance_to(period.ends_at + timedelta(minutes=59))
    report(shop)
    assert OverageReport.objects.get().error == ""
    shop.stripe.advance(hours=1)
    assert shop.stripe.objects("invoice")[-1]["amount_due"] == 2_900 + 150


def test_what_waits_for_another_attempt_is_on_the_last_invoice_too(shop: Shop, paying: User) -> None:
    use(paying, LIMIT + 3_000, shop.now)
    shop.stripe.fail_next(requests=2)
    report(shop)
    OverageReport.objects.update(due_at=shop.now + timedelta(hours=1))  # it has failed again and again
    shop.stripe.advance(seconds=30)
    services.cancel_subscription(user=paying, at_period_end=False, now=shop.now)
    assert told(shop) == [3_000]
    assert shop.stripe.objects("invoice")[-1]["amount_due"] == 150


@pytest.mark.parametrize("status", [500, 429])
def test_a_subscription_is_not_ended_while_the_meter_does_not_take_its_last_runs(
    shop: Shop, paying: User, status: int
) -> None:
    use(paying, LIMIT + 3_000, shop.now)
    shop.stripe.fail_next(1, status, after=1)  # the subscriptions are asked for before
    with pytest.raises(BillingUnavailable):
        services.cancel_subscription(user=paying, at_period_end=False, now=shop.now)
    assert shop.stripe.objects("subscription")[0]["status"] == "active"
    assert User.objects.get(pk=paying.pk).tier == Tier.PRO

    services.cancel_subscription(user=paying, at_period_end=False, now=shop.now)
    assert shop.stripe.objects("invoice")[-1]["amount_due"] == 150


def test_what_is_used_in_a_trial_costs_nothing_either_when_it_is_ended_at_once(shop: Shop, carol: User) -> None:
    shop.subscribe(carol)
    use(carol, LIMIT + 3_000, shop.now)
    services.cancel_subscription(user=carol, at_period_end=False, now=shop.now)
    assert (told(shop), OverageReport.objects.count()) == ([], 0)


# Mails. ------------------------------------------------------------------------------------------------------------
def trial_ending(shop: Shop, user: User) -> StripeEvent:
    """The event of three days before the end of the user's trial, which has come."""
    shop.subscribe(user)
    shop.stripe.advance(days=12)
    return StripeEvent.objects.get(type="customer.subscription.trial_will_end")


def kinds() -> list[str]:
    return list(BillingMail.objects.order_by("created_at", "id").values_list("kind", flat=True))


def test_that_a_trial_ends_is_mailed_once_however_often_its_event_is_handled(shop: Shop, carol: User) -> None:
    event = trial_ending(shop, carol)
    for _ in range(2):
        services.replay_event(event.pk, now=timezone.now())
    assert kinds() == ["trial_started", "trial_ending"]


def test_who_has_cancelled_is_not_told_that_the_trial_ends(shop: Shop, carol: User) -> None:
    shop.subscribe(carol)
    services.cancel_subscription(user=carol, now=timezone.now())
    shop.stripe.advance(days=12)
    assert StripeEvent.objects.filter(type="customer.subscription.trial_will_end").exists()
    assert kinds() == ["trial_started", "canceled"]


def test_a_trials_end_that_is_heard_of_when_it_is_over_is_not_mailed(shop: Shop, carol: User) -> None:
    event = trial_ending(shop, carol)
    shop.stripe.advance(days=3)
    BillingMail.objects.all().delete()
    services.replay_event(event.pk, now=timezone.now())
    assert kinds() == []


@pytest.mark.parametrize("status", ["paid", "void"])
def test_a_failed_payment_that_is_heard_of_when_nothing_is_owed_is_not_mailed(
    shop: Shop, carol: User, status: str
) -> None:
    shop.subscribe(carol)
    shop.stripe.advance(days=15)
    shop.stripe.card_declines(shop.customer(carol))
    shop.stripe.advance(days=31)
    failed = StripeEvent.objects.get(type="invoice.payment_failed")
    [invoice] = [each for each in shop.stripe.world.all("invoice") if each["status"] == "open"]
    invoice["status"] = status  # by an operator, in the dashboard: no attempt was made
    BillingMail.objects.all().delete()
    services.replay_event(failed.pk, now=timezone.now())
    assert kinds() == []


# What is read. -----------------------------------------------------------------------------------------------------
def test_an_invoice_that_is_written_off_does_not_bring_the_tier_back(shop: Shop, carol: User) -> None:
    past_due(shop, carol)
    for invoice in shop.stripe.world.tables["invoice"].values():
        if invoice["status"] == "open":
            invoice["status"] = "uncollectible"  # by an operator, in the dashboard
    services.sync_customer(user=carol, now=shop.now)
    subscription = Subscription.objects.get()
    assert (subscription.status, subscription.failed_payments) == ("past_due", 3)
    assert User.objects.get(pk=carol.pk).tier == Tier.FREE


def test_what_has_ended_is_not_said_to_end(shop: Shop, carol: User) -> None:
    shop.subscribe(carol)
    services.cancel_subscription(user=carol, now=timezone.now())
    shop.stripe.advance(days=15)
    subscription = Subscription.objects.get()
    assert (subscription.status, subscription.cancel_at, subscription.pending_tier) == ("canceled", None, "")
    assert subscription.ended_at is not None
