"""Subscribing, and managing a subscription, on Stripe's own pages."""

import json
import subprocess
import sys
import threading
import time
from typing import Any

import pytest
from pytest_django import Settings
from rest_framework.test import APIClient

from accounts.models import User
from billing.errors import AlreadySubscribed, BillingUnavailable
from billing.models import StripeCustomer, Subscription, SubscriptionPeriod
from billing.stripe import checkout
from billing.stripe.client import client
from billing.stripe.customers import customer_of
from tests.billing.limits import all_at_once
from tests.billing.shop import CHECKOUT, KEY, PORTAL, Shop, opened
from tests.billing.test_subscriptions import past_due
from tests.conftest import api_as
from tests.local_server import Received, answer, serving

pytestmark = pytest.mark.django_db


def test_without_a_key_nothing_is_sold(carol: User) -> None:
    for path, body in ((CHECKOUT, {"tier": "pro"}), (PORTAL, {})):
        answer = api_as(carol).post(path, body)
        assert (answer.status_code, answer.json()["code"]) == (503, "billing_not_configured")


def test_the_first_subscription_begins_with_a_trial_of_14_days_in_which_nothing_is_charged(
    shop: Shop, carol: User
) -> None:
    session = shop.checkout(api_as(carol))
    [asked] = shop.stripe.objects("checkout.session")
    assert (asked["id"], asked["client_reference_id"], asked["mode"]) == (session, str(carol.pk), "subscription")

    shop.stripe.complete_checkout(session)

    subscription = Subscription.objects.get(user=carol)
    assert (subscription.status, subscription.tier, subscription.price_lookup_key) == (
        "trialing",
        "pro",
        "blox_pro_monthly",
    )
    assert subscription.trial_ends_at is not None
    assert (subscription.trial_ends_at - shop.now).days == 14
    assert [invoice["amount_due"] for invoice in shop.stripe.objects("invoice")] == [0]
    carol.refresh_from_db()
    assert carol.tier == "pro"


def test_stripe_has_one_customer_a_user_however_often_the_checkout_is_opened(shop: Shop, carol: User) -> None:
    for _ in range(3):
        shop.checkout(api_as(carol))
    [customer] = shop.stripe.objects("customer")
    assert (customer["email"], customer["metadata"]) == (carol.email, {"user_id": str(carol.pk)})
    assert StripeCustomer.objects.get().stripe_id == customer["id"]


def test_a_customer_that_was_made_just_before_a_crash_is_found_again(shop: Shop, carol: User) -> None:
    shop.checkout(api_as(carol))
    StripeCustomer.objects.all().delete()  # as if the process had died before it wrote the row
    shop.checkout(api_as(carol))
    assert len(shop.stripe.objects("customer")) == 1


def test_one_page_at_a_time_can_be_paid_on(shop: Shop, carol: User) -> None:
    first, second = (shop.checkout(api_as(carol)) for _ in range(2))
    status = {session["id"]: session["status"] for session in shop.stripe.objects("checkout.session")}
    assert status == {first: "expired", second: "open"}


def test_who_subscribes_already_is_refused(shop: Shop, carol: User) -> None:
    shop.subscribe(carol)
    answer = api_as(carol).post(CHECKOUT, {"tier": "pro"})
    assert (answer.status_code, answer.json()["code"]) == (409, "already_subscribed")
    assert len(shop.stripe.objects("checkout.session")) == 1


def test_who_subscribed_a_moment_ago_is_refused_before_any_event_has_come(shop: Shop, carol: User) -> None:
    shop.stripe.hold_webhooks()
    shop.stripe.complete_checkout(shop.checkout(api_as(carol)))
    answer = api_as(carol).post(CHECKOUT, {"tier": "pro"})
    assert (answer.status_code, answer.json()["code"]) == (409, "already_subscribed")


def test_the_trial_is_given_once_a_user(shop: Shop, carol: User) -> None:
    shop.subscribe(carol)
    shop.stripe.advance(days=3)
    [first] = shop.stripe.objects("subscription")
    _end(shop, first["id"])
    again = shop.subscribe(carol)
    assert (again.status, again.trial_ends_at) == ("active", None)


def test_who_was_deleted_at_stripe_buys_as_a_new_customer_without_a_second_trial(shop: Shop, carol: User) -> None:
    shop.subscribe(carol)
    gone = shop.customer(carol)
    client().v1.customers.delete(gone)
    shop.stripe.flush()
    carol.refresh_from_db()
    assert carol.tier == "free"
    shop.stripe.advance(days=1)

    again = shop.subscribe(carol)

    assert (again.status, again.trial_ends_at) == ("active", None)
    assert shop.customer(carol) != gone
    carol.refresh_from_db()
    assert carol.tier == "pro"


def test_a_customer_that_stripe_does_not_know_is_made_anew_and_has_nothing_to_manage(shop: Shop, carol: User) -> None:
    shop.checkout(api_as(carol))
    StripeCustomer.objects.update(stripe_id="cus_of_another_account", checkout_session="cs_of_another_account")
    refused = api_as(carol).post(PORTAL, {})
    assert (refused.status_code, refused.json()["code"]) == (409, "no_customer")
    assert shop.subscribe(carol).status == "trialing"


def test_a_refused_request_is_not_to_be_tried_again_in_a_moment(shop: Shop, carol: User) -> None:
    for price in shop.stripe.objects("price"):
        client().v1.prices.update(price["id"], {"lookup_key": price["lookup_key"] + "_x"})
    [product] = [each for each in shop.stripe.objects("product") if each["id"] == "blox_pro"]
    one_time: Any = {"product": product["id"], "currency": "usd", "unit_amount": 1, "lookup_key": "blox_pro_monthly"}
    client().v1.prices.create(one_time)
    answer = api_as(carol).post(CHECKOUT, {"tier": "pro"})
    assert (answer.status_code, answer.json()["code"]) == (503, "billing_unavailable")
    assert "Retry-After" not in answer


def _end(shop: Shop, subscription: str) -> None:
    client().v1.subscriptions.cancel(subscription)
    shop.stripe.flush()


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"tier": "free"},
        {"tier": "gold"},
        {"tier": "pro", "successUrl": "https://evil.example/"},
        {"tier": "pro", "successUrl": "https://app.shop.example@evil.example/"},
        {"tier": "pro", "successUrl": "https://app.shop.example\\@evil.example/"},
        {"tier": "pro", "cancelUrl": "javascript:alert(1)"},
        {"tier": "pro", "cancelUrl": "//app.shop.example/"},
        {"tier": "pro", "cancelUrl": "https://[app"},
        {"tier": "pro", "cancelUrl": 7},
    ],
)
def test_what_is_not_sold_and_pages_of_strangers_are_refused(
    shop: Shop, carol: User, settings: Settings, body: dict[str, Any]
) -> None:
    settings.CORS_ALLOWED_ORIGINS = ["https://app.shop.example"]
    answer = api_as(carol).post(CHECKOUT, body)
    assert (answer.status_code, answer.json()["code"]) == (400, "validation_error")
    assert shop.stripe.objects("checkout.session") == []


def test_the_browser_comes_back_to_a_page_of_an_allowed_origin(shop: Shop, carol: User, settings: Settings) -> None:
    settings.CORS_ALLOWED_ORIGINS = ["https://app.shop.example"]
    page = "https://app.shop.example/billing?session={CHECKOUT_SESSION_ID}"
    shop.checkout(api_as(carol), successUrl=page)
    [session] = shop.stripe.objects("checkout.session")
    assert (session["success_url"], session["cancel_url"]) == (page, settings.BLOX_PUBLIC_URL)


def test_a_tier_without_a_price_is_not_sold_and_one_with_a_price_is(shop: Shop, carol: User) -> None:
    answer = api_as(carol).post(CHECKOUT, {"tier": "enterprise"})
    assert (answer.status_code, answer.json()["code"]) == (409, "tier_not_sold")

    shop.sell("enterprise")
    shop.stripe.complete_checkout(shop.checkout(api_as(carol), tier="enterprise"))
    carol.refresh_from_db()
    assert carol.tier == "enterprise"


def test_the_portal_is_for_customers(shop: Shop, carol: User) -> None:
    refused = api_as(carol).post(PORTAL, {})
    assert (refused.status_code, refused.json()["code"]) == (409, "no_customer")
    shop.subscribe(carol)

    answer = api_as(carol).post(PORTAL, {})

    assert answer.status_code == 200
    [configuration] = shop.stripe.objects("billing_portal.configuration")
    [session] = shop.stripe.objects("billing_portal.session")
    assert answer.json() == {"url": session["url"]}
    assert (session["customer"], session["configuration"]) == (shop.customer(carol), configuration["id"])


def test_a_stripe_that_is_away_is_a_503_and_nothing_is_left_half_done(
    shop: Shop, carol: User, api: APIClient, caplog: pytest.LogCaptureFixture
) -> None:
    shop.stripe.fail_next(requests=100)
    answer = api_as(carol).post(CHECKOUT, {"tier": "pro"})
    assert (answer.status_code, answer.json()["code"]) == (503, "billing_unavailable")
    assert int(answer["Retry-After"]) > 0
    assert not StripeCustomer.objects.exists()
    assert "Stripe" in caplog.text


def test_a_person_waits_for_stripe_once(shop: Shop, carol: User) -> None:
    shop.stripe.fail_next(requests=100)
    before = len(shop.paths())
    assert api_as(carol).post(CHECKOUT, {"tier": "pro"}).status_code == 503
    assert len(shop.paths()) == before + 1


def test_ten_pages_a_minute_are_asked_for_at_stripe(shop: Shop, carol: User) -> None:
    answers = [api_as(carol).post(PORTAL, {}) for _ in range(11)]
    assert [answer.status_code for answer in answers] == [409] * 10 + [429]
    assert answers[-1].json()["message"].startswith("More than 10 requests a minute: try again in ")
    assert [answers[-1][f"X-RateLimit-{name}"] for name in ("Limit", "Remaining")] == ["10", "0"]
    other = User.objects.create_user("other@shop.example")
    assert api_as(other).post(PORTAL, {}).status_code == 409


def test_the_key_is_in_no_answer_and_no_log(shop: Shop, carol: User, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    shop.stripe.refuse_key(KEY)
    answer = api_as(carol).post(CHECKOUT, {"tier": "pro"})
    assert answer.status_code == 503
    assert KEY not in caplog.text + answer.content.decode()


def test_a_key_that_stripe_quotes_is_masked(carol: User, settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    def quote_key(request: Received) -> bytes:
        message = f"Invalid API Key provided: {request.headers['authorization']}"
        return answer(401, json.dumps({"error": {"type": "invalid_request_error", "message": message}}).encode())

    with serving(quote_key) as server:
        settings.STRIPE_API_KEY, settings.STRIPE_API_BASE = KEY, server.url
        refused = api_as(carol).post(CHECKOUT, {"tier": "pro"})
    assert refused.status_code == 503
    assert "Invalid API Key provided: Bearer ***" in caplog.text
    assert KEY not in caplog.text + refused.content.decode()


def test_of_two_checkouts_at_a_time_one_page_stays_open(shop: Shop, carol: User) -> None:
    shop.checkout(api_as(carol))
    late = StripeCustomer.objects.get()  # read by one of two, before the other had made its page
    first = shop.checkout(api_as(carol))
    [price] = client().v1.prices.list({"lookup_keys": ["blox_pro_monthly"]}).data
    second = client().v1.checkout.sessions.create(
        {
            "mode": "subscription",
            "customer": late.stripe_id,
            "success_url": "https://shop.example",
            "line_items": [{"price": price.id, "quantity": 1}],
        }
    )

    url = checkout._only_open_one(late, second)

    assert url.endswith(first)
    opened = [session["id"] for session in shop.stripe.objects("checkout.session") if session["status"] == "open"]
    assert opened == [first]


def test_a_page_that_a_third_checkout_has_expired_is_not_said_to_be_paid(shop: Shop, carol: User) -> None:
    shop.checkout(api_as(carol))
    late = StripeCustomer.objects.get()
    third = shop.checkout(api_as(carol))
    client().v1.checkout.sessions.expire(third)
    mine = client().v1.checkout.sessions.retrieve(third)
    with pytest.raises(BillingUnavailable):
        checkout._only_open_one(late, mine)


@pytest.mark.once
def test_web_and_workers_do_without_the_sdk_until_it_is_used() -> None:
    code = (
        "import os, sys, django; os.environ['DJANGO_SETTINGS_MODULE'] = 'tests.settings'; django.setup();"
        "import bloxserver.urls, billing.tasks, executions.tasks; print('stripe' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert said.stdout.strip() == "False"


def test_portal_and_trial_are_each_users_own(shop: Shop, carol: User) -> None:
    shop.subscribe(carol)
    other = User.objects.create_user("other@shop.example")
    assert api_as(other).post(PORTAL, {}).status_code == 409

    assert shop.subscribe(other).status == "trialing"

    assert api_as(other).post(PORTAL, {}).status_code == 200
    [session] = shop.stripe.objects("billing_portal.session")
    assert session["customer"] == shop.customer(other) != shop.customer(carol)


@pytest.mark.django_db(transaction=True)
def test_checkouts_at_a_time_make_one_customer_and_none_fails(settings: Settings, carol: User) -> None:
    with opened(settings) as shop:
        rows = all_at_once([lambda: customer_of(carol)] * 4)
        [customer] = shop.stripe.objects("customer")
    assert {row.stripe_id for row in rows} == {customer["id"]}
    assert StripeCustomer.objects.count() == 1


def test_who_has_changed_their_name_since_a_crash_comes_to_the_checkout(shop: Shop, carol: User) -> None:
    """Under a key of before Stripe would refuse what is another request."""
    shop.checkout(api_as(carol))
    StripeCustomer.objects.all().delete()  # as if the process had died before it wrote the row
    User.objects.filter(pk=carol.pk).update(name="Caroline")
    shop.checkout(api_as(carol))
    assert StripeCustomer.objects.count() == 1


def test_an_account_without_an_address_is_asked_for_one_on_stripes_page(shop: Shop, carol: User) -> None:
    User.objects.filter(pk=carol.pk).update(email="user_1@clerk.invalid")
    carol.refresh_from_db()
    checkout.open_checkout(user=carol, tier="pro", now=shop.now)
    [customer] = shop.stripe.objects("customer")
    assert (customer["email"], StripeCustomer.objects.get().email) == (None, "")


def test_who_has_taken_the_card_away_is_not_charged_when_the_trial_ends(shop: Shop, carol: User) -> None:
    subscription = shop.subscribe(carol)
    shop.stripe.remove_card(shop.customer(carol))
    shop.stripe.advance(days=15)
    subscription.refresh_from_db()
    assert (subscription.status, User.objects.get(pk=carol.pk).tier) == ("canceled", "free")
    assert [invoice["amount_due"] for invoice in shop.stripe.objects("invoice")] == [0]


def test_two_who_subscribe_at_the_same_moment_have_periods_of_their_own(shop: Shop, carol: User) -> None:
    other = User.objects.create_user("other@shop.example")
    for user in (carol, other):
        shop.subscribe(user)
    shop.stripe.advance(days=1)
    _end(shop, Subscription.objects.get(user=other).stripe_id)
    ends = dict(SubscriptionPeriod.objects.values_list("user__email", "ends_at"))
    assert ends == {carol.email: Subscription.objects.get(user=carol).period_end, other.email: shop.now}


def test_who_has_paid_on_the_page_of_another_checkout_meanwhile_is_said_to_subscribe(shop: Shop, carol: User) -> None:
    shop.checkout(api_as(carol))
    late = StripeCustomer.objects.get()
    other = shop.checkout(api_as(carol))
    shop.stripe.complete_checkout(other)
    with pytest.raises(AlreadySubscribed):
        checkout._only_open_one(late, client().v1.checkout.sessions.retrieve(other))


def test_no_secret_that_is_quoted_is_in_an_answer_or_a_log(
    carol: User, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    settings.STRIPE_API_KEY, settings.STRIPE_WEBHOOK_SECRET = KEY, "whsec_51BloxServer"
    quoted = json.dumps({"error": {"type": "invalid_request_error", "message": f"{KEY} and whsec_51BloxServer"}})
    with serving(lambda _: answer(400, quoted.encode())) as server:
        settings.STRIPE_API_BASE = server.url
        refused = api_as(carol).post(CHECKOUT, {"tier": "pro"})
    assert (refused.status_code, "*** and ***" in caplog.text) == (503, True)
    assert "51BloxServer" not in caplog.text + refused.content.decode()


def test_a_person_does_not_wait_for_a_stripe_that_hangs(
    carol: User, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("billing.stripe.client.INTERACTIVE_SECONDS", 0.2)
    resume = threading.Event()

    def hang(_: Received) -> bytes:
        resume.wait(5)
        return b""

    with serving(hang) as server:
        settings.STRIPE_API_KEY, settings.STRIPE_API_BASE = KEY, server.url
        began = time.monotonic()
        assert api_as(carol).post(CHECKOUT, {"tier": "pro"}).status_code == 503
        waited = time.monotonic() - began
        resume.set()
    assert waited < 4


def test_who_has_still_to_pay_cannot_subscribe_beside_it(shop: Shop, carol: User) -> None:
    past_due(shop, carol)
    answer = api_as(carol).post(CHECKOUT, {"tier": "pro"})
    assert (answer.status_code, answer.json()["details"]) == (409, {"tier": "pro", "status": "past_due"})
