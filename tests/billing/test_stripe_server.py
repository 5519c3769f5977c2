"""The stand-in for Stripe, driven through the official SDK: what tests of billing lean on must itself be true."""

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import stripe

from tests.local_server import Received, answer, serving
from tests.stripe_server import RemoteStripeServer, StripeError, StripeServer

pytestmark = pytest.mark.once

START = datetime(2026, 1, 31, 12, tzinfo=UTC)
DAY = 24 * 3600
CHECKOUT = Path(__file__).parents[2]


def client_of(server: Any, key: str = "sk_test_1", **options: Any) -> stripe.StripeClient:
    return stripe.StripeClient(key, base_addresses={"api": server.url, "meter_events": server.url}, **options)


class Shop:
    """A product of $29 a month, and runs at half a dollar the thousand beyond the first 100,000."""

    def __init__(self, server: StripeServer) -> None:
        self.server = server
        self.api = client_of(server, max_network_retries=2).v1
        product = self.api.products.create({"name": "Pro"})
        self.meter = self.api.billing.meters.create(
            {"display_name": "Runs", "event_name": "runs", "default_aggregation": {"formula": "sum"}}
        )
        self.monthly = self.price(product.id, lookup_key="pro_monthly", unit_amount=2900)
        self.yearly = self.price(product.id, "year", lookup_key="pro_yearly", unit_amount=29000)
        self.basic = self.price(product.id, lookup_key="basic_monthly", unit_amount=900)
        self.runs = self.api.prices.create(
            {
                "product": product.id,
                "currency": "usd",
                "billing_scheme": "tiered",
                "tiers_mode": "graduated",
                "tiers": [
                    {"up_to": 100_000, "unit_amount": 0},
                    {"up_to": "inf", "unit_amount_decimal": Decimal("0.05")},
                ],
                "recurring": {"interval": "month", "usage_type": "metered", "meter": self.meter.id},
            }
        )

    def price(self, product: str, interval: str = "month", **fields: Any) -> stripe.Price:
        params: Any = {"product": product, "currency": "usd", "recurring": {"interval": interval}, **fields}
        return self.api.prices.create(params)

    def session(self, **fields: Any) -> stripe.checkout.Session:
        params: Any = {
            "mode": "subscription",
            "line_items": [{"price": self.monthly.id, "quantity": 1}, {"price": self.runs.id}],
            "success_url": "https://blox.test/done",
            **fields,
        }
        return self.api.checkout.sessions.create(params)

    def subscribed(self, **fields: Any) -> stripe.Subscription:
        done = self.server.complete_checkout(self.session(**fields).id)
        return self.api.subscriptions.retrieve(done["subscription"])

    def use(self, customer: str, value: int, **fields: Any) -> Any:
        payload = {"stripe_customer_id": customer, "value": str(value)}
        params: Any = {"event_name": "runs", "payload": payload, **fields}
        return self.api.billing.meter_events.create(params)

    def invoices(self, customer: str) -> list[tuple[str, str | None, int]]:
        """Reason, status and total of each, oldest first."""
        found = self.api.invoices.list({"customer": customer}).data
        return [(str(each.billing_reason), each.status, each.total) for each in reversed(found)]

    def told(self) -> list[str]:
        return [each["type"] for each in self.server.events]


@pytest.fixture
def shop() -> Any:
    with StripeServer(now=START) as server:
        yield Shop(server)


def stamp(month: int, day: int, hour: int = 12) -> int:
    return int(datetime(2026, month, day, hour, tzinfo=UTC).timestamp())


def item(subscription: stripe.Subscription) -> Any:
    return subscription["items"]["data"][0]


def test_a_trial_begins_ends_and_renews_with_exactly_the_use_beyond_what_is_included(shop):
    trial = {"trial_period_days": 14, "metadata": {"user": "7"}}
    session = shop.session(customer_email="ann@example.com", client_reference_id="7", subscription_data=trial)
    done = shop.server.complete_checkout(session.id)
    subscription = shop.api.subscriptions.retrieve(done["subscription"], {"expand": ["customer", "latest_invoice"]})
    assert (done["client_reference_id"], done["payment_status"]) == ("7", "no_payment_required")
    assert (subscription.status, subscription.metadata["user"]) == ("trialing", "7")
    assert subscription.customer.email == "ann@example.com" and subscription.latest_invoice.total == 0
    assert item(subscription).current_period_end == stamp(2, 14)

    customer = done["customer"]
    shop.use(customer, 500_000)  # in the trial: free
    shop.server.advance(days=11)
    assert shop.told()[-1] == "customer.subscription.trial_will_end"
    shop.server.advance(days=4)
    assert shop.api.subscriptions.retrieve(subscription.id).status == "active"
    shop.use(customer, 100_000)
    shop.use(customer, 12_345)
    shop.server.advance_to(datetime(2026, 3, 15, tzinfo=UTC))
    cycle = [("subscription_create", "paid", 0), ("subscription_cycle", "paid", 2900)]
    assert shop.invoices(customer) == [*cycle, ("subscription_cycle", "paid", 2900 + 617)]  # 12,345 at 0.05 ¢
    assert shop.told().count("invoice.upcoming") == 1


def test_webhooks_of_a_checkout_come_in_stripes_order(shop):
    shop.subscribed()
    told = shop.told()
    assert [each for each in told[told.index("customer.created") :] if each != "customer.updated"] == [
        "customer.created",
        "payment_method.attached",
        "customer.subscription.created",
        "invoice.created",
        "invoice.finalized",
        "invoice.paid",
        "invoice.payment_succeeded",
        "invoice_payment.paid",
        "customer.subscription.updated",
        "checkout.session.completed",
    ]
    updated = [each for each in shop.server.events if each["type"] == "customer.subscription.updated"]
    assert updated[0]["data"]["previous_attributes"] == {"status": "incomplete"}


def test_periods_keep_the_day_of_the_month_on_which_they_began(shop):
    subscription = shop.subscribed()
    ends = []
    for month in (2, 3, 4):
        ends.append(item(shop.api.subscriptions.retrieve(subscription.id)).current_period_end)
        shop.server.advance_to(datetime(2026, month + 1, 1, tzinfo=UTC))
    assert ends == [stamp(2, 28), stamp(3, 31), stamp(4, 30)]


def test_use_that_is_told_within_the_hour_after_the_renewal_is_still_billed(shop):
    subscription = shop.subscribed()
    customer = subscription.customer
    shop.server.advance_to(stamp(2, 28) + 60)
    shop.use(customer, 102_000, timestamp=stamp(2, 27))
    shop.use(customer, 50_000, timestamp=stamp(2, 28))  # of the new period
    shop.server.advance(hours=1)
    assert shop.invoices(customer)[-1] == ("subscription_cycle", "paid", 2900 + 100)


@pytest.mark.parametrize(("after_retries", "status"), [("cancel", "canceled"), ("unpaid", "unpaid")])
def test_a_card_that_keeps_declining_is_tried_at_three_five_and_seven_days(shop, after_retries, status):
    shop.server.configure(after_retries=after_retries)
    subscription = shop.subscribed()
    shop.server.card_declines(subscription.customer)
    counts = []
    shop.server.advance_to(stamp(2, 28) + 7200)
    for days in (0, 3, 2, 2):
        shop.server.advance(days=days)
        invoice = shop.api.invoices.list({"customer": subscription.customer}).data[0]
        counts.append((invoice.attempt_count, shop.api.subscriptions.retrieve(subscription.id).status))
    assert counts == [(1, "past_due"), (2, "past_due"), (3, "past_due"), (4, status)]
    assert shop.told().count("invoice.payment_failed") == 4


def test_a_card_that_works_again_makes_the_subscription_active(shop):
    subscription = shop.subscribed()
    shop.server.card_declines(subscription.customer)
    shop.server.advance_to(stamp(2, 28) + 7200)
    shop.server.card_works(subscription.customer)
    shop.server.advance(days=3)
    assert shop.api.subscriptions.retrieve(subscription.id).status == "active"
    assert shop.invoices(subscription.customer)[-1] == ("subscription_cycle", "paid", 2900)
    assert shop.api.customers.retrieve(subscription.customer).delinquent is False


def test_canceling_at_the_periods_end_bills_the_last_use_and_ends_then(shop):
    subscription = shop.subscribed()
    shop.use(subscription.customer, 104_000)
    asked = shop.api.subscriptions.update(subscription.id, {"cancel_at_period_end": True})
    assert (asked.status, asked.cancel_at) == ("active", stamp(2, 28))
    shop.server.advance(days=30)
    ended = shop.api.subscriptions.retrieve(subscription.id)
    assert (ended.status, ended.ended_at) == ("canceled", stamp(2, 28))
    assert shop.invoices(subscription.customer)[-1] == ("subscription_cycle", "paid", 200)
    assert shop.api.subscriptions.list({"customer": subscription.customer}).data == []


def test_an_upgrade_bills_the_difference_for_the_rest_of_the_period_as_its_preview_says(shop):
    subscription = shop.subscribed(line_items=[{"price": shop.basic.id, "quantity": 1}])
    shop.server.advance(days=14)  # half of 28
    swap: Any = {
        "items": [{"id": item(subscription).id, "price": shop.monthly.id}],
        "proration_behavior": "always_invoice",
    }
    preview = shop.api.invoices.create_preview({"subscription": subscription.id, "subscription_details": swap})
    shop.api.subscriptions.update(subscription.id, swap)
    assert preview.total == 1450 - 450
    assert shop.invoices(subscription.customer)[-1] == ("subscription_update", "paid", 1000)


def test_a_preview_of_the_renewal_has_the_use_so_far_and_changes_nothing(shop):
    subscription = shop.subscribed()
    shop.use(subscription.customer, 103_000)
    before = shop.told(), shop.invoices(subscription.customer)
    preview = shop.api.invoices.create_preview({"subscription": subscription.id})
    assert [each.amount for each in preview.lines.data] == [2900, 0, 150]
    assert (shop.told(), shop.invoices(subscription.customer)) == before


def test_a_schedule_swaps_the_price_at_the_periods_end_and_asks_nothing_before(shop):
    subscription = shop.subscribed(line_items=[{"price": shop.monthly.id, "quantity": 1}])
    schedule = shop.api.subscription_schedules.create({"from_subscription": subscription.id})
    now = schedule.phases[0]
    first = {"items": [{"price": shop.monthly.id}], "start_date": now.start_date, "end_date": now.end_date}
    phases: Any = [first, {"items": [{"price": shop.basic.id}]}]
    shop.api.subscription_schedules.update(schedule.id, {"phases": phases, "end_behavior": "release"})
    shop.server.advance_to(stamp(3, 2))
    changed = shop.api.subscriptions.retrieve(subscription.id)
    assert item(changed).price.id == shop.basic.id and item(changed).id != item(subscription).id
    assert [total for _, _, total in shop.invoices(subscription.customer)] == [2900, 900]
    assert [each.description for each in shop.api.invoices.retrieve(changed.latest_invoice).lines.data] == ["1 × Pro"]
    shop.server.advance(days=30)
    assert shop.api.subscription_schedules.retrieve(schedule.id).status == "released"


def test_a_schedule_follows_what_the_subscription_is_given_itself(shop):
    subscription = shop.subscribed(line_items=[{"price": shop.basic.id, "quantity": 1}])
    schedule = shop.api.subscription_schedules.create({"from_subscription": subscription.id})
    shop.api.subscriptions.update(subscription.id, {"items": [{"id": item(subscription).id, "price": shop.monthly.id}]})
    phase = shop.api.subscription_schedules.retrieve(schedule.id).phases[0]
    assert [each.price for each in phase["items"]] == [shop.monthly.id]


def test_a_phase_under_way_that_leaves_its_trial_out_is_refused(shop):
    subscription = shop.subscribed(
        line_items=[{"price": shop.monthly.id, "quantity": 1}], subscription_data={"trial_period_days": 7}
    )
    schedule = shop.api.subscription_schedules.create({"from_subscription": subscription.id})
    now = schedule.phases[0]
    assert now.trial_end == subscription.trial_end
    first: Any = {
        "items": [{"price": shop.monthly.id}],
        "start_date": now.start_date,
        "end_date": now.end_date,
    }
    with pytest.raises(stripe.InvalidRequestError, match="trial"):
        shop.api.subscription_schedules.update(schedule.id, {"phases": [first]})
    shop.api.subscription_schedules.update(schedule.id, {"phases": [{**first, "trial_end": now.trial_end}]})


def test_one_that_is_to_end_gets_no_schedule(shop):
    subscription = shop.subscribed()
    shop.api.subscriptions.update(subscription.id, {"cancel_at_period_end": True})
    with pytest.raises(stripe.InvalidRequestError):
        shop.api.subscription_schedules.create({"from_subscription": subscription.id})


def test_error_if_incomplete_refuses_only_what_is_to_be_paid(shop):
    subscription = shop.subscribed(line_items=[{"price": shop.monthly.id, "quantity": 1}])
    shop.server.card_declines(subscription.customer)

    def swap(price: str, to: Any) -> None:
        params: Any = {
            "items": [{"id": item(to).id, "price": price}],
            "proration_behavior": "always_invoice",
            "payment_behavior": "error_if_incomplete",
        }
        shop.api.subscriptions.update(to.id, params)

    shop.server.advance(days=1)
    swap(shop.basic.id, subscription)
    with pytest.raises(stripe.CardError):
        swap(shop.monthly.id, subscription)
    trial = shop.subscribed(
        line_items=[{"price": shop.basic.id, "quantity": 1}], subscription_data={"trial_period_days": 7}
    )
    shop.server.card_declines(trial.customer)
    swap(shop.monthly.id, trial)


def test_a_metered_price_that_is_added_bills_what_is_used_from_then_on(shop):
    subscription = shop.subscribed(line_items=[{"price": shop.monthly.id, "quantity": 1}])
    shop.use(subscription.customer, 300_000)
    shop.server.advance(days=1)
    shop.api.subscriptions.update(subscription.id, {"items": [{"price": shop.runs.id}]})
    shop.use(subscription.customer, 101_000)
    shop.server.advance_to(stamp(3, 1))
    assert shop.invoices(subscription.customer)[-1] == ("subscription_cycle", "paid", 2900 + 50)


def test_an_incomplete_subscription_takes_no_change_but_its_card(shop):
    customer = shop.api.customers.create({"email": "p@example.com"})
    made = shop.api.subscriptions.create({"customer": customer.id, "items": [{"price": shop.monthly.id}]})
    assert made.status == "incomplete"
    with pytest.raises(stripe.InvalidRequestError, match="incomplete"):
        shop.api.subscriptions.update(made.id, {"cancel_at_period_end": True})
    shop.api.subscriptions.update(made.id, {"metadata": {"seen": "yes"}})


def test_an_end_is_named_in_one_way(shop):
    subscription = shop.subscribed()
    with pytest.raises(stripe.InvalidRequestError, match="only specify one"):
        shop.api.subscriptions.update(subscription.id, {"cancel_at_period_end": False, "cancel_at": ""})


def test_a_downgrade_billed_now_is_credit_that_the_next_invoice_uses_first(shop):
    subscription = shop.subscribed(line_items=[{"price": shop.monthly.id, "quantity": 1}])
    shop.server.advance(days=14)
    swap: Any = {"items": [{"id": item(subscription).id, "price": shop.basic.id}]}
    shop.api.subscriptions.update(subscription.id, {**swap, "proration_behavior": "always_invoice"})
    assert shop.api.customers.retrieve(subscription.customer).balance == -1000
    shop.server.advance(days=15)
    invoice = shop.api.invoices.list({"customer": subscription.customer}).data[0]
    assert (invoice.total, invoice.amount_due, invoice.status) == (900, 0, "paid")
    assert shop.api.customers.retrieve(subscription.customer).balance == -100


def test_prorations_that_are_not_billed_now_are_on_the_next_invoice(shop):
    subscription = shop.subscribed(line_items=[{"price": shop.basic.id, "quantity": 1}])
    shop.server.advance(days=14)
    shop.api.subscriptions.update(subscription.id, {"items": [{"id": item(subscription).id, "price": shop.monthly.id}]})
    shop.server.advance(days=15)
    assert shop.invoices(subscription.customer)[1:] == [("subscription_cycle", "paid", 1000 + 2900)]


def test_another_interval_begins_a_new_period_that_is_billed_now(shop):
    subscription = shop.subscribed(line_items=[{"price": shop.monthly.id, "quantity": 1}])
    shop.server.advance(days=14)
    changed = shop.api.subscriptions.update(
        subscription.id, {"items": [{"id": item(subscription).id, "price": shop.yearly.id}]}
    )
    assert item(changed).current_period_start == stamp(2, 14)
    assert item(changed).current_period_end == stamp(2, 14) + 365 * DAY
    assert shop.invoices(subscription.customer)[-1] == ("subscription_update", "paid", 29000 - 1450)


def test_a_trial_that_is_ended_now_is_billed_now(shop):
    subscription = shop.subscribed(subscription_data={"trial_period_days": 14})
    shop.server.advance(days=2)
    ended = shop.api.subscriptions.update(subscription.id, {"trial_end": "now"})
    assert (ended.status, item(ended).current_period_start) == ("active", stamp(2, 2))
    assert shop.invoices(subscription.customer)[-1] == ("subscription_update", "paid", 2900)


@pytest.mark.parametrize(
    ("behavior", "status"), [("cancel", "canceled"), ("pause", "paused"), ("create_invoice", "past_due")]
)
def test_a_trial_without_a_card_ends_as_its_settings_say(shop, behavior, status):
    settings = {"end_behavior": {"missing_payment_method": behavior}}
    trial = {"trial_period_days": 14, "trial_settings": settings}
    session = shop.session(payment_method_collection="if_required", subscription_data=trial)
    done = shop.server.complete_checkout(session.id, card=False)
    shop.server.advance(days=15)
    assert shop.api.subscriptions.retrieve(done["subscription"]).status == status


def test_a_first_payment_that_fails_leaves_the_subscription_incomplete_for_a_day(shop):
    customer = shop.api.customers.create({"email": "ann@example.com"}).id
    subscription = shop.api.subscriptions.create({"customer": customer, "items": [{"price": shop.monthly.id}]})
    assert subscription.status == "incomplete"
    shop.server.add_card(customer)
    shop.api.invoices.pay(subscription.latest_invoice)
    assert shop.api.subscriptions.retrieve(subscription.id).status == "active"
    shop.server.card_declines(customer)
    other = shop.api.subscriptions.create({"customer": customer, "items": [{"price": shop.basic.id}]})
    with pytest.raises(stripe.CardError):
        shop.api.invoices.pay(other.latest_invoice)
    shop.server.advance(days=1)
    assert shop.api.subscriptions.retrieve(other.id).status == "incomplete_expired"


def test_a_checkout_session_is_paid_once_and_expires_after_a_day(shop):
    paid, left = shop.session(), shop.session()
    shop.server.complete_checkout(paid.id)
    with pytest.raises(StripeError, match="status is `complete`"):
        shop.server.complete_checkout(paid.id)
    shop.server.advance(days=1)
    assert shop.api.checkout.sessions.retrieve(left.id).status == "expired"
    assert shop.told()[-1] == "checkout.session.expired"


@pytest.mark.parametrize(("rounding", "cents"), [("up", 3 * 50), ("down", 2 * 50)])
def test_packages_are_counted_whole(shop, rounding, cents):
    recurring: Any = {"interval": "month", "usage_type": "metered", "meter": shop.meter.id}
    per_thousand = shop.price(
        shop.monthly.product,
        unit_amount=50,
        transform_quantity={"divide_by": 1000, "round": rounding},
        recurring=recurring,
    )
    subscription = shop.subscribed(line_items=[{"price": per_thousand.id}])
    shop.use(subscription.customer, 2001)
    shop.server.advance_to(stamp(2, 28) + 7200)
    assert shop.invoices(subscription.customer)[-1] == ("subscription_cycle", "paid", cents)


def test_the_portal_opens_for_a_customer_with_the_configuration_that_is_named_or_the_default(shop):
    customer = shop.api.customers.create({"email": "ann@example.com"}).id
    with pytest.raises(stripe.InvalidRequestError, match="No configuration provided"):
        shop.api.billing_portal.sessions.create({"customer": customer})
    update = {"products": [{"product": str(shop.monthly.product), "prices": [shop.monthly.id]}], "enabled": True}
    features: Any = {"subscription_update": {**update, "default_allowed_updates": ["price"]}}
    made = shop.api.billing_portal.configurations.create({"features": features})
    session = shop.api.billing_portal.sessions.create({"customer": customer, "return_url": "https://blox.test"})
    assert (session.configuration, session.return_url) == (made.id, "https://blox.test")
    assert [each.id for each in shop.api.billing_portal.configurations.list({"is_default": True}).data] == [made.id]


@pytest.mark.parametrize(
    ("params", "code", "param"),
    [
        ({"email": "a@b.test", "colour": "red"}, "parameter_unknown", "colour"),
        ({"address": {"planet": "Mars"}}, "parameter_unknown", "address[planet]"),
        ({"tax_exempt": "maybe"}, None, "tax_exempt"),
        ({"balance": "much"}, "parameter_invalid_integer", "balance"),
    ],
)
def test_a_parameter_that_the_sdks_types_do_not_have_is_refused(shop, params, code, param):
    with pytest.raises(stripe.InvalidRequestError) as refusal:
        shop.api.customers.create(params)
    assert (refusal.value.http_status, refusal.value.code, refusal.value.param) == (400, code, param)


def test_a_missing_parameter_an_unknown_id_and_a_wrong_key_are_refused(shop):
    with pytest.raises(stripe.InvalidRequestError, match=r"Missing required param: currency\."):
        shop.api.prices.create({"unit_amount": 5})
    with pytest.raises(stripe.InvalidRequestError, match="No such customer: 'cus_no'") as refusal:
        shop.api.customers.retrieve("cus_no")
    assert (refusal.value.http_status, refusal.value.code) == (404, "resource_missing")
    with pytest.raises(stripe.AuthenticationError):
        client_of(shop.server, key="sk_live_1").v1.customers.list()
    with pytest.raises(stripe.InvalidRequestError, match="version"):
        client_of(shop.server, stripe_version="2020-08-27").v1.customers.list()


def test_a_meter_event_counts_once_and_only_near_its_time(shop):
    customer = shop.api.customers.create({"email": "ann@example.com"}).id
    shop.use(customer, 5, identifier="runs-1")
    with pytest.raises(
        stripe.InvalidRequestError, match=r"An event already exists with identifier runs-1\."
    ) as refusal:
        shop.use(customer, 5, identifier="runs-1")
    assert (refusal.value.http_status, refusal.value.code) == (400, None)
    for when in (shop.server.now - 35 * DAY - 1, shop.server.now + 301):
        with pytest.raises(stripe.InvalidRequestError, match="timestamp"):
            shop.use(customer, 5, timestamp=when)
    summed = shop.api.billing.meters.event_summaries.list(
        shop.meter.id, {"customer": customer, "start_time": stamp(1, 31), "end_time": stamp(2, 1)}
    )
    assert [each.aggregated_value for each in summed.data] == [5]


def test_an_answer_that_was_lost_is_given_again_and_nothing_is_done_twice(shop):
    shop.server.cut_next()
    customer = shop.api.customers.create({"email": "ann@example.com"})
    assert [each.id for each in shop.api.customers.list().data] == [customer.id]
    lost, repeated = [each for each in shop.server.log if each.path == "/v1/customers" and each.method == "POST"]
    assert (lost.status, repeated.status, repeated.replayed) == (0, 200, True)
    assert lost.idempotency_key == repeated.idempotency_key


def test_a_key_that_was_used_for_something_else_is_refused(shop):
    shop.api.customers.create({"name": "Ann"}, {"idempotency_key": "one"})
    with pytest.raises(stripe.IdempotencyError) as refusal:
        shop.api.customers.create({"name": "Bob"}, {"idempotency_key": "one"})
    assert refusal.value.http_status == 400


def test_metadata_merge_whatever_the_keys_and_an_empty_value_takes_one_away(shop):
    customer = shop.api.customers.create({"metadata": {"7": "seven"}})
    changed = shop.api.customers.update(customer.id, {"metadata": {"user": "1"}})
    assert changed.metadata.to_dict() == {"7": "seven", "user": "1"}
    changed = shop.api.customers.update(customer.id, {"metadata": {"user": "", "plan": "pro"}})
    assert changed.metadata.to_dict() == {"7": "seven", "plan": "pro"}


@pytest.mark.parametrize(
    "params",
    [
        {"automatic_tax": {"enabled": True}},
        {"discounts": [{"coupon": "HALF"}]},
        {"payment_behavior": "pending_if_incomplete"},
        {"collection_method": "send_invoice", "days_until_due": 7},
    ],
)
def test_what_stripe_takes_and_the_stand_in_does_not_act_on_is_refused_not_ignored(shop, params):
    subscription = shop.subscribed()
    with pytest.raises(stripe.InvalidRequestError, match="does not play"):
        shop.api.subscriptions.update(subscription.id, params)
    assert shop.api.subscriptions.update(subscription.id, {"automatic_tax": {"enabled": False}}).status == "active"


@pytest.mark.parametrize(("status", "error"), [(500, stripe.APIError), (429, stripe.RateLimitError)])
def test_failures_are_of_stripes_kinds_and_do_nothing(shop, status, error):
    shop.server.fail_next(1, status)
    with pytest.raises(error):
        client_of(shop.server, max_network_retries=0).v1.customers.create({"name": "Ann"})
    assert shop.api.customers.list().data == []


def test_lists_come_in_pages_newest_first(shop):
    made = [shop.api.customers.create({"email": f"{name}@example.com"}).id for name in "abcde"]
    assert shop.api.customers.list({"email": "a@example.com"}).data[0].id == made[0]
    first = shop.api.customers.list({"limit": 2})
    assert [each.id for each in first.data] == [made[4], made[3]] and first.has_more
    assert [each.id for each in first.auto_paging_iter()] == made[::-1]
    found = shop.api.prices.list({"lookup_keys": ["pro_yearly"], "expand": ["data.product"]})
    assert [(each.id, each.product.name) for each in found.data] == [(shop.yearly.id, "Pro")]


def test_yen_are_not_multiplied_by_a_hundred(shop):
    price = shop.api.prices.create({"currency": "jpy", "unit_amount": 500, "product_data": {"name": "Yen"}})
    assert (price.unit_amount, price.unit_amount_decimal) == (500, 500)


def test_webhooks_carry_stripes_signature_and_are_sent_again_until_they_are_taken(shop):
    statuses = iter([500, 200])

    def receive(request: Received) -> bytes:
        signature = request.headers["stripe-signature"]
        event = stripe.Webhook.construct_event(request.body, signature, shop.server.webhook_secret)
        seen.append(event.type)
        return answer(next(statuses))

    seen: list[str] = []
    with serving(receive) as receiver:
        shop.api.customers.create({"name": "Ann"})
        shop.server.webhook_url = receiver.url
        shop.server.hold_webhooks()
        event = next(each for each in shop.server.events if each["type"] == "customer.created")
        assert shop.server.deliver([event]) == [500]
        assert shop.server.deliver([event["id"]]) == [200]
    assert seen == ["customer.created"] * 2
    assert [(each.type, each.status) for each in shop.server.deliveries] == [(seen[0], 500), (seen[0], 200)]


def test_what_the_receiver_refused_waits_for_the_redelivery(shop):
    def take(body: bytes, headers: dict[str, str]) -> int:
        taken.append(json.loads(body)["type"])
        return 200

    taken: list[str] = []
    shop.server.webhook_url = lambda body, headers: 503
    told_before = len(shop.told())
    shop.api.customers.create({"name": "Ann"})
    shop.api.customers.create({"name": "Bob"})
    shop.server.flush()
    shop.server.webhook_url = take
    shop.server.redeliver()
    shop.server.redeliver()
    assert taken == shop.told()[told_before:] == ["customer.created"] * 2


def test_a_receiver_may_ask_and_change_things_while_it_is_told(shop):
    def receive(request: Received) -> bytes:
        event = json.loads(request.body)
        if event["type"] == "checkout.session.completed":
            shop.api.customers.update(event["data"]["object"]["customer"], {"metadata": {"seen": "yes"}})
        return answer(200)

    before = len(shop.server.events)
    with serving(receive) as receiver:
        shop.server.webhook_url = receiver.url
        shop.subscribed()
        shop.server.flush()
    assert shop.server.deliveries[-1].type == "customer.updated"
    assert [each.event for each in shop.server.deliveries] == [each["id"] for each in shop.server.events[before:]]


def test_a_signature_with_another_secret_or_of_long_ago_is_no_signature(shop):
    body = '{"object": "event"}'
    secret = shop.server.webhook_secret
    for header in (shop.server.sign(body, "whsec_other"), shop.server.sign(body, timestamp=1)):
        with pytest.raises(stripe.SignatureVerificationError):
            stripe.Webhook.construct_event(body, header, secret)


def test_the_controls_are_driven_over_http_too(shop):
    remote: Any = RemoteStripeServer(shop.server.url)
    session = shop.session()
    remote.complete_checkout(session.id, email="ann@example.com")
    remote.advance_to(datetime(2026, 3, 1, tzinfo=UTC))
    assert remote.now == shop.server.now == stamp(3, 1, 0)
    assert [each["type"] for each in remote.events] == shop.told()
    assert [each.path for each in remote.log] == [each.path for each in shop.server.log]
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(f"{shop.server.url}/_control/shutdown", b"{}")


@pytest.mark.processes
def test_it_stands_as_a_process_of_its_own_with_the_machines_time():
    command = [sys.executable, "-m", "tests.stripe_server"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=CHECKOUT) as process:
        try:
            assert process.stdout is not None
            remote: Any = RemoteStripeServer(process.stdout.readline().strip())
            assert abs(remote.now - time.time()) < 5
            client_of(remote).v1.customers.create({"email": "ann@example.com"})
            remote.advance(days=3)
            assert abs(remote.now - time.time() - 3 * DAY) < 5
            assert [each["email"] for each in remote.objects("customer")] == ["ann@example.com"]
        finally:
            process.terminate()
