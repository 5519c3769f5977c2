"""A user brings the subscription to another tier, to its end, or back from either before it comes."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import pytest
from django.core import mail as outbox
from django.db import connection
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from accounts.models import Tier, User
from accounts.services import set_tier
from billing import overrides, subscription_mails, tiers
from billing.models import BillingMail, StripeCustomer, Subscription, SubscriptionPeriod
from billing.services import limits_of
from billing.stripe import changing, services
from billing.stripe.client import client
from billing.stripe.prices import METER_EVENT
from executions import overage, tasks
from tests.billing.limits import give
from tests.billing.shop import CHECKOUT, PORTAL, Shop, opened
from tests.billing.test_overage import LIMIT, report, told, use
from tests.billing.test_subscriptions import mail, mails, move_to, pro_price, running, statuses, tier_of
from tests.conftest import api_as

pytestmark = pytest.mark.django_db

SUBSCRIPTION = "/api/v1/billing/subscription"
PRO, ENTERPRISE, HIGH_FREQUENCY = 2_900, 99_900, 499_900  # cents a month


@pytest.fixture
def mall(shop: Shop) -> Shop:
    """Every tier is sold."""
    shop.sell("enterprise", ENTERPRISE)
    shop.sell("high_frequency", HIGH_FREQUENCY)
    return shop


@pytest.fixture
def paying(mall: Shop, carol: User) -> User:
    """On pro, ten days into the first period that is paid for."""
    return on(mall, carol, "pro")


@pytest.fixture
def enterprise(mall: Shop, carol: User) -> User:
    return on(mall, carol, "enterprise")


def on(shop: Shop, user: User, tier: str) -> User:
    shop.stripe.complete_checkout(shop.checkout(api_as(user), tier=tier))
    shop.stripe.advance(days=24)
    user.refresh_from_db()
    return user


def change(shop: Shop, user: User, tier: str) -> dict[str, Any]:
    """The state that is answered; the events have been handled too."""
    answer = api_as(user).patch(SUBSCRIPTION, {"tier": tier})
    assert answer.status_code == 200, answer.content
    shop.stripe.flush()
    assert answer.json() == state(user)
    return state(user)


def state(user: User) -> dict[str, Any]:
    said: dict[str, Any] = api_as(user).get(SUBSCRIPTION).json()
    return said


def refused(user: User, tier: str) -> tuple[int, str]:
    answer = api_as(user).patch(SUBSCRIPTION, {"tier": tier})
    return answer.status_code, answer.json()["code"]


def pending(user: User) -> tuple[str, str | None]:
    said = state(user)
    return said["tier"], said["pendingTier"]


def at_stripe(shop: Shop) -> dict[str, Any]:
    [subscription] = shop.stripe.objects("subscription")
    return subscription


def sold(shop: Shop) -> list[str]:
    """The lookup keys of the prices that the subscription has."""
    return sorted(item["price"]["lookup_key"] for item in at_stripe(shop)["items"]["data"])


def schedules(shop: Shop) -> list[str]:
    return [schedule["status"] for schedule in shop.stripe.objects("subscription_schedule")]


def charged(shop: Shop) -> list[int]:
    return [invoice["amount_paid"] for invoice in shop.stripe.objects("invoice")]


def iso(moment: datetime | None) -> str:
    assert moment is not None
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


# To read it. -----------------------------------------------------------------------------------------------------
def test_who_has_none_is_told_so_also_where_nothing_is_sold(carol: User) -> None:
    assert state(carol) == {
        "status": "none",
        "tier": "free",
        "pendingTier": None,
        "periodStart": None,
        "periodEnd": None,
        "trialEndsAt": None,
        "cancelAt": None,
        "failedPayments": 0,
    }


def test_it_is_told_as_it_is_known_here_without_asking_stripe(shop: Shop, carol: User, settings: Settings) -> None:
    row = shop.subscribe(carol)
    before = len(shop.paths())
    settings.STRIPE_API_KEY = ""
    assert state(carol) == {
        "status": "trialing",
        "tier": "pro",
        "pendingTier": None,
        "periodStart": iso(row.period_start),
        "periodEnd": iso(row.period_end),
        "trialEndsAt": iso(row.trial_ends_at),
        "cancelAt": None,
        "failedPayments": 0,
    }
    assert len(shop.paths()) == before


def test_one_that_has_ended_is_none(shop: Shop, carol: User) -> None:
    shop.subscribe(carol)
    services.cancel_subscription(user=carol, at_period_end=False, now=shop.now)
    assert (state(carol)["status"], state(carol)["tier"]) == ("none", "free")


def test_of_two_that_somebody_has_made_the_higher_is_told(mall: Shop, paying: User) -> None:
    second = subscribe_by_hand(mall, paying, "enterprise")
    Subscription.objects.filter(stripe_id=second).update(created_at=timezone.now() - timedelta(days=900))
    assert state(paying)["tier"] == "enterprise"


def subscribe_by_hand(shop: Shop, user: User, tier: str) -> str:
    """As an operator would in the dashboard; its events have been handled."""
    [price] = client().v1.prices.list({"lookup_keys": [f"blox_{tier}_monthly"]}).data
    made = client().v1.subscriptions.create({"customer": shop.customer(user), "items": [{"price": price.id}]})
    shop.stripe.flush()
    return made.id


# Higher: at once. ------------------------------------------------------------------------------------------------
def test_a_higher_tier_is_there_at_once_for_the_difference_until_the_period_ends(mall: Shop, paying: User) -> None:
    before, periods = at_stripe(mall), list(SubscriptionPeriod.objects.values_list("starts_at", "ends_at"))
    item = before["items"]["data"][0]
    start, end = item["current_period_start"], item["current_period_end"]
    left = Decimal(end - mall.stripe.now) / Decimal(end - start)
    assert 0 < left < 1

    said = change(mall, paying, "enterprise")

    assert (said["status"], said["tier"], said["pendingTier"]) == ("active", "enterprise", None)
    difference = cents(left * ENTERPRISE) - cents(left * PRO)
    assert charged(mall) == [0, PRO, difference]
    assert mall.stripe.objects("invoice")[-1]["billing_reason"] == "subscription_update"
    assert list(SubscriptionPeriod.objects.values_list("starts_at", "ends_at")) == periods
    assert mails(paying)[-1] == "payment_succeeded"
    mall.stripe.advance_to(datetime.fromtimestamp(end, UTC) + timedelta(hours=2))
    assert charged(mall)[3:] == [ENTERPRISE]


def cents(amount: Decimal) -> int:
    return int(amount.quantize(Decimal(1), ROUND_HALF_UP))


def test_its_limits_follow(mall: Shop, paying: User) -> None:
    change(mall, paying, "enterprise")
    paying.refresh_from_db()
    assert limits_of(paying) == tiers.TIERS["enterprise"]
    assert api_as(paying).get("/api/v1/usage").json()["runsLimit"] == -1


@pytest.mark.parametrize("card", ["declined", "missing"])
def test_where_the_difference_cannot_be_charged_nothing_changes(mall: Shop, carol: User, card: str) -> None:
    if card == "declined":
        on(mall, carol, "pro")
        mall.stripe.card_declines(mall.customer(carol))
    else:
        given_for_nothing(mall, carol)
    before, invoices = at_stripe(mall), charged(mall)

    answer = api_as(carol).patch(SUBSCRIPTION, {"tier": "enterprise"})
    mall.stripe.flush()

    assert (answer.status_code, answer.json()["code"]) == (402, "payment_failed")
    assert PORTAL in answer.json()["message"]
    assert (at_stripe(mall), charged(mall), pending(carol)) == (before, invoices, ("pro", None))
    assert (tier_of(carol), "payment_failed_soft" in mails(carol)) == ("pro", False)

    mall.stripe.card_works(mall.customer(carol))
    mall.stripe.add_card(mall.customer(carol))
    assert change(mall, carol, "enterprise")["tier"] == "enterprise"


def given_for_nothing(shop: Shop, user: User) -> None:
    """A subscription to pro that costs nothing: no card was asked for."""
    shop.checkout(api_as(user))
    free = client().v1.prices.create(
        {
            "product": "blox_pro",
            "currency": "usd",
            "unit_amount": 0,
            "recurring": {"interval": "month"},
            "metadata": {"blox_tier": "pro"},
        }
    )
    client().v1.subscriptions.create({"customer": shop.customer(user), "items": [{"price": free.id}]})
    shop.stripe.flush()


def test_in_a_trial_a_higher_tier_costs_nothing_and_the_trial_goes_on(mall: Shop, carol: User) -> None:
    trial = mall.subscribe(carol)
    mall.stripe.card_declines(mall.customer(carol))  # it is not asked for money
    said = change(mall, carol, "enterprise")
    assert (said["status"], said["tier"], said["trialEndsAt"]) == ("trialing", "enterprise", iso(trial.trial_ends_at))
    assert charged(mall) == [0]

    mall.stripe.card_works(mall.customer(carol))
    mall.stripe.advance(days=15)
    assert (charged(mall), state(carol)["status"]) == ([0, ENTERPRISE], "active")


def test_what_was_over_the_limit_before_is_billed_by_the_renewal_and_nothing_after_it(mall: Shop, paying: User) -> None:
    use(paying, LIMIT + 3_000, mall.now)
    change(mall, paying, "enterprise")
    assert told(mall) == [3_000]
    assert sold(mall) == ["blox_enterprise_monthly", "blox_pro_overage"]

    for _ in range(3):
        mall.stripe.advance(hours=2)
        use(paying, 5 * LIMIT, mall.now)
        report(mall)
    period = SubscriptionPeriod.objects.latest("starts_at")
    mall.stripe.advance_to(period.ends_at + timedelta(minutes=5))
    report(mall)
    mall.stripe.advance(hours=2)

    assert told(mall) == [3_000]
    assert charged(mall)[-1] == ENTERPRISE + 150  # $0.50 for 1,000


def test_runs_that_stripe_does_not_take_keep_the_tier_as_it_is(mall: Shop, paying: User) -> None:
    use(paying, LIMIT + 3_000, mall.now)
    overage.report_overage(now=mall.now)
    before = at_stripe(mall)
    mall.stripe.fail_next(100, after=2)  # the subscriptions and the prices are asked for before
    assert refused(paying, "enterprise") == (503, "billing_unavailable")
    assert mall.paths()[-1] == "POST /v1/billing/meter_events"
    mall.stripe.fail_next(0)
    assert (at_stripe(mall), told(mall)) == (before, [])


def test_an_overage_price_of_the_new_tier_is_not_added_beside_one_that_bills_the_same_runs(
    mall: Shop, paying: User
) -> None:
    sell_overage(mall, "enterprise")
    use(paying, LIMIT + 3_000, mall.now)
    change(mall, paying, "enterprise")
    assert sold(mall) == ["blox_enterprise_monthly", "blox_pro_overage"]
    mall.stripe.advance(days=31)
    assert charged(mall)[-1] == ENTERPRISE + 150


def sell_overage(shop: Shop, tier: str) -> None:
    [meter] = [each for each in shop.stripe.objects("billing.meter") if each["event_name"] == METER_EVENT]
    client().v1.prices.create(
        {
            "product": "blox_pro",
            "currency": "usd",
            "unit_amount": 1,
            "recurring": {"interval": "month", "usage_type": "metered", "meter": meter["id"]},
            "lookup_key": f"blox_{tier}_overage",
        }
    )


def test_a_higher_tier_takes_a_cancellation_back(mall: Shop, paying: User) -> None:
    change(mall, paying, "free")
    said = change(mall, paying, "enterprise")
    assert (said["tier"], said["pendingTier"], said["cancelAt"]) == ("enterprise", None, None)


def test_a_higher_tier_replaces_a_lower_one_that_was_to_come(mall: Shop, enterprise: User) -> None:
    change(mall, enterprise, "pro")
    said = change(mall, enterprise, "high_frequency")
    assert (said["tier"], said["pendingTier"], schedules(mall)) == ("high_frequency", None, ["released"])
    mall.stripe.advance(days=31)
    assert charged(mall)[-1] == HIGH_FREQUENCY


@pytest.mark.parametrize("before", ["pro", "free"])
def test_what_was_to_come_stays_so_where_the_card_is_declined(mall: Shop, enterprise: User, before: str) -> None:
    change(mall, enterprise, before)
    mall.stripe.card_declines(mall.customer(enterprise))
    assert refused(enterprise, "high_frequency") == (402, "payment_failed")
    mall.stripe.flush()
    assert pending(enterprise) == ("enterprise", before)


# Lower: at the period's end. -------------------------------------------------------------------------------------
def test_a_lower_tier_comes_at_the_periods_end_and_nothing_is_paid_back(mall: Shop, enterprise: User) -> None:
    before = at_stripe(mall)
    said = change(mall, enterprise, "pro")
    assert (said["status"], said["tier"], said["pendingTier"]) == ("active", "enterprise", "pro")
    assert (said["cancelAt"], tier_of(enterprise)) == (None, "enterprise")
    assert at_stripe(mall)["items"] == before["items"]

    end = before["items"]["data"][0]["current_period_end"]
    mall.stripe.advance_to(end - 60)
    assert pending(enterprise) == ("enterprise", "pro")
    mall.stripe.advance_to(end + 2 * 3600)

    assert (pending(enterprise), tier_of(enterprise)) == (("pro", None), "pro")
    assert charged(mall) == [0, ENTERPRISE, PRO]
    assert [customer["balance"] for customer in mall.stripe.objects("customer")] == [0]
    assert sold(mall) == ["blox_pro_monthly", "blox_pro_overage"]
    mall.stripe.advance(days=62)
    assert (charged(mall)[3:], schedules(mall)) == ([PRO, PRO], ["released"])


def test_another_lower_tier_replaces_the_first(mall: Shop, carol: User) -> None:
    on(mall, carol, "high_frequency")
    assert change(mall, carol, "enterprise")["pendingTier"] == "enterprise"
    assert change(mall, carol, "pro")["pendingTier"] == "pro"
    assert schedules(mall) == ["active"]
    mall.stripe.advance(days=31)
    assert (tier_of(carol), charged(mall)[-1]) == ("pro", PRO)


def test_a_lower_tier_replaces_a_cancellation(mall: Shop, enterprise: User) -> None:
    change(mall, enterprise, "free")
    said = change(mall, enterprise, "pro")
    assert (said["pendingTier"], said["cancelAt"]) == ("pro", None)
    mall.stripe.advance(days=31)
    assert tier_of(enterprise) == "pro"


def test_in_a_trial_a_lower_tier_comes_when_it_ends(mall: Shop, carol: User) -> None:
    mall.stripe.complete_checkout(mall.checkout(api_as(carol), tier="enterprise"))
    said = change(mall, carol, "pro")
    assert (said["status"], said["tier"], said["pendingTier"]) == ("trialing", "enterprise", "pro")
    mall.stripe.advance(days=13)
    assert (state(carol)["status"], tier_of(carol)) == ("trialing", "enterprise")
    mall.stripe.advance(days=2)
    assert (state(carol)["status"], tier_of(carol), charged(mall)) == ("active", "pro", [0, PRO])


def test_what_was_over_the_limit_before_a_rise_is_billed_also_when_a_lower_tier_follows(
    mall: Shop, paying: User
) -> None:
    use(paying, LIMIT + 3_000, mall.now)
    change(mall, paying, "high_frequency")
    change(mall, paying, "enterprise")
    mall.stripe.advance(days=31)
    assert charged(mall)[-1] == ENTERPRISE + 150


def test_of_prices_on_one_meter_one_goes_on(mall: Shop, enterprise: User) -> None:
    sell_overage(mall, "high_frequency")
    change(mall, enterprise, "high_frequency")
    assert sold(mall) == ["blox_high_frequency_monthly", "blox_high_frequency_overage"]
    change(mall, enterprise, "pro")
    mall.stripe.advance(days=31)
    assert sold(mall) == ["blox_pro_monthly", "blox_pro_overage"]


def test_a_phase_keeps_the_discounts_and_taxes_that_somebody_has_set() -> None:
    price = {"id": "price_1", "lookup_key": "blox_enterprise_monthly", "recurring": {"meter": None}}
    item = {"price": price, "quantity": 1, "current_period_end": 2, "tax_rates": ["txr_1"], "discounts": []}
    subscription = {
        "status": "active",
        "items": {"data": [item]},
        "discounts": [{"id": "di_1"}],
        "default_tax_rates": [{"id": "txr_2"}],
    }
    under_way, following = changing.phases(subscription, [{"id": "price_2"}], since=1)
    for phase in (under_way, following):
        assert phase["discounts"] == [{"discount": "di_1"}]
        assert phase["default_tax_rates"] == ["txr_2"]
    assert under_way["items"] == [{"price": "price_1", "quantity": 1, "tax_rates": ["txr_1"]}]


def test_a_fall_to_a_lower_tier_stops_the_flows_that_ran_longest_ago_and_the_mail_names_them(
    mall: Shop, enterprise: User
) -> None:
    give(enterprise, "flows", 2)
    overrides.forget()
    running(enterprise, "oldest", "older", "later", "latest")
    change(mall, enterprise, "pro")
    tasks.review_flow_caps()
    assert set(statuses(enterprise).values()) == {"running"}
    outbox.outbox.clear()
    BillingMail.objects.update(due_at=None)

    mall.stripe.advance(days=31)
    tasks.review_flow_caps()

    assert statuses(enterprise) == {"oldest": "stopped", "older": "stopped", "later": "running", "latest": "running"}
    assert mail(enterprise, "downgraded")["stopped_flows"] == ["oldest", "older"]
    subscription_mails.send_due_mails()
    [said] = [message for message in outbox.outbox if message.subject == "Your account is on the Pro tier now"]
    assert "from the Enterprise tier to the Pro tier" in str(said.body)
    assert "\n- oldest\n- older\n" in str(said.body)


# To free, and back. ----------------------------------------------------------------------------------------------
def test_free_ends_it_with_its_period(mall: Shop, paying: User) -> None:
    said = change(mall, paying, "free")
    assert (said["status"], said["tier"], said["pendingTier"]) == ("active", "pro", "free")
    assert said["cancelAt"] == said["periodEnd"]
    assert (at_stripe(mall)["cancel_at_period_end"], mails(paying)[-1]) == (True, "canceled")
    mall.stripe.advance(days=31)
    assert (state(paying)["status"], tier_of(paying)) == ("none", "free")


def test_free_replaces_a_lower_tier_that_was_to_come(mall: Shop, enterprise: User) -> None:
    change(mall, enterprise, "pro")
    assert change(mall, enterprise, "free")["pendingTier"] == "free"
    assert schedules(mall) == ["released"]
    mall.stripe.advance(days=31)
    assert (state(enterprise)["status"], tier_of(enterprise)) == ("none", "free")


def test_in_the_period_after_a_fall_it_can_be_ended_and_raised(mall: Shop, enterprise: User) -> None:
    change(mall, enterprise, "pro")
    mall.stripe.advance(days=31)
    assert schedules(mall) == ["active"]  # its last phase
    assert change(mall, enterprise, "free")["pendingTier"] == "free"
    assert change(mall, enterprise, "enterprise")["tier"] == "enterprise"


@pytest.mark.parametrize("what", ["pro", "free", "at a moment"])
def test_the_present_tier_takes_back_what_was_to_come(mall: Shop, enterprise: User, what: str) -> None:
    if what == "at a moment":  # as the portal and the dashboard do
        client().v1.subscriptions.update(at_stripe(mall)["id"], {"cancel_at": "min_period_end"})
        mall.stripe.flush()
    else:
        change(mall, enterprise, what)
    assert state(enterprise)["pendingTier"] is not None
    for _ in range(2):
        said = change(mall, enterprise, "enterprise")
        assert (said["tier"], said["pendingTier"], said["cancelAt"]) == ("enterprise", None, None)
    mall.stripe.advance(days=31)
    assert (tier_of(enterprise), charged(mall)) == ("enterprise", [0, ENTERPRISE, ENTERPRISE])


def test_who_cancels_takes_it_back_and_cancels_again_is_mailed_twice_and_no_more(mall: Shop, paying: User) -> None:
    for tier in ("free", "pro", "free", "free"):
        mall.stripe.advance(seconds=1)
        change(mall, paying, tier)
    assert mails(paying).count("canceled") == 2
    for event in mall.stripe.events:
        mall.stripe.deliver([event])
    services.sync_customer(user=paying, now=mall.now)
    Subscription.objects.update(cancel_at=None)  # as an older read might leave it
    services.sync_customer(user=paying, now=mall.now)
    assert mails(paying).count("canceled") == 2


# What is refused. ------------------------------------------------------------------------------------------------
def test_without_a_key_nothing_is_changed(carol: User) -> None:
    assert refused(carol, "pro") == (503, "billing_not_configured")


@pytest.mark.parametrize("body", [{}, {"tier": "gold"}, {"tier": None}, {"tier": ["pro"]}])
def test_what_is_no_tier_is_refused(carol: User, body: dict[str, Any]) -> None:
    answer = api_as(carol).patch(SUBSCRIPTION, body)
    assert (answer.status_code, answer.json()["code"]) == (400, "validation_error")


@pytest.mark.parametrize("tier", ["pro", "free"])
def test_who_has_none_is_sent_to_the_checkout(mall: Shop, carol: User, tier: str) -> None:
    answer = api_as(carol).patch(SUBSCRIPTION, {"tier": tier})
    assert (answer.status_code, answer.json()["code"]) == (409, "no_subscription")
    assert CHECKOUT in answer.json()["message"]
    mall.subscribe(carol)
    services.cancel_subscription(user=carol, at_period_end=False, now=mall.now)
    assert refused(carol, tier) == (409, "no_subscription")


@pytest.mark.parametrize("tier", ["enterprise", "high_frequency"])
def test_a_tier_without_a_price_is_not_sold(shop: Shop, carol: User, tier: str) -> None:
    shop.subscribe(carol)
    assert refused(carol, tier) == (409, "tier_not_sold")


def test_where_the_price_of_pro_has_not_been_made_it_is_for_the_operator_to_mend(mall: Shop, enterprise: User) -> None:
    [price] = client().v1.prices.list({"lookup_keys": ["blox_pro_monthly"]}).data
    client().v1.prices.update(price.id, {"active": False})
    assert refused(enterprise, "pro") == (503, "billing_unavailable")
    assert pending(enterprise) == ("enterprise", None)


@pytest.mark.parametrize("after_retries", ["past_due", "unpaid"])
def test_what_is_due_is_paid_first_but_it_can_be_ended(mall: Shop, enterprise: User, after_retries: str) -> None:
    mall.stripe.configure(after_retries=after_retries)
    mall.stripe.card_declines(mall.customer(enterprise))
    mall.stripe.advance(days=60)
    assert state(enterprise)["status"] == after_retries
    before = at_stripe(mall)
    for tier in ("pro", "enterprise", "high_frequency"):
        answer = api_as(enterprise).patch(SUBSCRIPTION, {"tier": tier})
        assert (answer.status_code, answer.json()["code"]) == (409, "payment_due")
        assert PORTAL in answer.json()["message"]
    assert at_stripe(mall) == before
    assert change(mall, enterprise, "free")["pendingTier"] == "free"


def test_one_in_which_no_period_runs_ends_at_once(mall: Shop, carol: User) -> None:
    mall.checkout(api_as(carol))
    mall.stripe.card_declines(mall.customer(carol))
    subscribe_by_hand(mall, carol, "pro")
    assert state(carol)["status"] == "incomplete"
    assert refused(carol, "enterprise") == (409, "payment_due")
    assert change(mall, carol, "free")["status"] == "none"
    assert at_stripe(mall)["status"] == "canceled"


def test_nobody_pays_for_a_tier_that_an_operator_has_given(mall: Shop, paying: User) -> None:
    set_tier(user=paying, tier=Tier.ENTERPRISE)
    invoices = charged(mall)
    assert refused(paying, "enterprise") == (409, "tier_set_by_operator")
    assert charged(mall) == invoices
    assert change(mall, paying, "free")["pendingTier"] == "free"
    assert change(mall, paying, "pro")["pendingTier"] is None
    assert tier_of(paying) == "enterprise"
    assert change(mall, paying, "high_frequency")["tier"] == "high_frequency"
    assert tier_of(paying) == "high_frequency"


def test_a_stripe_that_is_away_is_a_503_and_nothing_changes(mall: Shop, paying: User) -> None:
    before = at_stripe(mall)
    mall.stripe.fail_next(100)
    answer = api_as(paying).patch(SUBSCRIPTION, {"tier": "enterprise"})
    assert (answer.status_code, answer.json()["code"]) == (503, "billing_unavailable")
    assert int(answer["Retry-After"]) > 0
    mall.stripe.fail_next(0)
    assert at_stripe(mall) == before
    assert change(mall, paying, "enterprise")["tier"] == "enterprise"  # nobody is kept out


def test_ten_changes_and_pages_a_minute_are_asked_for_at_stripe_and_reading_is_free(shop: Shop, carol: User) -> None:
    api = api_as(carol)
    statuses = [api.post(PORTAL, {}).status_code for _ in range(5)]
    statuses += [api.patch(SUBSCRIPTION, {"tier": "pro"}).status_code for _ in range(6)]
    assert statuses == [409] * 10 + [429]
    assert api.get(SUBSCRIPTION).status_code == 200


def test_who_has_one_is_told_at_the_checkout_how_to_change_it(shop: Shop, carol: User) -> None:
    shop.subscribe(carol)
    assert SUBSCRIPTION in api_as(carol).post(CHECKOUT, {"tier": "pro"}).json()["message"]


def test_a_change_touches_nobody_elses(mall: Shop, paying: User) -> None:
    dora = User.objects.create_user("dora@shop.example")
    on(mall, dora, "enterprise")
    hers = state(dora), tier_of(dora)
    whole = [each for each in mall.stripe.objects("subscription") if each["customer"] == mall.customer(dora)]

    change(mall, paying, "enterprise")
    change(mall, paying, "pro")
    change(mall, paying, "free")

    assert (state(dora), tier_of(dora)) == hers
    assert [each for each in mall.stripe.objects("subscription") if each["customer"] == mall.customer(dora)] == whole


# At a time, and crashes. -----------------------------------------------------------------------------------------
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("tiers", [("pro", "enterprise"), ("pro", "free"), ("pro", "pro")], ids="-".join)
def test_of_two_changes_at_a_time_one_is_let_in(settings: Settings, carol: User, tiers: tuple[str, str]) -> None:
    with opened(settings) as shop:
        shop.sell("enterprise", ENTERPRISE)
        shop.sell("high_frequency", HIGH_FREQUENCY)
        on(shop, carol, "high_frequency")
        shop.stripe.slow(0.2)
        with ThreadPoolExecutor(2) as threads:
            answers = list(threads.map(lambda tier: patched(carol, tier), tiers))
        shop.stripe.slow(0)
        shop.stripe.flush()

        assert sorted(answers) == [(200, None), (409, "change_under_way")]
        assert pending(carol) == ("high_frequency", tiers[answers.index((200, None))])
        assert len(schedules(shop)) <= 1


def patched(user: User, tier: str) -> tuple[int, str | None]:
    try:
        answer = api_as(user).patch(SUBSCRIPTION, {"tier": tier})
        return answer.status_code, answer.json().get("code")
    finally:
        connection.close()


def test_who_died_at_a_change_keeps_others_out_for_two_minutes_at_most(mall: Shop, paying: User) -> None:
    def left(**ago: int) -> None:
        died_at = timezone.now() - timedelta(**ago)
        StripeCustomer.objects.update(changing_until=died_at + changing.LEASE)

    left(seconds=60)
    assert refused(paying, "free") == (409, "change_under_way")
    assert at_stripe(mall)["cancel_at"] is None
    left(seconds=121)
    assert change(mall, paying, "free")["pendingTier"] == "free"
    assert StripeCustomer.objects.get().changing_until is None


@pytest.mark.parametrize("after", range(2, 8))
def test_a_lower_tier_that_broke_off_anywhere_is_mended_by_a_repeat(mall: Shop, enterprise: User, after: int) -> None:
    change(mall, enterprise, "free")
    mall.stripe.fail_next(100, after=after)
    assert refused(enterprise, "pro") == (503, "billing_unavailable")
    mall.stripe.fail_next(0)
    assert change(mall, enterprise, "pro")["pendingTier"] == "pro"
    assert schedules(mall) == ["active"]


def test_a_higher_tier_whose_answer_was_lost_is_charged_once(mall: Shop, paying: User) -> None:
    mall.stripe.cut_next(after=2)
    assert refused(paying, "enterprise") == (503, "billing_unavailable")
    paid = charged(mall)
    assert len(paid) == 3
    assert change(mall, paying, "enterprise")["tier"] == "enterprise"
    assert charged(mall) == paid


def test_a_higher_tier_that_broke_off_before_the_lower_one_was_dropped_is_mended(mall: Shop, enterprise: User) -> None:
    change(mall, enterprise, "pro")
    mall.stripe.fail_next(100, after=3)
    assert refused(enterprise, "high_frequency") == (503, "billing_unavailable")
    mall.stripe.fail_next(0)
    mall.stripe.flush()
    assert pending(enterprise) == ("high_frequency", "pro")
    change(mall, enterprise, "high_frequency")
    assert (pending(enterprise), schedules(mall)) == (("high_frequency", None), ["released"])


# Operators, and closed accounts. ---------------------------------------------------------------------------------
@pytest.mark.parametrize(("action", "said"), [("cancel_at_period_end", "free"), ("cancel_now", None)])
def test_an_operator_ends_one_that_was_to_come_to_a_lower_tier(
    mall: Shop, enterprise: User, admin_client: Client, action: str, said: str | None
) -> None:
    change(mall, enterprise, "pro")
    press(admin_client, enterprise, action)
    mall.stripe.flush()
    assert state(enterprise)["pendingTier"] == said
    assert (at_stripe(mall)["cancel_at"] or at_stripe(mall)["ended_at"]) is not None
    assert "active" not in schedules(mall)


def press(client: Client, user: User, action: str) -> str:
    body = {"action": action, "_selected_action": str(user.pk), "_from_page": "1", "confirm": "yes"}
    return client.post("/admin/billing/customer/", body, follow=True).content.decode()


def test_an_operator_waits_for_the_users_own_change(mall: Shop, paying: User, admin_client: Client) -> None:
    StripeCustomer.objects.update(changing_until=timezone.now() + timedelta(minutes=1))
    assert "it failed. The subscription is being changed at this moment" in press(
        admin_client, paying, "cancel_at_period_end"
    )
    assert at_stripe(mall)["cancel_at"] is None


def test_a_closed_accounts_subscription_ends_also_while_a_lower_tier_is_to_come(mall: Shop, enterprise: User) -> None:
    change(mall, enterprise, "pro")
    StripeCustomer.objects.update(close_due_at=timezone.now())
    services.work()
    assert (at_stripe(mall)["status"], schedules(mall)) == ("canceled", ["canceled"])
    assert StripeCustomer.objects.get().close_due_at is None


def test_who_has_a_price_of_their_own_ends_it_alone_and_asks_the_operator_for_the_rest(
    mall: Shop, paying: User
) -> None:
    move_to(pro_price(), at_stripe(mall)["id"])
    mall.stripe.flush()
    before = at_stripe(mall)["items"]
    for tier in ("pro", "enterprise"):
        assert refused(paying, tier) == (409, "tier_not_sold")
    assert at_stripe(mall)["items"] == before
    assert change(mall, paying, "free")["pendingTier"] == "free"
