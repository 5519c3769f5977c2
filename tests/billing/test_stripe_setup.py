"""`manage.py stripe_setup`: what is sold is made at Stripe once."""

from collections.abc import Iterator
from datetime import UTC, datetime
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from pytest_django import Settings

from billing.checks import check_stripe
from billing.stripe.client import client
from tests.billing.shop import KEY
from tests.stripe_server import StripeServer


@pytest.fixture
def stripe(settings: Settings) -> Iterator[StripeServer]:
    with StripeServer(now=datetime.now(UTC)) as server:
        settings.STRIPE_API_KEY = KEY
        settings.STRIPE_API_BASE = server.url
        yield server


def set_up(**options: Any) -> list[str]:
    said = StringIO()
    call_command("stripe_setup", stdout=said, **options)
    return said.getvalue().splitlines()


KINDS = ("product", "price", "billing.meter", "billing_portal.configuration")


def test_it_makes_products_prices_the_meter_and_the_portal(stripe: StripeServer) -> None:
    assert all(line.endswith(": made") for line in set_up())

    [meter] = stripe.objects("billing.meter")
    prices = {price["lookup_key"]: price for price in stripe.objects("price")}
    monthly, overage = prices["blox_pro_monthly"], prices["blox_pro_overage"]
    assert (monthly["unit_amount"], monthly["currency"], monthly["recurring"]["interval"]) == (2_900, "usd", "month")
    assert (overage["unit_amount_decimal"], overage["recurring"]["usage_type"]) == ("0.05", "metered")
    assert overage["recurring"]["meter"] == meter["id"]
    assert (meter["event_name"], meter["default_aggregation"]) == ("blox_runs_over_limit", {"formula": "sum"})
    [portal] = stripe.objects("billing_portal.configuration")
    assert portal["features"]["subscription_cancel"]["mode"] == "at_period_end"


def test_a_second_run_changes_nothing(stripe: StripeServer) -> None:
    set_up()
    before = {kind: stripe.objects(kind) for kind in KINDS}
    posts = len([each for each in stripe.log if each.method == "POST"])

    assert all(line.endswith(": there already") for line in set_up())

    assert {kind: stripe.objects(kind) for kind in KINDS} == before
    assert len([each for each in stripe.log if each.method == "POST"]) == posts


def test_a_run_that_broke_off_is_finished_by_the_next(stripe: StripeServer) -> None:
    stripe.fail_next(requests=0)
    set_up()
    made = {kind: len(stripe.objects(kind)) for kind in KINDS}
    stripe.world.tables["price"].clear()  # as if it had died before the prices
    set_up()
    assert {kind: len(stripe.objects(kind)) for kind in KINDS} == made


def test_a_price_that_an_operator_has_made_is_kept(stripe: StripeServer) -> None:
    client().v1.products.create({"id": "blox_pro", "name": "Ours"})
    price = {"product": "blox_pro", "currency": "eur", "unit_amount": 1_900, "recurring": {"interval": "month"}}
    client().v1.prices.create({**price, "lookup_key": "blox_pro_monthly"})  # type: ignore[typeddict-item]
    lines = set_up()
    assert "price blox_pro_monthly: there already" in lines
    assert "price blox_pro_overage: made" in lines


def test_the_webhook_endpoint_is_made_once_and_its_secret_is_shown_then(stripe: StripeServer) -> None:
    url = "https://blox.example/webhooks/stripe"
    said = set_up(webhook_url=url)
    [endpoint] = stripe.objects("webhook_endpoint")
    assert (endpoint["url"], endpoint["api_version"]) == (url, "2026-10-28.endive")
    assert "invoice.payment_failed" in endpoint["enabled_events"]
    assert said[-1].startswith("STRIPE_WEBHOOK_SECRET=whsec_")

    assert set_up(webhook_url=url)[-1] == f"webhook endpoint {url}: there already"
    assert stripe.objects("webhook_endpoint") == [endpoint]


def test_an_endpoint_that_is_told_too_little_is_told_the_rest(stripe: StripeServer) -> None:
    url = "https://blox.example/webhooks/stripe"
    client().v1.webhook_endpoints.create({"url": url, "enabled_events": ["invoice.paid", "charge.refunded"]})
    assert "customer.updated" in set_up(webhook_url=url)[-1]
    [endpoint] = stripe.objects("webhook_endpoint")
    assert len(endpoint["enabled_events"]) == 10
    assert "charge.refunded" in endpoint["enabled_events"]


def test_without_a_key_it_says_so(settings: Settings) -> None:
    settings.STRIPE_API_KEY = ""
    with pytest.raises(CommandError, match="STRIPE_API_KEY"):
        set_up()


def test_a_refused_key_is_said_without_being_shown(stripe: StripeServer) -> None:
    stripe.refuse_key(KEY)
    with pytest.raises(CommandError) as refusal:
        set_up()
    assert "AuthenticationError" in str(refusal.value)
    assert KEY not in str(refusal.value)


def test_a_key_without_a_webhook_secret_is_warned_of(settings: Settings) -> None:
    settings.STRIPE_API_KEY, settings.STRIPE_WEBHOOK_SECRET = KEY, ""
    [warning] = check_stripe()
    assert (warning.id, KEY in str(warning)) == ("blox.W002", False)
    settings.STRIPE_WEBHOOK_SECRET = "whsec_1"
    assert check_stripe() == []


def test_a_lookup_key_that_an_archived_price_still_holds_goes_over_to_the_new_one(stripe: StripeServer) -> None:
    set_up()
    [old] = client().v1.prices.list({"lookup_keys": ["blox_pro_monthly"]}).data
    client().v1.prices.update(old.id, {"active": False})
    assert "price blox_pro_monthly: made" in set_up()
    [new] = client().v1.prices.list({"lookup_keys": ["blox_pro_monthly"], "active": True}).data
    assert new.id != old.id


def test_an_endpoint_that_is_told_of_everything_stays_so(stripe: StripeServer) -> None:
    url = "https://blox.example/webhooks/stripe"
    client().v1.webhook_endpoints.create({"url": url, "enabled_events": ["*"]})
    assert set_up(webhook_url=url)[-1] == f"webhook endpoint {url}: there already"
    [endpoint] = stripe.objects("webhook_endpoint")
    assert endpoint["enabled_events"] == ["*"]


def test_a_meter_that_was_switched_off_counts_nothing_so_another_is_made(stripe: StripeServer) -> None:
    set_up()
    [meter] = client().v1.billing.meters.list().data
    client().v1.billing.meters.update(meter.id, {"display_name": "x"})
    stripe.world.tables["billing.meter"][meter.id]["status"] = "inactive"
    assert "meter blox_runs_over_limit: made" in set_up()
