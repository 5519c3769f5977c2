"""What operators do to a subscription on the customer's page: asked first, done at Stripe, noted in the history."""

from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from accounts.models import Tier, User
from billing.models import BillingMail, OverageReport, StripeEvent, Subscription
from tests.billing.shop import Shop
from tests.executions.factories import make_execution, make_flow

pytestmark = [pytest.mark.django_db, pytest.mark.once]

CUSTOMERS = "/admin/billing/customer/"


def page_of(client: Client, user: User) -> str:
    return client.get(f"{CUSTOMERS}{user.pk}/change/").content.decode()


def press(client: Client, user: User, action: str, **more: str) -> Any:
    body = {"action": action, "_selected_action": str(user.pk), "_from_page": "1", **more}
    return client.post(CUSTOMERS, body, follow=True)


def at_stripe(shop: Shop) -> dict[str, Any]:
    (subscription,) = shop.stripe.objects("subscription")
    return subscription


def entries(user: User) -> list[tuple[User, str]]:
    rows = LogEntry.objects.filter(object_id=str(user.pk)).order_by("pk")
    return [(entry.user, entry.get_change_message()) for entry in rows]


def looker(*names: str) -> Client:
    """An operator with these permissions alone."""
    user = User.objects.create_user("looker@blox.example", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=names))
    client = Client()
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    return client


# Ending a subscription. --------------------------------------------------------------------------------------------
def test_it_ends_at_the_periods_end_after_a_question(
    admin_client: Client, shop: Shop, carol: User, operator: User
) -> None:
    subscription = shop.subscribe(carol)
    asked = press(admin_client, carol, "cancel_at_period_end").content.decode()
    assert "carol@shop.example" in asked and subscription.stripe_id in asked
    assert "at the end of what is paid for" in asked
    assert (at_stripe(shop)["cancel_at"], entries(carol)) == (None, [])

    done = press(admin_client, carol, "cancel_at_period_end", confirm="yes")
    assert done.redirect_chain == [(f"{CUSTOMERS}{carol.pk}/change/", 302)]
    assert at_stripe(shop)["cancel_at_period_end"] is True
    subscription.refresh_from_db()
    assert subscription.cancel_at is not None and subscription.status == "trialing"
    told = (
        "Had the subscription end at the period's end: on Pro, subscription trialing, "
        f"ends {subscription.cancel_at:%Y-%m-%d %H:%M}."
    )
    assert entries(carol) == [(operator, told)]
    assert told.replace("'", "&#x27;") in done.content.decode()


def test_it_ends_at_once_after_a_question(admin_client: Client, shop: Shop, carol: User, operator: User) -> None:
    shop.subscribe(carol)
    asked = press(admin_client, carol, "cancel_now").content.decode()
    assert "This cannot be taken back" in asked and "Nothing is paid back" in asked
    assert (at_stripe(shop)["status"], entries(carol)) == ("trialing", [])

    press(admin_client, carol, "cancel_now", confirm="yes")
    assert at_stripe(shop)["status"] == "canceled"
    assert User.objects.get(pk=carol.pk).tier == Tier.FREE
    assert entries(carol) == [(operator, "Ended the subscription at once: on Free, subscription canceled.")]


@pytest.mark.parametrize("action", ["cancel_at_period_end", "cancel_now"])
@pytest.mark.parametrize("confirm", ["", "no"])
def test_without_the_yes_nothing_is_told_to_stripe(
    admin_client: Client, shop: Shop, carol: User, action: str, confirm: str
) -> None:
    shop.subscribe(carol)
    before = len(shop.stripe.log)
    admin_client.get(CUSTOMERS, {"action": action, "_selected_action": str(carol.pk), "confirm": "yes"})
    press(admin_client, carol, action, confirm=confirm)
    assert (len(shop.stripe.log), entries(carol)) == (before, [])


def test_what_stripe_refuses_is_told_and_noted(admin_client: Client, shop: Shop, carol: User, operator: User) -> None:
    shop.subscribe(carol)
    shop.stripe.fail_next(2)
    answer = press(admin_client, carol, "cancel_now", confirm="yes")
    assert answer.status_code == 200
    assert "it failed. Stripe does not answer as it should" in answer.content.decode()
    assert at_stripe(shop)["status"] == "trialing"
    ((by, said),) = entries(carol)
    assert (by, said.startswith("Ended the subscription at once: it failed.")) == (operator, True)


def test_with_no_subscription_that_lives_there_is_none_to_end(admin_client: Client, shop: Shop, carol: User) -> None:
    shop.subscribe(carol)
    press(admin_client, carol, "cancel_now", confirm="yes")
    page = page_of(admin_client, carol)
    assert [f'value="{name}"' in page for name in ("read_again", "cancel_at_period_end", "cancel_now")] == [
        True,
        False,
        False,
    ]
    again = press(admin_client, carol, "cancel_now", confirm="yes").content.decode()
    assert "There is no subscription to end." in again


def test_one_that_ends_already_can_only_be_ended_sooner(admin_client: Client, shop: Shop, carol: User) -> None:
    shop.subscribe(carol)
    press(admin_client, carol, "cancel_at_period_end", confirm="yes")
    page = page_of(admin_client, carol)
    assert ('value="cancel_at_period_end"' in page, 'value="cancel_now"' in page) == (False, True)


# Reading again. ----------------------------------------------------------------------------------------------------
def test_reading_again_brings_what_no_event_has(admin_client: Client, shop: Shop, carol: User, operator: User) -> None:
    shop.stripe.hold_webhooks()
    shop.subscribe_unheard(carol)
    assert User.objects.get(pk=carol.pk).tier == Tier.FREE
    answer = press(admin_client, carol, "read_again").content.decode()
    assert "carol@shop.example: Read again from Stripe: on Pro, subscription trialing." in answer
    assert User.objects.get(pk=carol.pk).tier == Tier.PRO
    assert entries(carol) == [(operator, "Read again from Stripe: on Pro, subscription trialing.")]


def test_reading_while_stripe_is_away_is_told(
    admin_client: Client, shop: Shop, carol: User, settings: Settings
) -> None:
    shop.subscribe(carol)
    settings.STRIPE_API_BASE = "http://127.0.0.1:9"  # where nobody listens
    answer = press(admin_client, carol, "read_again")
    assert (answer.status_code, "Read again from Stripe: it failed." in answer.content.decode()) == (200, True)


# What is offered, and to whom. -------------------------------------------------------------------------------------
def test_without_a_key_nothing_is_offered_and_the_page_says_why(
    admin_client: Client, shop: Shop, carol: User, settings: Settings
) -> None:
    shop.subscribe(carol)
    settings.STRIPE_API_KEY = ""
    page = page_of(admin_client, carol)
    assert "STRIPE_API_KEY" in page
    assert not any(f'value="{name}"' in page for name in ("read_again", "cancel_at_period_end", "cancel_now"))
    answer = press(admin_client, carol, "cancel_now", confirm="yes")
    assert (answer.status_code, "Nothing is sold here" in answer.content.decode()) == (200, True)
    assert at_stripe(shop)["status"] == "trialing"


def test_who_was_never_at_the_checkout_has_no_buttons_of_stripes(admin_client: Client, shop: Shop, carol: User) -> None:
    page = page_of(admin_client, carol)
    assert "never been at the checkout" in page
    assert 'value="read_again"' not in page


@pytest.mark.parametrize("action", ["read_again", "cancel_at_period_end", "cancel_now", "change_tier"])
def test_who_may_only_look_sees_no_button_and_gets_403(shop: Shop, carol: User, action: str) -> None:
    shop.subscribe(carol)
    before = len(shop.stripe.log)
    client = looker("view_customer")
    page = page_of(client, carol)
    assert ("Subscription" in page, f'value="{action}"' in page) == (True, False)
    assert press(client, carol, action, confirm="yes", tier="enterprise").status_code == 403
    assert (len(shop.stripe.log), entries(carol)) == (before, [])
    assert User.objects.get(pk=carol.pk).tier == Tier.PRO


def test_the_list_offers_nothing_that_asks_stripe_of_many(admin_client: Client, shop: Shop, carol: User) -> None:
    listed = admin_client.get(CUSTOMERS).content.decode()
    assert 'value="change_tier"' in listed
    assert not any(f'value="{name}"' in listed for name in ("read_again", "cancel_at_period_end", "cancel_now"))


# What the page shows. ----------------------------------------------------------------------------------------------
def test_the_page_tells_the_subscription_and_leads_to_stripe(admin_client: Client, shop: Shop, carol: User) -> None:
    subscription = shop.subscribe(carol)
    page = page_of(admin_client, carol)
    customer = shop.customer(carol)
    assert f'href="https://dashboard.stripe.com/test/customers/{customer}"' in page
    assert f'href="https://dashboard.stripe.com/test/subscriptions/{subscription.stripe_id}"' in page
    assert f'href="https://dashboard.stripe.com/test/invoices?customer={customer}"' in page
    assert '<span class="blox-status blox-good">trialing</span>' in page
    assert "blox_pro_monthly" in page and f"{subscription.trial_ends_at:%Y-%m-%d %H:%M}" in page


def test_a_live_keys_links_are_not_those_of_test_data(
    admin_client: Client, shop: Shop, carol: User, settings: Settings
) -> None:
    shop.subscribe(carol)
    settings.STRIPE_API_KEY = "rk_live_1"
    assert f'href="https://dashboard.stripe.com/customers/{shop.customer(carol)}"' in page_of(admin_client, carol)


def test_the_page_has_this_customers_events_mails_and_overage_and_no_others(
    admin_client: Client, shop: Shop, carol: User, bob: User
) -> None:
    shop.subscribe(carol)
    now = timezone.now()
    for user, value in ((carol, 1_234), (bob, 9_876)):
        OverageReport.objects.create(
            user=user, period_start=now, sequence=1, value=value, identifier=f"of-{user.pk}", used_at=now
        )
    page = page_of(admin_client, carol)
    events = StripeEvent.objects.filter(customer=shop.customer(carol))
    assert events.count() > 1
    assert all(f"/admin/billing/stripeevent/{event.pk}/change/" in page for event in events[:10])
    mail = BillingMail.objects.get(user=carol)
    assert f'/admin/billing/billingmail/{mail.pk}/change/">trial_started</a>' in page
    assert ("1,234" in page, "9,876" in page) == (True, False)
    others = page_of(admin_client, bob)
    assert ("/admin/billing/stripeevent/evt" in others, "9,876" in others) == (False, True)


def test_the_page_plots_the_runs_of_the_last_thirty_days(admin_client: Client, alice: User) -> None:
    flow = make_flow(alice)
    now = timezone.now()
    for _ in range(3):
        make_execution(flow, started_at=now)
    page = page_of(admin_client, alice)
    assert f'aria-label="3 runs in the last 30 days, most on {now:%Y-%m-%d}: 3."' in page
    assert page.count('class="blox-plot-bar"') == 30
    assert f"<title>{now:%Y-%m-%d}: 3 runs</title>" in page
    assert "3 of 100,000" in page


def test_the_page_of_who_has_run_nothing_says_so(admin_client: Client, alice: User) -> None:
    assert "No runs in the last 30 days." in page_of(admin_client, alice)


def test_the_page_takes_no_query_for_a_row(
    admin_client: Client, shop: Shop, carol: User, django_assert_max_num_queries: Any
) -> None:
    shop.subscribe(carol)
    shop.stripe.advance(days=100)
    assert Subscription.objects.get().status == "active"
    with django_assert_max_num_queries(40):
        page_of(admin_client, carol)
