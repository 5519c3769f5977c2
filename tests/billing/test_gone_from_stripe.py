"""What Stripe tells of no more: a subscription that it does not list, and a customer whom it does not know."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from accounts.models import Tier, User
from accounts.services import set_tier
from billing.models import BillingMail, StripeCustomer, StripeEvent, Subscription, SubscriptionPeriod
from billing.stripe import services
from tests.billing.shop import CHECKOUT, Shop, opened
from tests.billing.test_money_actions import entries, page_of, press
from tests.billing.test_stripe_attempts import updated
from tests.billing.test_subscriptions import mails, tier_of
from tests.conftest import api_as

pytestmark = pytest.mark.django_db

UNKNOWN = "Stripe does not know this customer"


@contextmanager
def another_account(settings: Settings, shop: Shop) -> Iterator[Shop]:
    """Within the block the key is of one that has never seen the customers of `shop`."""
    before = {name: getattr(settings, name) for name in ("STRIPE_API_BASE", "STRIPE_WEBHOOK_SECRET")}
    with opened(settings, now=shop.now + timedelta(minutes=1)) as other:
        yield other
    for name, value in before.items():
        setattr(settings, name, value)


def read_by_the_clock() -> None:
    """The next time that it looks for lost events."""
    StripeCustomer.objects.update(resync_due_at=timezone.now())
    services.work()


def a_day_passes() -> None:
    for customer in StripeCustomer.objects.exclude(missing_since=None):
        assert customer.missing_since is not None
        customer.missing_since -= timedelta(days=1)
        customer.save()


def shown(user: User) -> tuple[str, str]:
    """The tier, and the subscription's status, as the user sees them."""
    return tier_of(user), api_as(user).get("/api/v1/billing/subscription").json()["status"]


# Subscriptions. ----------------------------------------------------------------------------------------------------
@pytest.fixture
def unlisted(shop: Shop, carol: User) -> Subscription:
    """A subscription of Carol's that Stripe has forgotten, her customer notwithstanding."""
    subscription = shop.subscribe(carol)
    forget_subscriptions(shop)
    return subscription


def forget_subscriptions(shop: Shop) -> None:
    for kind in ("subscription", "invoice"):
        shop.stripe.world.tables[kind].clear()


def test_a_subscription_that_stripe_lists_no_more_has_ended(shop: Shop, carol: User, unlisted: Subscription) -> None:
    before = timezone.now()
    read_by_the_clock()
    assert shown(carol) == ("free", "none")
    unlisted.refresh_from_db()
    assert (unlisted.status, unlisted.cancel_at, unlisted.pending_tier) == ("canceled", None, "")
    assert unlisted.ended_at is not None and before <= unlisted.ended_at <= timezone.now()
    assert SubscriptionPeriod.objects.get().ends_at == unlisted.ended_at
    assert mails(carol) == ["trial_started", "back_to_free"]


def test_what_had_ended_before_keeps_the_moment_of_its_end(shop: Shop, carol: User) -> None:
    subscription = shop.subscribe(carol)
    services.cancel_subscription(user=carol, at_period_end=False, now=shop.now)
    subscription.refresh_from_db()
    forget_subscriptions(shop)
    services.sync_customer(user=carol, now=shop.now + timedelta(days=1))
    assert Subscription.objects.get().ended_at == subscription.ended_at


def test_the_tier_of_an_operators_stays_when_a_subscription_is_listed_no_more(
    shop: Shop, carol: User, unlisted: Subscription
) -> None:
    set_tier(user=carol, tier=Tier.ENTERPRISE)
    read_by_the_clock()
    assert shown(carol) == ("enterprise", "none")
    read_by_the_clock()
    assert shown(carol) == ("enterprise", "none")


def test_of_more_subscriptions_than_are_read_those_that_were_not_are_left_alone(shop: Shop, carol: User) -> None:
    first = shop.subscribe(carol)
    table = shop.stripe.world.tables["subscription"]
    for number in range(100):
        copy = {**table[first.stripe_id], "id": f"sub_{number}", "status": "canceled", "ended_at": shop.stripe.now}
        table[copy["id"]] = copy
    services.sync_customer(user=carol, now=shop.now)
    first.refresh_from_db()
    assert (Subscription.objects.count(), first.status) == (101, "trialing")


def test_another_account_knows_none_of_the_subscriptions_of_a_customer_of_the_same_id(
    shop: Shop, carol: User, settings: Settings
) -> None:
    """As after a move of customers: the new subscription counts, the old one has ended."""
    old = shop.subscribe(carol)
    customer = dict(shop.stripe.world.get("customer", shop.customer(carol)))
    with another_account(settings, shop) as other:
        other.stripe.world.add(customer)
        new = other.subscribe(carol)
    old.refresh_from_db()
    assert (old.status, new.status, tier_of(carol)) == ("canceled", "active", "pro")


# Customers. --------------------------------------------------------------------------------------------------------
def test_a_wrong_key_for_some_hours_takes_nobodys_tier(
    shop: Shop, carol: User, settings: Settings, admin_client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    shop.subscribe(carol)
    with another_account(settings, shop):
        read_by_the_clock()
        assert shown(carol) == ("pro", "trialing")
        assert f"{shop.customer(carol)} is not known at Stripe" in caplog.text
        assert UNKNOWN in page_of(admin_client, carol)
        read_by_the_clock()
        assert shown(carol) == ("pro", "trialing")
    read_by_the_clock()
    assert shown(carol) == ("pro", "trialing")
    assert StripeCustomer.objects.get().missing_since is None
    assert UNKNOWN not in page_of(admin_client, carol)
    assert mails(carol) == ["trial_started"]


def test_who_has_been_missing_for_a_day_has_no_subscription_any_more(
    shop: Shop, carol: User, settings: Settings
) -> None:
    shop.subscribe(carol)
    with another_account(settings, shop):
        read_by_the_clock()
        a_day_passes()
        read_by_the_clock()
        assert shown(carol) == ("free", "none")
        assert mails(carol) == ["trial_started", "back_to_free"]
        assert StripeCustomer.objects.get().resync_due_at is None


def test_what_was_ended_by_a_wrong_key_comes_back_with_the_right_one(
    shop: Shop, carol: User, settings: Settings
) -> None:
    subscription = shop.subscribe(carol)
    with another_account(settings, shop):
        read_by_the_clock()
        a_day_passes()
        read_by_the_clock()
        assert shown(carol) == ("free", "none")
    services.sync_customer(user=carol, now=timezone.now())
    assert shown(carol) == ("pro", "trialing")
    again = Subscription.objects.get()
    assert (again.period_end, again.ended_at) == (subscription.period_end, None)
    assert SubscriptionPeriod.objects.get().ends_at == subscription.period_end


def test_an_operator_who_reads_again_what_is_noted_as_missing_ends_it(
    shop: Shop, carol: User, settings: Settings, admin_client: Client, operator: User
) -> None:
    shop.subscribe(carol)
    with another_account(settings, shop):
        first = press(admin_client, carol, "read_again").content.decode()
        assert (UNKNOWN in first, shown(carol)) == (True, ("pro", "trialing"))
        press(admin_client, carol, "read_again")
        assert shown(carol) == ("free", "none")
    said = f"Read again from Stripe: {UNKNOWN}; on"
    assert entries(carol) == [
        (operator, f"{said} Pro, subscription trialing."),
        (operator, f"{said} Free, subscription canceled."),
    ]


def test_the_missing_are_found_in_admin(shop: Shop, carol: User, settings: Settings, admin_client: Client) -> None:
    shop.subscribe(carol)

    def found() -> bool:
        listed = admin_client.get("/admin/billing/stripecustomer/", {"missing_since__isnull": "False"})
        assert "By missing since" in listed.content.decode()
        return shop.customer(carol) in listed.content.decode()

    assert not found()
    with another_account(settings, shop):
        read_by_the_clock()
    assert found()


def test_while_a_subscription_is_live_here_nobody_is_made_another_customer(
    shop: Shop, carol: User, settings: Settings
) -> None:
    shop.subscribe(carol)
    customer = shop.customer(carol)
    with another_account(settings, shop) as other:
        refused = api_as(carol).post(CHECKOUT, {"tier": "pro"})
        assert (refused.status_code, refused.json()["code"]) == (503, "billing_unavailable")
        assert (shop.customer(carol), other.stripe.objects("customer")) == (customer, [])


def test_whose_subscription_ended_with_another_account_buys_there_without_a_second_trial(
    shop: Shop, carol: User, settings: Settings
) -> None:
    old = shop.subscribe(carol)
    with another_account(settings, shop) as other:
        read_by_the_clock()
        a_day_passes()
        session = other.checkout(api_as(carol))
        old.refresh_from_db()
        assert (old.status, shown(carol)) == ("canceled", ("free", "none"))
        assert StripeCustomer.objects.get().missing_since is None
        other.stripe.complete_checkout(session)
        new = Subscription.objects.exclude(pk=old.pk).get()
        assert (shown(carol), new.trial_ends_at) == (("pro", "active"), None)


def test_an_event_that_comes_while_its_customer_is_missing_is_tried_again(
    shop: Shop, carol: User, settings: Settings
) -> None:
    shop.subscribe(carol)
    updated(shop, carol)
    with another_account(settings, shop):
        services.work()
    event = StripeEvent.objects.get(pk="evt_1")
    assert (event.state, "does not know the customer" in event.error) == ("failing", True)
    assert not BillingMail.objects.exclude(kind="trial_started").exists()
