"""Stripe's signed events: each may come twice, late, in the wrong order, or be about somebody who is not known here."""

import json
import random
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from accounts.models import Tier, User
from accounts.services import apply_clerk_event
from billing import tasks
from billing.dispatch import Job
from billing.errors import NoCustomer
from billing.models import (
    BillingMail,
    EventFlag,
    StripeCustomer,
    StripeEvent,
    Subscription,
    SubscriptionPeriod,
)
from billing.stripe import checkout, services
from billing.stripe.client import client
from bloxserver.core.errors import NotFound
from tests.billing.shop import KEY, Shop, opened, post
from tests.conftest import api_as
from tests.stripe_server import StripeServer
from tests.waiting import wait_until

pytestmark = pytest.mark.django_db

EVENT = {
    "id": "evt_1",
    "object": "event",
    "type": "customer.updated",
    "created": 1_700_000_000,
    "data": {"object": {"id": "cus_nobody", "object": "customer"}},
}


def body(**changes: Any) -> str:
    return json.dumps({**EVENT, **changes})


def signed(shop: Shop, text: str, at: float | None = None) -> Any:
    return post(text, shop.stripe.sign(text, timestamp=None if at is None else int(at)))


# What is let in. -------------------------------------------------------------------------------------------------
def test_an_event_is_stored_once_however_often_it_comes(shop: Shop) -> None:
    before = StripeEvent.objects.count()
    answers = [signed(shop, body()).json() for _ in range(3)]
    assert answers == [{"status": "stored"}, {"status": "repeated"}, {"status": "repeated"}]
    event = StripeEvent.objects.get(pk="evt_1")
    assert (event.type, event.payload, event.created.timestamp()) == ("customer.updated", body(), 1_700_000_000)
    assert StripeEvent.objects.count() == before + 1


@pytest.mark.parametrize(
    "signature",
    [
        "",
        "t=1,v1=",
        "v1=abc",
        "nonsense",
        "t=x,v1=abc",
        "t=99999999999999999999999999,v1=abc",
        "t=1700000000,v1=é",
        "t=1700000000,v0=abc",
    ],
)
def test_a_wrong_signature_is_refused_and_nothing_is_stored(shop: Shop, signature: str) -> None:
    answer = post(body(), signature)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_signature")
    assert not StripeEvent.objects.filter(pk="evt_1").exists()


def test_a_signature_of_another_body_or_secret_is_refused(shop: Shop) -> None:
    others = (shop.stripe.sign(body(id="evt_2")), shop.stripe.sign(body(), secret="whsec_other"))
    for signature in others:
        assert post(body(), signature).status_code == 400
    assert not StripeEvent.objects.filter(pk="evt_1").exists()


@pytest.mark.parametrize(("seconds", "status"), [(-290, 200), (-310, 400), (290, 200), (310, 400)])
def test_a_signature_is_good_for_five_minutes_before_and_after(shop: Shop, seconds: int, status: int) -> None:
    answer = signed(shop, body(), at=time.time() + seconds)
    assert answer.status_code == status
    assert StripeEvent.objects.filter(pk="evt_1").exists() == (status == 200)


def test_no_moment_of_a_signature_may_be_ahead(shop: Shop) -> None:
    ahead = shop.stripe.sign(body(), timestamp=int(time.time()) + 3_600)
    assert post(body(), f"{ahead},t={int(time.time())}").status_code == 400


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        "null",
        body(id="evt_\x00"),
        body(id=1),
        body(id="x" * 300),
        body(type="a b"),
        body(created="now"),
        body(created=10**30),
        body(data={}),
        body(data={"object": 3}),
        "[" * 100_000,
    ],
)
def test_a_body_that_is_no_event_is_refused(shop: Shop, text: str) -> None:
    before = StripeEvent.objects.count()
    assert signed(shop, text).status_code == 400
    assert StripeEvent.objects.count() == before


def test_bytes_that_are_no_text_are_refused(shop: Shop) -> None:
    assert post(b"\xff\xfe", "t=1,v1=abc").status_code == 400


def test_without_a_secret_every_event_is_refused(settings: Settings) -> None:
    settings.STRIPE_WEBHOOK_SECRET = ""
    answer = post(body(), "t=1,v1=abc")
    assert (answer.status_code, answer.json()["code"]) == (503, "billing_not_configured")


# Who it is about. ------------------------------------------------------------------------------------------------
def test_an_unknown_customers_event_is_kept_and_flagged(shop: Shop) -> None:
    assert signed(shop, body()).status_code == 200
    services.work()
    event = StripeEvent.objects.get(pk="evt_1")
    assert (event.flag, event.due_at, event.error) == (EventFlag.UNKNOWN_CUSTOMER, None, "")
    assert event.handled_at is not None


def test_an_event_that_nothing_is_done_about_is_kept(shop: Shop) -> None:
    signed(shop, body(type="charge.refunded"))
    services.work()
    assert StripeEvent.objects.get(pk="evt_1").flag == EventFlag.IGNORED


def test_a_deleted_users_subscription_is_ended_at_stripe_and_its_events_change_nothing(shop: Shop) -> None:
    address = {"id": "idn_1", "email_address": "dora@shop.example"}
    profile = {"id": "user_1", "primary_email_address_id": "idn_1", "email_addresses": [address]}
    apply_clerk_event({"type": "user.created", "data": profile})
    user = User.objects.get(clerk_subject="user_1")
    shop.subscribe(user)
    apply_clerk_event({"type": "user.deleted", "data": {"id": "user_1"}})
    services.work()  # ends it
    before = Subscription.objects.values().get()
    shop.stripe.flush()  # its event

    [subscription] = shop.stripe.objects("subscription")
    assert subscription["status"] == "canceled"
    assert StripeEvent.objects.get(type="customer.subscription.deleted").flag == EventFlag.DELETED_USER
    assert Subscription.objects.values().get() == before
    customer = StripeCustomer.objects.get(user=user)
    assert (customer.close_due_at, customer.email) == (None, "")


def test_what_a_closed_account_had_is_over_here_too(shop: Shop, carol: User) -> None:
    shop.subscribe(carol)
    bury(carol)
    before = timezone.now()
    services.work()
    subscription = Subscription.objects.get()
    assert (subscription.status, subscription.cancel_at, subscription.pending_tier) == ("canceled", None, "")
    assert subscription.ended_at is not None and before <= subscription.ended_at <= timezone.now()
    assert SubscriptionPeriod.objects.get().ends_at == subscription.ended_at


def test_a_closed_accounts_subscription_lives_here_as_long_as_it_does_at_stripe(shop: Shop, carol: User) -> None:
    shop.subscribe(carol)
    bury(carol)
    shop.stripe.fail_next(requests=1_000)
    services.work()
    assert Subscription.objects.get().status == "trialing"


def test_a_page_that_is_open_when_its_account_is_deleted_cannot_be_paid_on(shop: Shop, carol: User) -> None:
    shop.checkout(api_as(carol))
    bury(carol)
    services.work()
    assert [each["status"] for each in shop.stripe.objects("checkout.session")] == ["expired"]


def test_what_is_bought_on_a_page_just_after_the_account_was_deleted_is_ended(shop: Shop, carol: User) -> None:
    session = shop.checkout(api_as(carol))
    bury(carol)
    shop.stripe.webhook_url = _store
    StripeCustomer.objects.update(close_due_at=None)  # closed already, the page notwithstanding
    shop.stripe.complete_checkout(session)
    services.work()
    assert [each["status"] for each in shop.stripe.objects("subscription")] == ["canceled"]
    assert {each.flag for each in StripeEvent.objects.filter(type__in=HANDLED)} == {EventFlag.DELETED_USER}


def test_an_account_that_is_deleted_while_its_checkout_is_made_is_closed(shop: Shop, carol: User) -> None:
    User.objects.filter(pk=carol.pk).update(deleted_at=timezone.now())  # found no customer to close
    checkout.open_checkout(user=carol, tier="pro", now=timezone.now())
    services.work()
    assert [each["status"] for each in shop.stripe.objects("checkout.session")] == ["expired"]


def bury(user: User) -> None:
    User.objects.filter(pk=user.pk).update(clerk_subject="user_2")
    apply_clerk_event({"type": "user.deleted", "data": {"id": "user_2"}})


def test_a_customers_new_address_is_known(shop: Shop, carol: User) -> None:
    shop.subscribe(carol)
    client().v1.customers.update(shop.customer(carol), {"email": "invoices@shop.example"})
    shop.stripe.flush()
    assert StripeCustomer.objects.get(user=carol).email == "invoices@shop.example"


# Failures. -------------------------------------------------------------------------------------------------------
def test_an_event_that_fails_is_tried_again_later_and_says_why(shop: Shop, carol: User) -> None:
    shop.stripe.hold_webhooks()
    shop.stripe.complete_checkout(shop.checkout(api_as(carol)))
    event = next(each for each in shop.stripe.events if each["type"] == "checkout.session.completed")
    shop.stripe.fail_next(requests=100)
    shop.stripe.deliver([event])

    failed = StripeEvent.objects.get(pk=event["id"])
    assert (failed.attempts, failed.handled_at) == (1, None)
    assert failed.due_at is not None and failed.due_at > timezone.now()
    assert "APIError" in failed.error and KEY not in failed.error
    assert not Subscription.objects.exists()

    shop.stripe.fail_next(requests=0)
    StripeEvent.objects.update(due_at=timezone.now())  # the wait is over
    services.work()
    handled = StripeEvent.objects.get(pk=event["id"])
    assert (handled.due_at, handled.error) == (None, "")
    carol.refresh_from_db()
    assert carol.tier == Tier.PRO


def test_an_event_is_given_up_in_the_end_and_an_operator_replays_it(shop: Shop, carol: User) -> None:
    shop.stripe.hold_webhooks()
    shop.stripe.complete_checkout(shop.checkout(api_as(carol)))
    event = next(each for each in shop.stripe.events if each["type"] == "checkout.session.completed")
    shop.stripe.webhook_url = _store
    shop.stripe.deliver([event])
    payload = StripeEvent.objects.get(pk=event["id"]).payload
    StripeEvent.objects.update(payload="{")  # nothing can be done about it
    for _ in range(20):
        StripeEvent.objects.filter(due_at__isnull=False).update(due_at=timezone.now())
        services.work()
    given_up = StripeEvent.objects.get(pk=event["id"])
    assert (given_up.attempts, given_up.due_at, given_up.handled_at) == (8, None, None)

    StripeEvent.objects.filter(pk=event["id"]).update(payload=payload)
    replayed = services.replay_event(event["id"], now=timezone.now())
    assert (replayed.error, replayed.attempts) == ("", 1)
    assert replayed.handled_at is not None
    carol.refresh_from_db()
    assert carol.tier == Tier.PRO
    with pytest.raises(NotFound):
        services.replay_event("evt_none", now=timezone.now())


def test_without_a_key_events_wait(shop: Shop, carol: User, settings: Settings) -> None:
    shop.subscribe(carol)
    signed(shop, body(data={"object": {"id": shop.customer(carol), "object": "customer"}}))
    settings.STRIPE_API_KEY = ""
    services.work()
    event = StripeEvent.objects.get(pk="evt_1")
    assert (event.attempts, event.due_at is not None) == (0, True)


def test_what_was_given_up_is_forgotten_after_90_days(shop: Shop) -> None:
    for days in (89, 91):
        signed(shop, body(id=f"evt_{days}"))
        long_ago = timezone.now() - timedelta(days=days)
        StripeEvent.objects.filter(pk=f"evt_{days}").update(due_at=None, received_at=long_ago)
    services.work()
    assert [event.pk for event in StripeEvent.objects.filter(pk__in=["evt_89", "evt_91"])] == ["evt_89"]


def test_two_subscriptions_are_warned_of(shop: Shop, carol: User, caplog: pytest.LogCaptureFixture) -> None:
    shop.subscribe(carol)
    [price] = client().v1.prices.list({"lookup_keys": ["blox_pro_monthly"]}).data
    client().v1.subscriptions.create({"customer": shop.customer(carol), "items": [{"price": price.id}]})
    shop.stripe.flush()
    assert "several subscriptions" in caplog.text


def test_no_event_is_given_up_while_stripe_is_away(shop: Shop, carol: User) -> None:
    shop.subscribe(carol)
    text = body(data={"object": {"id": shop.customer(carol), "object": "customer"}})
    signed(shop, text)
    shop.stripe.fail_next(requests=1_000)
    for _ in range(20):
        StripeEvent.objects.filter(due_at__isnull=False).update(due_at=timezone.now())
        services.work()
    event = StripeEvent.objects.get(pk="evt_1")
    assert event.due_at is not None and event.due_at <= timezone.now() + timedelta(hours=1)


def test_one_customers_too_many_requests_hold_up_no_other(shop: Shop, carol: User) -> None:
    shop.subscribe(carol)
    signed(shop, body(data={"object": {"id": shop.customer(carol), "object": "customer"}}))
    signed(shop, body(id="evt_2"))
    shop.stripe.fail_next(requests=2, status=429)
    services.work()
    events = {event.pk: event.handled_at is not None for event in StripeEvent.objects.filter(pk__in=["evt_1", "evt_2"])}
    assert events == {"evt_1": False, "evt_2": True}


def test_an_event_that_was_given_up_is_handled_when_it_is_sent_again(shop: Shop) -> None:
    signed(shop, body())
    StripeEvent.objects.filter(pk="evt_1").update(attempts=8, due_at=None, error="It failed.")
    assert signed(shop, body()).json() == {"status": "repeated"}
    services.work()
    event = StripeEvent.objects.get(pk="evt_1")
    assert (event.flag, event.handled_at is not None) == (EventFlag.UNKNOWN_CUSTOMER, True)
    assert signed(shop, body()).json() == {"status": "repeated"}
    assert StripeEvent.objects.get(pk="evt_1").due_at is None  # what is done stays so


def test_a_change_whose_event_was_lost_is_seen_within_a_day(shop: Shop, carol: User) -> None:
    shop.subscribe(carol)
    lose_the_end(shop)
    services.work()
    assert User.objects.get(pk=carol.pk).tier == Tier.PRO
    assert read_again_in(carol) == timedelta(days=1)
    StripeCustomer.objects.update(resync_due_at=timezone.now())
    services.work()
    assert User.objects.get(pk=carol.pk).tier == Tier.FREE
    assert StripeCustomer.objects.get().resync_due_at is None  # nothing lives that could end


def read_again_in(user: User) -> timedelta:
    """After the last read, if no event comes."""
    customer = StripeCustomer.objects.get(user=user)
    assert customer.resync_due_at is not None and customer.synced_at is not None
    return customer.resync_due_at - customer.synced_at


@pytest.mark.parametrize(("days", "moment"), [(0, "trial_ends_at"), (15, "period_end"), (15, "cancel_at")])
def test_an_hour_after_a_moment_that_should_change_something_stripe_is_asked(
    shop: Shop, carol: User, days: int, moment: str
) -> None:
    subscription = shop.subscribe(carol)
    shop.stripe.advance(days=days)
    if moment == "cancel_at":
        in_five_days = shop.stripe.now + 5 * 86_400
        client().v1.subscriptions.update(subscription.stripe_id, {"cancel_at": in_five_days})
        services.sync_customer(user=carol, now=shop.now)
    subscription.refresh_from_db()
    at, hour = getattr(subscription, moment), timedelta(hours=1)

    def asked_at(now: datetime) -> datetime | None:
        """If no event comes, after a read at `now` by which nothing has changed."""
        services.sync_customer(user=carol, now=now)
        return StripeCustomer.objects.get().resync_due_at

    assert [asked_at(at + minutes * hour / 60) for minutes in (-30, 30)] == [at + hour] * 2
    assert asked_at(at + hour) == at + hour + timedelta(days=1)  # it is still so: not asked in each round


def test_a_read_that_stripe_is_away_for_is_due_again_at_once(shop: Shop, carol: User) -> None:
    shop.subscribe(carol)
    now = timezone.now()
    StripeCustomer.objects.update(resync_due_at=now)
    shop.stripe.fail_next(requests=1_000)
    services.work()
    assert StripeCustomer.objects.get().resync_due_at == now


def test_a_read_that_breaks_off_is_due_again_in_a_day(shop: Shop, carol: User) -> None:
    shop.subscribe(carol)
    now = timezone.now()
    StripeCustomer.objects.update(resync_due_at=now)
    shop.stripe.fail_next(requests=1_000, status=400)
    asked = len(shop.paths())
    services.work()
    due_at = StripeCustomer.objects.get().resync_due_at
    assert due_at is not None and due_at >= now + timedelta(days=1)
    assert shop.paths()[asked:] == [f"GET /v1/customers/{shop.customer(carol)}"]


def test_a_closed_account_is_not_read_again(shop: Shop, carol: User) -> None:
    shop.subscribe(carol)
    bury(carol)
    StripeCustomer.objects.update(resync_due_at=timezone.now())
    services.work()
    assert StripeCustomer.objects.get().resync_due_at is None


def lose_the_end(shop: Shop) -> None:
    shop.stripe.webhook_url = None
    [subscription] = shop.stripe.objects("subscription")
    client().v1.subscriptions.cancel(subscription["id"])


def test_an_event_that_a_dying_worker_had_taken_up_is_handled_all_the_same(shop: Shop) -> None:
    signed(shop, body())
    StripeEvent.objects.update(attempts=1, due_at=timezone.now())  # claimed, and the wait over, without a word
    services.work()
    assert StripeEvent.objects.get(pk="evt_1").handled_at is not None


def test_an_operator_brings_a_user_to_what_stripe_says(shop: Shop, carol: User) -> None:
    with pytest.raises(NoCustomer):
        services.sync_customer(user=carol, now=timezone.now())
    shop.stripe.hold_webhooks()
    shop.stripe.complete_checkout(shop.checkout(api_as(carol)))
    services.sync_customer(user=carol, now=timezone.now())
    carol.refresh_from_db()
    assert carol.tier == Tier.PRO


# Order. ----------------------------------------------------------------------------------------------------------
def lives(shop: Shop, users: list[User]) -> None:
    """Some months of several customers: trials, payments, refusals, recoveries, ends."""
    for user in users:
        shop.subscribe_unheard(user)
    for number, user in enumerate(users):
        if number % 3 == 1:
            shop.stripe.card_declines(shop.customer(user))
    shop.stripe.advance(days=16)
    for number, (user, subscription) in enumerate(zip(users, shop.stripe.objects("subscription"), strict=True)):
        if number % 3 == 2:
            client().v1.subscriptions.update(subscription["id"], {"cancel_at_period_end": True})
        if number % 6 == 1:
            shop.stripe.card_works(shop.customer(user))
    shop.stripe.advance(days=40)


QUICK = Client()  # one: each loads the middleware anew


def receive_quickly(body: bytes, headers: dict[str, str]) -> int:
    """Without holding each answer against the document; then the worker hears of what is new."""
    content: Any = body
    answer = QUICK.generic(
        "POST",
        "/webhooks/stripe",
        content,
        "application/json",
        headers={"Stripe-Signature": headers["Stripe-Signature"]},
    )
    if answer.json()["status"] == "stored":
        services.work()
    return answer.status_code


def end_state() -> dict[str, Any]:
    """All that events bring about, without what a moment or a counter of ours gives."""
    moments = {"synced_at", "resync_due_at", "created_at", "count_due_at"}
    left_out = {"id", "ticket", "applied_ticket", "user_id", *moments}

    def rows(model: Any) -> list[Any]:
        return sorted(
            str({name: value for name, value in row.items() if name not in left_out}) for row in model.objects.values()
        )

    return {
        "subscriptions": rows(Subscription),
        "periods": rows(SubscriptionPeriod),
        "customers": rows(StripeCustomer),
        "tiers": sorted(User.objects.values_list("email", "tier")),
        "mails": sorted(BillingMail.objects.exclude(kind__in=LIVE_ONLY).values_list("dedupe_key", flat=True)),
    }


LIVE_ONLY = ("trial_started", "trial_ending", "canceled", "downgraded", "back_to_free")  # what is over is not told of


@pytest.mark.once
def test_the_same_200_events_in_any_order_and_three_times_over_lead_to_one_end(settings: Settings) -> None:
    ends = []
    with opened(settings) as shop:
        users = [User.objects.create_user(f"user{number}@shop.example") for number in range(15)]
        shop.stripe.webhook_url = None  # nobody is there
        lives(shop, users)
        shop.stripe.webhook_url = receive_quickly
        events = [event for event in shop.stripe.events if event["type"] in HANDLED][:200]
        assert len(events) == 200
        for seed in range(2):
            forget_all()
            told = events * 3
            random.Random(seed).shuffle(told)
            assert set(shop.stripe.deliver(told)) == {200}
            ends.append(end_state())
    assert ends[0] == ends[1]
    assert StripeEvent.objects.filter(handled_at=None).count() == 0
    assert {tier for _, tier in ends[0]["tiers"]} == {"pro", "free"}


HANDLED = {
    "checkout.session.completed",
    "customer.subscription.created",
    "customer.subscription.updated",
    "customer.subscription.deleted",
    "customer.subscription.trial_will_end",
    "customer.updated",
    "invoice.paid",
    "invoice.payment_failed",
    "invoice.upcoming",
}


def forget_all() -> None:
    for model in (Subscription, SubscriptionPeriod, BillingMail, StripeEvent):
        model.objects.all().delete()
    User.objects.update(tier=Tier.FREE)


@pytest.mark.once
def test_the_live_order_leads_to_the_same_end_as_any_other(settings: Settings) -> None:
    with opened(settings) as shop:
        users = [User.objects.create_user(f"user{number}@shop.example") for number in range(3)]
        shop.stripe.webhook_url = receive_quickly
        lives(shop, users)
        live = end_state()
        forget_all()
        shop.stripe.deliver([each for each in shop.stripe.events if each["type"] in HANDLED], order="reversed")
        reversed_end = end_state()
    for kind in ("subscriptions", "customers", "tiers"):
        assert live[kind] == reversed_end[kind]


# Two at a time. --------------------------------------------------------------------------------------------------
@pytest.mark.django_db(transaction=True)
def test_a_slow_older_read_does_not_undo_a_newer_one(settings: Settings, carol: User) -> None:
    with opened(settings) as shop:
        shop.subscribe(carol)
        shop.stripe.hold_webhooks()
        gate, resume = threading.Event(), threading.Event()
        older = threading.Thread(target=_stalled_sync, args=(carol, gate, resume))
        older.start()
        assert gate.wait(10)  # the older read has been made: still on trial
        shop.stripe.advance(days=3)
        services.cancel_subscription(user=carol, at_period_end=False, now=timezone.now())
        resume.set()
        older.join()
    assert Subscription.objects.get(user=carol).status == "canceled"
    carol.refresh_from_db()
    assert carol.tier == Tier.FREE


def _stalled_sync(user: User, gate: threading.Event, resume: threading.Event) -> None:
    """A sync in its three steps, with a long pause between the reading and the writing."""
    from billing.stripe import sync
    from billing.stripe.reading import read_customer

    try:
        customer = StripeCustomer.objects.get(user=user)
        ticket = sync._take_ticket(customer)
        read = read_customer(customer.stripe_id)
        gate.set()
        resume.wait(10)
        assert not sync.apply(customer, ticket=ticket, missed={}, read=read, now=timezone.now())
    finally:
        connection.close()


@pytest.mark.django_db(transaction=True)
def test_a_stripe_that_hangs_holds_up_neither_the_clock_nor_executions(settings: Settings, carol: User) -> None:
    [entry] = [each for each in settings.CELERY_BEAT_SCHEDULE.values() if each["task"] == Job.WORK_ON_STRIPE]
    assert entry["options"]["queue"] == "clock"
    with opened(settings) as shop:
        shop.stripe.webhook_url = _store
        shop.subscribe_unheard(carol)
        shop.stripe.slow(0.5)
        started = time.monotonic()
        tasks.work_on_stripe()
        assert time.monotonic() - started < 0.4
        wait_until(lambda: not StripeEvent.objects.filter(handled_at=None).exists())
        wait_until(lambda: all(thread.name != "billing-stripe" for thread in threading.enumerate()))
    carol.refresh_from_db()
    assert carol.tier == Tier.PRO


@pytest.mark.django_db(transaction=True)
def test_workers_that_handle_one_customers_events_at_a_time_agree(settings: Settings, carol: User) -> None:
    with opened(settings) as shop:
        shop.stripe.webhook_url = _store
        shop.subscribe_unheard(carol)
        in_threads(4, services.work)
    carol.refresh_from_db()
    assert carol.tier == Tier.PRO
    assert Subscription.objects.count() == SubscriptionPeriod.objects.count() == 1
    assert BillingMail.objects.filter(kind="trial_started").count() == 1
    assert not StripeEvent.objects.filter(handled_at=None).exists()


def _store(body: bytes, headers: dict[str, str]) -> int:
    status: int = post(body, headers["Stripe-Signature"]).status_code
    return status


def in_threads(count: int, work: Callable[[], None]) -> None:
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


def test_events_reach_the_server_over_http_signed_by_stripes_own_scheme(shop: Shop) -> None:
    """The stand-in signs by itself; the SDK's own signer is the witness that it does so rightly."""
    from stripe import WebhookSignature

    header = WebhookSignature.generate_signature_header(body(), shop.stripe.webhook_secret)
    assert post(body(), header).status_code == 200
    assert isinstance(shop.stripe, StripeServer)
