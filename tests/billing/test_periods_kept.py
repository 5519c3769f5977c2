"""The periods of subscriptions, as Stripe tells of them: whose they are, where they meet, what stays included, and when they
are counted for the last time."""

from datetime import UTC, datetime, timedelta

import pytest
from django.utils import timezone
from pytest_django import Settings

from accounts.models import Tier, User
from accounts.services import set_tier
from billing import notices
from billing.models import BillingMail, DeletedRuns, FlowCapReview, SubscriptionPeriod
from billing.periods import Period, calendar_month, period_of
from billing.stripe import services
from billing.stripe.client import client
from executions import flow_caps, history, overage, tasks
from executions.dispatch import Job
from executions.usage.counting import runs_of
from flows.models import Flow, FlowStatus
from tests.billing.limits import all_at_once, give
from tests.billing.shop import Shop, opened
from tests.billing.test_overage import LIMIT, report, subscribed, told, use
from tests.billing.test_stripe_attempts import rung
from tests.executions.factories import make_execution, make_flow
from tests.waiting import wait_until

pytestmark = pytest.mark.django_db

CUT = datetime(2026, 3, 1, 13, 30, tzinfo=UTC)
MONTH = timedelta(days=30)


def test_a_trial_that_is_ended_early_ends_where_what_is_paid_begins(shop: Shop, carol: User) -> None:
    subscription = shop.subscribe(carol)
    shop.stripe.advance(days=3)
    client().v1.subscriptions.update(subscription.stripe_id, {"trial_end": "now"})
    shop.stripe.flush()
    trial, paid = SubscriptionPeriod.objects.order_by("starts_at")
    assert (trial.trial, paid.trial) == (True, False)
    assert trial.ends_at == paid.starts_at == shop.now


@pytest.mark.django_db(transaction=True)
def test_what_was_included_when_it_was_used_stays_so_whenever_stripe_is_read(settings: Settings, carol: User) -> None:
    with opened(settings) as shop:
        override = give(carol, "runs_per_month", 5 * LIMIT)
        paying = subscribed(shop, carol)
        use(paying, 3 * LIMIT, shop.now)
        override.delete()
        services.sync_customer(user=paying, now=shop.now)
        report(shop)
        assert told(shop) == []
    assert SubscriptionPeriod.objects.latest("starts_at").included_runs == 5 * LIMIT


def test_what_is_committed_just_after_the_end_of_a_period_is_counted_in_it(shop: Shop, carol: User) -> None:
    paying = subscribed(shop, carol)
    use(paying, LIMIT + 10, shop.now)
    report(shop)
    period = SubscriptionPeriod.objects.latest("starts_at")
    shop.stripe.advance_to(period.ends_at + timedelta(minutes=1))
    report(shop)
    use(paying, 7, period.ends_at - timedelta(seconds=1))  # accepted before, committed now
    shop.stripe.advance(seconds=120)
    report(shop)
    assert told(shop) == [10, 7]


def test_of_two_periods_that_overlap_the_later_is_that_of_now(carol: User) -> None:
    set_tier(user=carol, tier=Tier.PRO)
    for start in (CUT, CUT + timedelta(days=10)):
        SubscriptionPeriod.objects.create(user=carol, starts_at=start, ends_at=start + MONTH, tier=Tier.PRO)
    assert period_of(user=carol, now=CUT + timedelta(days=20)).starts_at == CUT + timedelta(days=10)


def test_nobodys_usage_goes_by_the_period_of_another(carol: User, bob: User) -> None:
    SubscriptionPeriod.objects.create(user=bob, starts_at=CUT, ends_at=CUT + MONTH, tier=Tier.PRO)
    set_tier(user=carol, tier=Tier.PRO)
    now = CUT + timedelta(days=1)
    assert period_of(user=carol, now=now) == calendar_month(now) != period_of(user=bob, now=now)


def test_a_run_that_is_deleted_counts_after_the_period_that_ended_that_day_before_it(carol: User) -> None:
    """Also where no other run of the day and no other period is there to tell."""
    ended = Period(CUT - MONTH, CUT)
    SubscriptionPeriod.objects.create(user=carol, starts_at=ended.starts_at, ends_at=CUT, tier=Tier.PRO)
    flow = make_flow(carol)
    make_execution(flow, started_at=CUT + timedelta(hours=2))
    assert history.delete_some_of_flow(flow) is False
    assert DeletedRuns.objects.get().starts_at == CUT
    assert (runs_of(carol, ended), runs_of(carol, Period(CUT, CUT + MONTH))) == (0, 1)


@pytest.mark.django_db(transaction=True)
def test_what_does_not_fit_into_the_time_of_one_look_is_rung_for(settings: Settings, carol: User) -> None:
    for start in (CUT, CUT + MONTH):
        SubscriptionPeriod.objects.create(
            user=carol, starts_at=start, ends_at=start + MONTH, tier=Tier.PRO, count_due_at=start
        )
        FlowCapReview.objects.create(user=carol, due_at=start)
    rung(settings.CELERY_TASK_DEFAULT_QUEUE)
    overage.report_overage(now=CUT + 3 * MONTH, seconds=0)
    flow_caps.review_flow_caps(now=CUT + 3 * MONTH, seconds=0)
    assert SubscriptionPeriod.objects.filter(count_due_at=None).count() == 1
    assert FlowCapReview.objects.filter(due_at=None).count() == 1
    jobs: set[str] = set()

    def have_come() -> bool:
        jobs.update(rung(settings.CELERY_TASK_DEFAULT_QUEUE))
        return {Job.OVERAGE, Job.REVIEW} <= jobs

    wait_until(have_come, seconds=10)


# After a fall of the tier. -----------------------------------------------------------------------------------------
def test_another_tier_that_holds_as_many_flows_is_no_downgrade(carol: User) -> None:
    set_tier(user=carol, tier=Tier.ENTERPRISE)
    set_tier(user=carol, tier=Tier.HIGH_FREQUENCY)
    set_tier(user=carol, tier=Tier.ENTERPRISE)
    assert not FlowCapReview.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_of_several_who_look_at_once_one_reviews(carol: User) -> None:
    set_tier(user=carol, tier=Tier.PRO)
    set_tier(user=carol, tier=Tier.FREE)
    now = FlowCapReview.objects.get().due_at
    assert now is not None
    claimed = all_at_once([lambda: notices.claim_review(now=now)] * 4, held_up="UPDATE")
    assert sum(review is not None for review in claimed) == 1


def test_a_review_that_keeps_failing_is_tried_again_every_six_hours(carol: User) -> None:
    now = datetime(2026, 3, 1, tzinfo=UTC)
    FlowCapReview.objects.create(user=carol, due_at=now)
    waits = []
    for attempts in (0, 1, 2, 10, 1_000):
        FlowCapReview.objects.update(attempts=attempts, due_at=now)
        review = notices.claim_review(now=now)
        assert review is not None and review.due_at is not None
        waits.append((review.due_at - now) // timedelta(minutes=1))
    assert waits == [1, 2, 4, 360, 360]


def test_flows_that_are_starting_count_and_those_that_never_ran_stop_first(carol: User) -> None:
    set_tier(user=carol, tier=Tier.PRO)
    for name in ("starting", "ran", "never ran"):
        flow = make_flow(carol, name=name)
        if name != "never ran":
            make_execution(flow)
    Flow.objects.filter(name="starting").update(status=FlowStatus.STARTING)
    make_execution(Flow.objects.get(name="ran"), started_at=CUT + MONTH)
    set_tier(user=carol, tier=Tier.FREE)
    tasks.review_flow_caps()
    assert [flow["name"] for flow in FlowCapReview.objects.get().stopped] == ["never ran", "starting"]
    assert dict(Flow.objects.values_list("name", "status")) == {
        "ran": "running",
        "never ran": "stopped",
        "starting": "stopped",
    }


def test_a_review_that_fails_after_its_mail_was_sent_sends_it_no_more_and_ends_when_it_can(
    shop: Shop, carol: User
) -> None:
    shop.subscribe(carol)
    services.cancel_subscription(user=carol, at_period_end=False, now=shop.now)

    def look(stopped: list[dict[str, str]]) -> FlowCapReview:
        FlowCapReview.objects.update(stopped=stopped, attempts=notices.NAMELESS_AFTER, due_at=timezone.now())
        tasks.review_flow_caps()
        return FlowCapReview.objects.get()

    assert look([{}]).error  # what it cannot read
    assert BillingMail.objects.filter(kind="back_to_free").update(due_at=None, sent_at=timezone.now()) == 1
    assert look([{}]).done_at is None
    assert look([]).done_at is not None
    assert BillingMail.objects.get(kind="back_to_free").due_at is None


def test_a_mail_that_was_given_up_is_not_tried_again_by_a_review_that_keeps_failing(shop: Shop, carol: User) -> None:
    shop.subscribe(carol)
    services.cancel_subscription(user=carol, at_period_end=False, now=shop.now)
    BillingMail.objects.filter(kind="back_to_free").update(due_at=None, attempts=6)
    FlowCapReview.objects.update(stopped=[{}], attempts=notices.NAMELESS_AFTER, due_at=timezone.now())
    tasks.review_flow_caps()
    assert FlowCapReview.objects.get().error
    assert BillingMail.objects.get(kind="back_to_free").due_at is None


def test_a_review_that_another_has_completed_does_not_send_the_mail_again(shop: Shop, carol: User) -> None:
    shop.subscribe(carol)
    services.cancel_subscription(user=carol, at_period_end=False, now=shop.now)
    now = timezone.now()
    FlowCapReview.objects.update(due_at=now)
    late = notices.claim_review(now=now)
    assert late is not None
    FlowCapReview.objects.update(due_at=now)  # its wait is over
    tasks.review_flow_caps()
    under_way = now + timedelta(minutes=1)
    BillingMail.objects.filter(kind="back_to_free").update(attempts=1, due_at=under_way)
    notices.complete_review(late, now=now)
    assert BillingMail.objects.get(kind="back_to_free").due_at == under_way
