"""A worker that is killed while it tells Stripe's meter of runs, or handles an event: Stripe's own record is the witness."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from celery import current_app
from django.conf import settings as configured
from django.utils import timezone
from pytest_django import Settings

from accounts.models import User
from billing.dispatch import Job as BillingJob
from billing.models import BillingMail, DeletedRuns, OverageReport, StripeEvent, Subscription, SubscriptionPeriod
from billing.stripe import services
from billing.stripe.client import client
from executions.dispatch import Job
from tests.billing.limits import give
from tests.billing.shop import KEY, Shop, post, sell
from tests.conftest import api_as
from tests.faults.experiment import full_form_only
from tests.faults.processes import Process, worker
from tests.stripe_server import RemoteStripeServer
from tests.waiting import wait_until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.faults]

METER_EVENTS = "/v1/billing/meter_events"
INCLUDED, RUNS = 30, 200
OVER = RUNS - INCLUDED


@pytest.fixture
def shop(transactional_db: None, settings: Settings, tmp_path: Path) -> Iterator[Shop]:
    """With a Stripe that is a process of its own, and goes on when its clients die."""
    process = Process([sys.executable, "-m", "tests.stripe_server"], os.environ, tmp_path / "stripe.log")
    try:
        wait_until(lambda: "\n" in process.output())
        stripe: Any = RemoteStripeServer(process.output().split()[0])
        sell(settings, url=stripe.url, secret=stripe.webhook_secret)
        yield Shop(stripe)
    finally:
        process.kill()


def billing_worker() -> AbstractContextManager[Process]:
    return worker(
        STRIPE_API_KEY=KEY,
        STRIPE_API_BASE=configured.STRIPE_API_BASE,
        STRIPE_WEBHOOK_SECRET=configured.STRIPE_WEBHOOK_SECRET,
    )


def subscribe(shop: Shop, user: User) -> str:
    """On trial, as nobody but Stripe knows yet; the subscription's id."""
    shop.stripe.complete_checkout(shop.checkout(api_as(user)))
    [listed] = client().v1.subscriptions.list({"customer": shop.customer(user)}).data
    return listed.id


def end_trial(subscription: str) -> None:
    client().v1.subscriptions.update(subscription, {"trial_end": "now"})


def asked(shop: Shop, *paths: str) -> int:
    """How many requests Stripe has had, of these paths."""
    return sum(each.path in paths if paths else True for each in shop.stripe.log)


@pytest.fixture
def carol(transactional_db: None) -> User:
    return User.objects.create_user("carol@shop.example")


# The meter. ------------------------------------------------------------------------------------------------------
@pytest.fixture
def over(shop: Shop, carol: User) -> User:
    """A subscriber who has run more than is included."""
    give(carol, "runs_per_month", INCLUDED)
    end_trial(subscribe(shop, carol))
    services.sync_customer(user=carol, now=timezone.now())
    DeletedRuns.objects.create(user=carol, starts_at=timezone.now(), runs=RUNS)
    return carol


@pytest.mark.parametrize(
    "killed",
    [
        pytest.param("before it asks", marks=full_form_only),
        pytest.param("and the request is lost", marks=full_form_only),
        "and the request arrives",
    ],
)
def test_a_worker_killed_between_the_ledger_and_the_meters_answer_tells_of_each_run_once(
    shop: Shop, over: User, killed: str
) -> None:
    with billing_worker() as doomed:
        current_app.send_task(Job.OVERAGE)
        wait_until(OverageReport.objects.exists)
        if killed != "before it asks":
            shop.stripe.slow(2)
            shop.stripe.fail_next(1 if killed == "and the request is lost" else 0)
            current_app.send_task(BillingJob.WORK_ON_STRIPE)
            wait_until(lambda: asked(shop, METER_EVENTS) == 1)
        doomed.kill()
    arrived = killed == "and the request arrives"
    wait_until(lambda: told(shop) == ([OVER] if arrived else []))
    assert OverageReport.objects.get().sent_at is None

    shop.stripe.slow(0)
    OverageReport.objects.update(due_at=timezone.now())  # the wait is over
    with billing_worker():
        current_app.send_task(Job.OVERAGE)
        current_app.send_task(BillingJob.WORK_ON_STRIPE)
        wait_until(lambda: OverageReport.objects.get().sent_at is not None)

    show(shop, killed)
    assert told(shop) == list(OverageReport.objects.values_list("value", flat=True)) == [OVER]
    # The failure may as well meet the second worker's request, which the SDK repeats.
    assert asked(shop, METER_EVENTS) in ({1} if killed == "before it asks" else {2, 3})


def told(shop: Shop) -> list[int]:
    return [int(event["payload"]["value"]) for event in shop.stripe.objects("billing.meter_event")]


def show(shop: Shop, killed: str) -> None:
    ledger = list(OverageReport.objects.values_list("value", flat=True))
    print(f"\nkilled {killed}: ledger {ledger}, meter {told(shop)}, requests {asked(shop, METER_EVENTS)}")


# Events. ---------------------------------------------------------------------------------------------------------
@full_form_only
@pytest.mark.parametrize("nth", [1, 5])
def test_a_worker_killed_while_it_handles_an_event_leaves_the_end_that_it_would_have_come_to(
    shop: Shop, carol: User, nth: int
) -> None:
    """At its first request nothing is written yet; at its fifth the state is, and the mail is not."""
    dora = User.objects.create_user("dora@shop.example")
    events = {user: refused_payment(shop, user) for user in (carol, dora)}
    shop.stripe.slow(1)
    with billing_worker() as doomed:
        before = asked(shop)
        deliver(shop, events[carol])
        current_app.send_task(BillingJob.WORK_ON_STRIPE)
        wait_until(lambda: asked(shop) == before + nth)
        doomed.kill()
    assert StripeEvent.objects.get().handled_at is None
    assert (state(carol)["status"], state(carol)["mails"]) == (
        "trialing" if nth == 1 else "past_due",
        ["trial_started"],
    )

    shop.stripe.slow(0)
    StripeEvent.objects.update(due_at=timezone.now())  # the wait is over
    with billing_worker():
        deliver(shop, events[dora])
        current_app.send_task(BillingJob.WORK_ON_STRIPE)
        wait_until(lambda: not StripeEvent.objects.filter(handled_at=None).exists())

    print(f"\nkilled at request {nth}: {state(carol)}\nnot killed:          {state(dora)}")
    assert state(carol) == state(dora)
    assert state(carol)["mails"] == ["payment_failed_soft", "trial_started"]


def refused_payment(shop: Shop, user: User) -> Any:
    """The trial is known here; it has ended at Stripe with a card that is refused. The event that tells of it."""
    subscription = subscribe(shop, user)
    services.sync_customer(user=user, now=timezone.now())
    shop.stripe.card_declines(shop.customer(user))
    end_trial(subscription)
    return [each for each in shop.stripe.events if each["type"] == "invoice.payment_failed"][-1]


def deliver(shop: Shop, event: Any) -> None:
    body = json.dumps(event)
    assert post(body, shop.stripe.sign(body)).status_code == 200


def state(user: User) -> dict[str, Any]:
    """All that an event may have brought about."""
    subscription = Subscription.objects.get(user=user)
    return {
        "tier": User.objects.get(pk=user.pk).tier,
        "status": subscription.status,
        "failed": subscription.failed_payments,
        "periods": list(
            SubscriptionPeriod.objects.filter(user=user).order_by("starts_at").values_list("trial", flat=True)
        ),
        "mails": sorted(BillingMail.objects.filter(user=user).values_list("kind", flat=True)),
    }
