"""What becomes of the tier, the mails and the running flows as a subscription goes its way."""

from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any

import pytest
from django.core import mail as outbox
from django.core.management import call_command
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from accounts.models import Tier, User
from accounts.services import set_tier
from billing import notices, overrides, subscription_mails
from billing.models import (
    BillingMail,
    DeletedRuns,
    FlowCapReview,
    StripeCustomer,
    StripeEvent,
    Subscription,
    SubscriptionPeriod,
)
from billing.money import amount_text
from billing.periods import Period, period_of
from billing.stripe import services
from billing.stripe.client import client
from billing.stripe.prices import tier_of_price
from bloxserver.core.errors import Conflict
from bloxserver.core.outbox import claim
from executions import flow_caps, history, tasks
from executions.usage.counting import runs_of
from flows.models import Flow, FlowStatus
from tests.billing.limits import give
from tests.billing.shop import Shop
from tests.conftest import api_as
from tests.executions.factories import make_execution, make_flow

pytestmark = pytest.mark.django_db


def mails(user: User) -> list[str]:
    return list(BillingMail.objects.filter(user=user).order_by("created_at", "id").values_list("kind", flat=True))


def mail(user: User, kind: str) -> dict[str, Any]:
    context: dict[str, Any] = BillingMail.objects.get(user=user, kind=kind).context
    return context


def tier_of(user: User) -> str:
    return User.objects.get(pk=user.pk).tier


# The good way. ---------------------------------------------------------------------------------------------------
def test_a_trial_is_announced_and_converts_with_its_first_payment(shop: Shop, carol: User) -> None:
    subscription = shop.subscribe(carol)
    assert mails(carol) == ["trial_started"]
    assert mail(carol, "trial_started") == {"tier": "pro", "trial_ends_at": text(subscription.trial_ends_at)}

    shop.stripe.advance(days=12)
    assert mails(carol) == ["trial_started", "trial_ending"]

    shop.stripe.advance(days=3)
    assert mails(carol) == ["trial_started", "trial_ending", "converted"]
    paid = mail(carol, "converted")
    assert (paid["amount"], paid["currency"], paid["tier"]) == ("29.00", "USD", "pro")

    shop.stripe.advance(days=31)
    assert mails(carol)[3:] == ["payment_succeeded"]
    assert (tier_of(carol), Subscription.objects.get().status) == ("pro", "active")


def text(moment: datetime | None) -> str:
    assert moment is not None
    return moment.isoformat()


def test_every_period_is_remembered_without_a_gap(shop: Shop, carol: User) -> None:
    shop.subscribe(carol)
    shop.stripe.advance(days=80)
    periods = list(SubscriptionPeriod.objects.filter(user=carol).order_by("starts_at"))
    assert [period.trial for period in periods] == [True, False, False, False]
    assert [period.ends_at for period in periods[:-1]] == [period.starts_at for period in periods[1:]]


def test_usage_goes_by_the_subscriptions_period(shop: Shop, carol: User) -> None:
    shop.subscribe(carol)
    carol.refresh_from_db()
    period = SubscriptionPeriod.objects.get()
    assert period_of(user=carol, now=shop.now) == Period(period.starts_at, period.ends_at)
    # What is around it is the calendar month's, without it.
    after, before = (
        period_of(user=carol, now=now) for now in (period.ends_at, period.starts_at - timedelta(seconds=1))
    )
    assert (after.starts_at, before.ends_at) == (period.ends_at, period.starts_at)
    assert (after.ends_at.day, before.starts_at.day, before.starts_at.hour) == (1, 1, 0)


def test_no_overage_is_estimated_for_what_is_used_in_a_trial(shop: Shop, carol: User) -> None:
    shop.subscribe(carol)
    DeletedRuns.objects.create(user=carol, starts_at=shop.now, runs=103_000)
    period = SubscriptionPeriod.objects.filter(user=carol)
    shown = []
    for trial in (True, False):
        period.update(trial=trial)
        usage = api_as(carol).get("/api/v1/usage").json()
        [current, *_] = api_as(carol).get("/api/v1/usage/history").json()["items"]
        shown.append((usage["runsUsed"], usage["estimatedOverage"], current["estimatedOverage"]))
    assert shown == [(103_000, 0, 0), (103_000, 1.5, 1.5)]


def test_an_operators_pro_counts_by_the_calendar_month_for_one_query(
    carol: User, django_assert_num_queries: Any
) -> None:
    noon = datetime(2026, 3, 5, 12, tzinfo=UTC)
    month = Period(datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC))
    with django_assert_num_queries(0):
        assert period_of(user=carol, now=noon) == month
    set_tier(user=carol, tier=Tier.PRO)
    with django_assert_num_queries(1):
        assert period_of(user=carol, now=noon) == month


def test_runs_stay_in_their_period_when_their_executions_are_deleted(carol: User) -> None:
    cut = datetime(2026, 3, 1, 13, 30, tzinfo=UTC)
    before, after = Period(cut - timedelta(days=30), cut), Period(cut, cut + timedelta(days=30))
    for period in (before, after):
        SubscriptionPeriod.objects.create(user=carol, starts_at=period.starts_at, ends_at=period.ends_at, tier=Tier.PRO)
    flow = make_flow(carol)
    for minutes in (-61, -1, 0, 1, 600):
        make_execution(flow, started_at=cut + timedelta(minutes=minutes))
    assert (runs_of(carol, before), runs_of(carol, after)) == (2, 3)

    assert history.delete_some_of_flow(flow) is False

    assert (runs_of(carol, before), runs_of(carol, after)) == (2, 3)
    assert DeletedRuns.objects.filter(user=carol).count() == 2


def test_an_upgrade_counts_at_once_and_a_downgrade_at_the_periods_end(shop: Shop, carol: User) -> None:
    enterprise = shop.sell("enterprise")
    subscription = shop.subscribe(carol).stripe_id
    shop.stripe.advance(days=20)
    items = client().v1.subscription_items.list({"subscription": subscription}).data
    monthly = next(item for item in items if item.price.lookup_key == "blox_pro_monthly")
    client().v1.subscriptions.update(subscription, {"items": [{"id": monthly.id, "price": enterprise}]})
    shop.stripe.flush()
    assert tier_of(carol) == "enterprise"

    schedule = client().v1.subscription_schedules.create({"from_subscription": subscription})
    paid = schedule.phases[0].to_dict()
    overage = next(item.price.id for item in items if item.id != monthly.id)
    phases: Any = [
        {**{name: paid[name] for name in ("start_date", "end_date")}, "items": with_overage(enterprise, overage)},
        {"items": with_overage(monthly.price.id, overage), "duration": {"interval": "month", "interval_count": 1}},
    ]
    client().v1.subscription_schedules.update(schedule.id, {"phases": phases})
    services.sync_customer(user=carol, now=shop.now)
    assert (Subscription.objects.get().pending_tier, tier_of(carol)) == ("pro", "enterprise")

    shop.stripe.advance(days=31)
    assert (Subscription.objects.get().pending_tier, tier_of(carol)) == ("", "pro")
    tasks.review_flow_caps()
    assert mail(carol, "downgraded")["from_tier"] == "enterprise"


def with_overage(price: str, overage: str) -> list[dict[str, Any]]:
    return [{"price": price, "quantity": 1}, {"price": overage}]


# Failed payments. ------------------------------------------------------------------------------------------------
def test_a_failed_payment_is_mailed_softly_then_with_a_warning_and_the_third_takes_the_tier(
    shop: Shop, carol: User
) -> None:
    shop.stripe.configure(after_retries="past_due")
    shop.subscribe(carol)
    shop.stripe.advance(days=15)
    shop.stripe.card_declines(shop.customer(carol))
    BillingMail.objects.all().delete()

    seen = []
    for _ in range(60):
        shop.stripe.advance(days=1)
        tasks.review_flow_caps()
        seen.append((tuple(mails(carol)), tier_of(carol)))

    soft, warning, down = "payment_failed_soft", "payment_failed_warning", "downgraded"
    assert list(dict.fromkeys(seen))[:4] == [
        ((), "pro"),
        ((soft,), "pro"),
        ((soft, warning), "pro"),
        ((soft, warning, down), "free"),
    ]
    subscription = Subscription.objects.get()
    assert (subscription.status, subscription.failed_payments >= 3) == ("past_due", True)
    attempt = mail(carol, soft)
    assert (attempt["attempt"], attempt["amount"]) == (1, "29.00")


def past_due(shop: Shop, user: User) -> None:
    shop.stripe.configure(after_retries="past_due")
    shop.subscribe(user)
    shop.stripe.advance(days=15)
    shop.stripe.card_declines(shop.customer(user))
    for _ in range(60):
        shop.stripe.advance(days=1)
        if tier_of(user) == "free":
            return
    raise AssertionError("it never came to the third failure")


def test_who_is_left_past_due_stays_on_free_over_the_periods_that_follow(shop: Shop, carol: User) -> None:
    past_due(shop, carol)
    seen = set()
    for _ in range(100):
        shop.stripe.advance(days=1)
        seen.add(tier_of(carol))
    assert Subscription.objects.get().status == "past_due"
    assert seen == {"free"}


def test_a_first_failure_that_is_heard_of_after_the_third_is_not_mailed(shop: Shop, carol: User) -> None:
    past_due(shop, carol)
    BillingMail.objects.all().delete()
    first = StripeEvent.objects.filter(type="invoice.payment_failed").earliest("created")
    services.replay_event(first.pk, now=shop.now)
    assert mails(carol) == []


def test_a_later_payment_brings_the_tier_back(shop: Shop, carol: User) -> None:
    past_due(shop, carol)
    assert Subscription.objects.get().status == "past_due"
    assert period_of(user=User.objects.get(pk=carol.pk), now=shop.now).starts_at.day == 1  # free: by the month

    shop.stripe.card_works(shop.customer(carol))
    for invoice in shop.stripe.objects("invoice"):
        if invoice["status"] == "open":
            client().v1.invoices.pay(invoice["id"])
    shop.stripe.flush()

    assert tier_of(carol) == "pro"
    again = Subscription.objects.get()
    assert (again.status, again.failed_payments) == ("active", 0)


# Ends. -----------------------------------------------------------------------------------------------------------
def test_a_cancelled_subscription_lasts_until_its_period_ends(shop: Shop, carol: User) -> None:
    shop.subscribe(carol)
    shop.stripe.advance(days=20)
    services.cancel_subscription(user=carol, now=timezone.now())
    shop.stripe.flush()
    subscription = Subscription.objects.get()
    assert (subscription.status, subscription.pending_tier, tier_of(carol)) == ("active", "free", "pro")
    assert subscription.cancel_at == subscription.period_end
    assert mails(carol)[-1] == "canceled"
    assert mail(carol, "canceled")["ends_at"] == text(subscription.period_end)

    shop.stripe.advance(days=31)
    tasks.review_flow_caps()
    subscription.refresh_from_db()
    assert (subscription.status, tier_of(carol)) == ("canceled", "free")
    assert mails(carol)[-1] == "back_to_free"
    assert BillingMail.objects.get(kind="back_to_free").due_at is not None


def test_an_operator_ends_a_subscription_at_once(shop: Shop, carol: User) -> None:
    shop.subscribe(carol)
    shop.stripe.advance(days=20)
    services.cancel_subscription(user=carol, at_period_end=False, now=shop.now)
    assert (Subscription.objects.get().status, tier_of(carol)) == ("canceled", "free")
    assert SubscriptionPeriod.objects.latest("starts_at").ends_at == shop.now
    with pytest.raises(Conflict):
        services.cancel_subscription(user=carol, now=shop.now)


def test_what_an_operator_has_set_outlives_the_subscription_that_brought_less(shop: Shop, carol: User) -> None:
    shop.subscribe(carol)
    set_tier(user=carol, tier=Tier.ENTERPRISE)
    shop.stripe.advance(days=20)
    services.cancel_subscription(user=carol, at_period_end=False, now=shop.now)
    shop.stripe.flush()
    assert tier_of(carol) == "enterprise"


@pytest.mark.parametrize("by", ["button", "clock"])
def test_who_is_below_what_they_pay_for_is_raised_at_the_next_read(
    by: str, shop: Shop, carol: User, admin_client: Client
) -> None:
    shop.subscribe(carol)
    User.objects.filter(pk=carol.pk).update(tier=Tier.FREE)  # by whatever mishap
    if by == "button":
        body = {"action": "read_again", "_selected_action": str(carol.pk), "_from_page": "1"}
        admin_client.post(reverse("admin:billing_customer_changelist"), body)
    else:
        StripeCustomer.objects.update(resync_due_at=timezone.now())  # a day has passed
        services.work()
    assert tier_of(carol) == "pro"


def test_a_higher_tier_of_an_operators_stays_when_it_is_read_again(shop: Shop, carol: User) -> None:
    shop.subscribe(carol)
    set_tier(user=carol, tier=Tier.ENTERPRISE)
    services.sync_customer(user=carol, now=shop.now)
    assert tier_of(carol) == "enterprise"


def test_a_tier_that_an_operator_gave_and_the_user_then_bought_ends_with_the_subscription(
    shop: Shop, carol: User
) -> None:
    set_tier(user=carol, tier=Tier.PRO)
    shop.subscribe(carol)
    services.cancel_subscription(user=carol, at_period_end=False, now=shop.now)
    assert tier_of(carol) == "free"


def test_a_price_that_gave_its_lookup_key_to_a_new_one_still_brings_the_tier() -> None:
    assert tier_of_price({"lookup_key": None, "metadata": {"blox_tier": "pro"}}) == "pro"
    assert tier_of_price({"lookup_key": "blox_pro_overage", "metadata": {}}) is None
    assert tier_of_price({"lookup_key": None, "metadata": {"blox_tier": "free"}}) is None


def pro_price(**more: Any) -> str:
    """Another monthly one, as an operator would make it in the dashboard."""
    price = {"product": "blox_pro", "currency": "usd", "unit_amount": 3_900, "recurring": {"interval": "month"}}
    params: Any = {**price, **more}
    return client().v1.prices.create(params).id


def move_to(price: str, subscription: str) -> None:
    items = client().v1.subscription_items.list({"subscription": subscription}).data
    monthly = next(item for item in items if item.price.recurring and item.price.recurring.usage_type == "licensed")
    client().v1.subscriptions.update(subscription, {"items": [{"id": monthly.id, "price": price}]})


def test_who_is_on_a_price_that_gave_its_lookup_key_to_a_new_one_keeps_the_tier(shop: Shop, carol: User) -> None:
    subscription = shop.subscribe(carol)
    pro_price(lookup_key="blox_pro_monthly", transfer_lookup_key=True)
    services.sync_customer(user=carol, now=shop.now)
    subscription.refresh_from_db()
    assert (subscription.price_lookup_key, subscription.price_unknown, subscription.tier) == ("", False, "pro")
    assert tier_of(carol) == "pro"


def test_a_price_of_no_known_tier_brings_the_tier_that_the_subscription_brought_last(
    shop: Shop, carol: User, admin_client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    subscription = shop.subscribe(carol)
    price = pro_price()
    move_to(price, subscription.stripe_id)
    shop.stripe.flush()
    assert (tier_of(carol), Subscription.objects.get().price_unknown) == ("pro", True)
    assert f"{subscription.stripe_id} has a price of no known tier" in caplog.text
    page = reverse("admin:billing_customer_change", args=[carol.pk])
    assert "Its price is not known to bring a tier" in admin_client.get(page).content.decode()

    shop.stripe.advance(days=50)
    assert tier_of(carol) == "pro"
    assert SubscriptionPeriod.objects.latest("starts_at").tier == "pro"

    client().v1.prices.update(price, {"metadata": {"blox_tier": "enterprise"}})
    services.sync_customer(user=carol, now=shop.now)
    assert (tier_of(carol), Subscription.objects.get().price_unknown) == ("enterprise", False)
    assert "Its price is not known" not in admin_client.get(page).content.decode()


def test_a_first_price_of_no_known_tier_brings_nothing_and_is_shown(
    shop: Shop, carol: User, admin_client: Client
) -> None:
    shop.checkout(api_as(carol))
    by_hand: Any = {"customer": shop.customer(carol), "items": [{"price": pro_price()}], "trial_period_days": 5}
    client().v1.subscriptions.create(by_hand)
    shop.stripe.flush()
    assert (tier_of(carol), Subscription.objects.get().price_unknown) == ("free", True)
    page = admin_client.get(reverse("admin:billing_customer_change", args=[carol.pk])).content.decode()
    assert "Its price is not known to bring a tier" in page


def test_a_price_of_no_known_tier_that_is_to_follow_changes_nothing(shop: Shop, carol: User) -> None:
    subscription = shop.subscribe(carol).stripe_id
    schedule = client().v1.subscription_schedules.create({"from_subscription": subscription})
    paid = schedule.phases[0].to_dict()
    items = [{key: item[key] for key in ("price", "quantity") if key in item} for item in paid["items"]]
    phases: Any = [
        {**{name: paid[name] for name in ("start_date", "end_date", "trial_end")}, "items": items},
        {"items": [{"price": pro_price()}], "duration": {"interval": "month", "interval_count": 1}},
    ]
    client().v1.subscription_schedules.update(schedule.id, {"phases": phases})
    services.sync_customer(user=carol, now=shop.now)
    assert Subscription.objects.get().pending_tier == ""


def test_several_subscriptions_that_are_paid_for_are_shown_to_operators(
    shop: Shop, carol: User, admin_client: Client
) -> None:
    shop.subscribe(carol)
    page = reverse("admin:billing_customer_change", args=[carol.pk])
    assert "at the same time" not in admin_client.get(page).content.decode()
    twice: Any = {
        "customer": shop.customer(carol),
        "items": [{"price": shop.sell("enterprise")}],
        "trial_period_days": 5,
    }
    client().v1.subscriptions.create(twice)
    shop.stripe.flush()
    shown = admin_client.get(page).content.decode()
    assert "2 subscriptions are paid for at the same time." in shown
    assert all(subscription["id"] in shown for subscription in shop.stripe.objects("subscription"))
    assert tier_of(carol) == "enterprise"


# Running flows. --------------------------------------------------------------------------------------------------
def running(user: User, *names: str) -> list[Flow]:
    """Flows that ran last in this order."""
    flows = []
    for days, name in enumerate(names):
        flow = make_flow(user, name=name)
        make_execution(flow, started_at=datetime(2026, 3, 1 + days, tzinfo=UTC))
        flows.append(flow)
    return flows


def statuses(user: User) -> dict[str, str]:
    return dict(Flow.objects.filter(user=user).values_list("name", "status"))


def test_after_a_downgrade_the_flows_that_ran_longest_ago_stop_and_the_mail_names_them(shop: Shop, carol: User) -> None:
    shop.subscribe(carol)
    running(carol, "oldest", "older", "latest")
    make_flow(carol, name="idle", running=False)
    services.cancel_subscription(user=carol, at_period_end=False, now=shop.now)
    told = BillingMail.objects.get(kind="back_to_free")
    assert (told.due_at, told.context["stopped_flows"]) == (None, [])  # it waits for the names

    tasks.review_flow_caps()

    assert statuses(carol) == {"oldest": "stopped", "older": "stopped", "latest": "running", "idle": "stopped"}
    told.refresh_from_db()
    assert told.context["stopped_flows"] == ["oldest", "older"]
    assert told.due_at is not None
    review = FlowCapReview.objects.get()
    assert review.done_at is not None and review.due_at is None


def test_a_review_that_broke_off_names_what_it_had_stopped_before(shop: Shop, carol: User) -> None:
    shop.subscribe(carol)
    oldest, *_ = running(carol, "oldest", "older", "latest")
    services.cancel_subscription(user=carol, at_period_end=False, now=shop.now)
    # As a worker that died left it: the plan written, one flow of it stopped.
    FlowCapReview.objects.update(attempts=1, stopped=[{"id": str(oldest.pk), "name": "oldest"}])
    Flow.objects.filter(pk=oldest.pk).update(status=FlowStatus.STOPPED, container_id=None)

    tasks.review_flow_caps()

    assert BillingMail.objects.get(kind="back_to_free").context["stopped_flows"] == ["oldest", "older"]


def test_a_review_that_keeps_failing_does_not_hold_back_the_mail_for_ever(shop: Shop, carol: User) -> None:
    shop.subscribe(carol)
    running(carol, "one", "two")
    services.cancel_subscription(user=carol, at_period_end=False, now=shop.now)
    FlowCapReview.objects.update(stopped=[{}])  # what it cannot read
    told = BillingMail.objects.get(kind="back_to_free")
    for due in (False, False, True):
        FlowCapReview.objects.update(due_at=timezone.now())
        tasks.review_flow_caps()
        told.refresh_from_db()
        assert (told.due_at is not None) == due
    BillingMail.objects.update(due_at=None, sent_at=timezone.now())
    FlowCapReview.objects.update(due_at=timezone.now(), stopped=[])
    tasks.review_flow_caps()
    told.refresh_from_db()
    assert told.due_at is None  # it is not sent twice
    assert statuses(carol)["one"] == "stopped"


def told_without_names(shop: Shop, user: User) -> BillingMail:
    """The mail of a fall, due because the review has failed too often; the review can succeed from now on."""
    shop.subscribe(user)
    services.cancel_subscription(user=user, at_period_end=False, now=shop.now)
    FlowCapReview.objects.update(stopped=[{}])  # what it cannot read
    for _ in range(notices.NAMELESS_AFTER):
        FlowCapReview.objects.update(due_at=timezone.now())
        tasks.review_flow_caps()
    FlowCapReview.objects.update(due_at=timezone.now(), stopped=[])
    told = BillingMail.objects.get(kind="back_to_free")
    assert told.due_at is not None
    return told


@pytest.mark.parametrize("so_far", ["sent", "under way"])
def test_where_the_mail_went_out_without_names_another_names_the_flows_that_are_stopped_later(
    so_far: str, shop: Shop, carol: User
) -> None:
    running(carol, "one", "two")
    told = told_without_names(shop, carol)
    if so_far == "sent":
        subscription_mails.send_due_mails()
        outbox.outbox.clear()
    else:
        claim(BillingMail.objects.filter(pk=told.pk), now=timezone.now(), most=1)
    before = BillingMail.objects.filter(pk=told.pk).values().get()

    tasks.review_flow_caps()

    assert statuses(carol) == {"one": "stopped", "two": "running"}
    assert BillingMail.objects.filter(pk=told.pk).values().get() == before
    subscription_mails.send_due_mails()
    [said] = [message for message in outbox.outbox if message.subject == "Your account is on the Free tier now"]
    assert "\n- one\n" in str(said.body)


def test_a_mail_that_is_under_way_without_names_is_all_where_no_flow_is_stopped(shop: Shop, carol: User) -> None:
    told = told_without_names(shop, carol)
    claim(BillingMail.objects.filter(pk=told.pk), now=timezone.now(), most=1)
    before = list(BillingMail.objects.values())
    tasks.review_flow_caps()
    assert FlowCapReview.objects.get().done_at is not None
    assert list(BillingMail.objects.values()) == before


def test_the_mail_that_has_had_no_attempt_yet_gets_the_names(shop: Shop, carol: User) -> None:
    running(carol, "one", "two")
    told_without_names(shop, carol)
    tasks.review_flow_caps()
    assert mail(carol, "back_to_free")["stopped_flows"] == ["one"]
    assert "downgraded" not in mails(carol)


def look_shortly() -> None:
    """One attempt, whose time is over at once."""
    flow_caps.review_flow_caps(now=timezone.now(), seconds=0)


def test_a_review_whose_time_is_over_goes_on_at_the_next_look(shop: Shop, carol: User) -> None:
    shop.subscribe(carol)
    running(carol, "one", "two", "three", "four")
    services.cancel_subscription(user=carol, at_period_end=False, now=shop.now)
    told = BillingMail.objects.get(kind="back_to_free")
    for stopped in (1, 2, 3):
        assert told.due_at is None
        look_shortly()
        assert Flow.objects.filter(status=FlowStatus.STOPPED).count() == stopped
        told.refresh_from_db()
    assert told.due_at is not None
    assert told.context["stopped_flows"] == ["one", "two", "three"]


def test_an_attempt_whose_time_is_over_has_not_failed(shop: Shop, carol: User) -> None:
    shop.subscribe(carol)
    running(carol, "one", "two", "three", "four", "five")
    services.cancel_subscription(user=carol, at_period_end=False, now=shop.now)
    for _ in range(notices.NAMELESS_AFTER):
        look_shortly()
    FlowCapReview.objects.update(stopped=[{}])  # what it cannot read
    tasks.review_flow_caps()
    assert FlowCapReview.objects.get().error
    assert BillingMail.objects.get(kind="back_to_free").due_at is None


def test_what_a_review_has_written_down_is_stopped_also_where_it_has_run_since(carol: User) -> None:
    set_tier(user=carol, tier=Tier.PRO)
    _, two, *_ = running(carol, "one", "two", "three", "four")
    set_tier(user=carol, tier=Tier.FREE)
    look_shortly()
    make_execution(two, started_at=timezone.now())
    tasks.review_flow_caps()
    assert statuses(carol) == {"one": "stopped", "two": "stopped", "three": "stopped", "four": "running"}
    assert mail(carol, "downgraded")["stopped_flows"] == ["one", "two", "three"]


def test_a_review_reads_no_yaml_to_find_what_is_over_the_cap(carol: User) -> None:
    set_tier(user=carol, tier=Tier.PRO)
    running(carol, "one", "two")
    set_tier(user=carol, tier=Tier.FREE)
    with CaptureQueriesContext(connection) as captured:
        tasks.review_flow_caps()
    [found] = [query["sql"] for query in captured if "last_run" in query["sql"]]
    assert "organism_yaml" not in found and "canvas_state" not in found


def test_who_is_back_on_the_tier_before_the_review_keeps_all_flows(carol: User) -> None:
    set_tier(user=carol, tier=Tier.PRO)
    running(carol, "one", "two")
    set_tier(user=carol, tier=Tier.FREE)
    set_tier(user=carol, tier=Tier.PRO)
    tasks.review_flow_caps()
    assert statuses(carol) == {"one": "running", "two": "running"}


@pytest.mark.parametrize("by", ["command", "action", "form"])
def test_a_downgrade_by_an_operator_is_reviewed_too(by: str, carol: User, admin_client: Client) -> None:
    set_tier(user=carol, tier=Tier.PRO)
    running(carol, "one", "two")
    if by == "command":
        call_command("set_tier", carol.email, "free", stdout=StringIO())
    elif by == "action":
        where = reverse("admin:accounts_user_changelist")
        admin_client.post(where, {"action": "set_tier", "tier": "free", "_selected_action": [str(carol.pk)]})
    else:
        where = reverse("admin:accounts_user_change", args=[carol.pk])
        fields = {"email": carol.email, "name": "Carol", "tier": "free", "is_active": "on", "_save": "Save"}
        tokens = {f"access_tokens-{name}_FORMS": "0" for name in ("TOTAL", "INITIAL")}
        assert admin_client.post(where, {**fields, **tokens}).status_code == 302

    tasks.review_flow_caps()

    assert statuses(carol) == {"one": "stopped", "two": "running"}
    assert mail(carol, "downgraded") == {"tier": "free", "stopped_flows": ["one"]}


def test_a_rise_stops_nothing(carol: User) -> None:
    set_tier(user=carol, tier=Tier.PRO)
    assert not FlowCapReview.objects.exists()


def review_later() -> None:
    """The clock now, and once more when every process knows of a change of limits."""
    tasks.review_flow_caps()
    flow_caps.review_flow_caps(now=timezone.now() + timedelta(seconds=15))


@pytest.mark.parametrize("how", ["lowered", "removed", "expired"])
def test_flows_over_a_limit_of_the_users_own_that_is_no_more_are_stopped(
    how: str, carol: User, admin_client: Client, django_capture_on_commit_callbacks: Any
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        override = give(carol, "flows", 3, expires_at=timezone.now() + timedelta(days=1))
    running(carol, "one", "two", "three")
    tasks.review_flow_caps()
    assert set(statuses(carol).values()) == {"running"}

    with django_capture_on_commit_callbacks(execute=True):
        if how == "expired":
            type(override).objects.update(expires_at=timezone.now())
            overrides.forget()
        else:
            row = {"id": override.pk, "limit": "flows", "value": 1, "reason": "over", "user": carol.pk}
            row |= {"DELETE": "on"} if how == "removed" else {}
            forms = {"limit_overrides-TOTAL_FORMS": 1, "limit_overrides-INITIAL_FORMS": 1}
            body = {f"limit_overrides-0-{name}": value for name, value in row.items()}
            where = reverse("admin:billing_customer_change", args=[carol.pk])
            assert admin_client.post(where, {**body, **forms}).status_code == 302
    review_later()

    assert statuses(carol) == {"one": "stopped", "two": "stopped", "three": "running"}
    assert mail(carol, "downgraded") == {"tier": "free", "stopped_flows": ["one", "two"], "own_limit": True}
    assert FlowCapReview.objects.count() == 1


def test_a_limit_of_the_users_own_that_stops_no_flow_is_not_mailed(
    carol: User, django_capture_on_commit_callbacks: Any
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        give(carol, "flows", 3, expires_at=timezone.now())
    running(carol, "one")
    review_later()
    assert (statuses(carol), mails(carol)) == ({"one": "running"}, [])
    assert FlowCapReview.objects.get().done_at is not None


def test_flows_over_the_cap_cannot_be_started_again(carol: User) -> None:
    set_tier(user=carol, tier=Tier.PRO)
    one, two = running(carol, "one", "two")
    set_tier(user=carol, tier=Tier.FREE)
    tasks.review_flow_caps()

    refused = api_as(carol).post(f"/api/v1/flows/{one.pk}/start")

    assert (refused.status_code, refused.json()["code"]) == (402, "flow_limit_reached")
    assert api_as(carol).post(f"/api/v1/flows/{two.pk}/start").status_code == 200  # it runs: that deploys it anew
    assert api_as(carol).post(f"/api/v1/flows/{two.pk}/stop").status_code == 200
    assert api_as(carol).post(f"/api/v1/flows/{one.pk}/start").status_code == 200


def test_a_start_over_the_users_own_cap_says_whose_it_is(carol: User, django_capture_on_commit_callbacks: Any) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        give(carol, "flows", 2)
    running(carol, "one", "two")
    refused = api_as(carol).post(f"/api/v1/flows/{make_flow(carol, name='three').pk}/start")
    assert refused.status_code == 402
    assert refused.json()["message"].startswith("Your limit is 2 flows")


# Money. ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("amount", "currency", "shown"),
    [
        (2900, "usd", "29.00"),
        (5, "usd", "0.05"),
        (0, "eur", "0.00"),
        (-150, "usd", "-1.50"),
        (2900, "jpy", "2900"),
        (2900, "JPY", "2900"),
        (10**12, "krw", "1000000000000"),
        *((2900, currency, "2900") for currency in "bif clp djf gnf kmf krw mga pyg rwf vnd vuv xaf xof xpf".split()),
        *((29_000, currency, "29.000") for currency in "bhd jod kwd omr tnd".split()),
        *((50_000, currency, "500.00") for currency in "isk ugx huf twd".split()),  # Stripe's special cases
    ],
)
def test_amounts_are_shown_in_their_currency(amount: int, currency: str, shown: str) -> None:
    assert amount_text(amount, currency) == shown


def test_a_mail_about_yen_has_no_hundredths(shop: Shop, carol: User) -> None:
    shop.sell("enterprise", 4_400, currency="jpy")
    shop.stripe.complete_checkout(shop.checkout(api_as(carol), tier="enterprise"))
    shop.stripe.advance(days=15)
    paid = mail(carol, "converted")
    assert (paid["amount"], paid["currency"]) == ("4400", "JPY")
    assert StripeCustomer.objects.get().synced_at is not None
