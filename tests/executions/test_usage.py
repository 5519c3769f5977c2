"""`/usage`: what a month has used of what the tier allows, and what past months and days have."""

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone
from rest_framework.test import APIClient

from accounts.models import Tier, User
from billing.models import DeletedRuns, SubscriptionPeriod
from billing.months import month_of, month_resets_at, month_starts_at
from billing.periods import Period, period_of, periods_of
from billing.runs import run_usage
from executions import history, tasks
from executions.usage import counting
from executions.usage.plot import plot_of
from tests.billing.metering import call, settle_llm
from tests.executions.factories import make_execution, make_flow

pytestmark = pytest.mark.django_db


def month() -> datetime:
    return month_starts_at(month_of(timezone.now()))


def usage(api: APIClient) -> dict[str, Any]:
    answer = api.get("/api/v1/usage")
    assert answer.status_code == 200, answer.content
    shown: dict[str, Any] = answer.json()
    return shown


def test_the_month_counts_its_executions_whatever_became_of_them_and_nobody_elses(
    api: APIClient, alice: User, bob: User
) -> None:
    flow, others = make_flow(alice), make_flow(bob)
    for status in ("success", "error", "running"):
        make_execution(flow, status=status, started_at=month())
    make_execution(flow, started_at=month() - timedelta(microseconds=1))
    make_execution(others, started_at=month())

    shown = usage(api)

    assert (shown["runsUsed"], shown["runsLimit"], shown["runsPercentage"]) == (3, 100_000, 0.0)
    assert (shown["estimatedOverage"], shown["tokensUsed"], shown["byModel"], shown["byFlow"]) == (0, 0, [], [])
    ends = month_resets_at(month_of(timezone.now()))
    assert [shown[name] for name in ("periodStart", "periodEnd")] == [
        f"{at:%Y-%m-%dT%H:%M:%SZ}" for at in (month(), ends)
    ]
    assert shown["daysRemaining"] == (ends.date() - timezone.now().date()).days


def test_each_run_is_counted_at_its_acceptance(api: APIClient, alice: User) -> None:
    flow = make_flow(alice)
    assert api.post(f"/api/v1/flows/{flow.pk}/executions/run", {}).status_code == 201
    assert usage(api)["runsUsed"] == 1


def test_runs_go_on_counting_when_their_flow_is_deleted_history_and_all(api: APIClient, alice: User) -> None:
    flow, other = make_flow(alice), make_flow(alice, name="Other")
    for seconds in range(3):
        make_execution(flow, started_at=month() + timedelta(seconds=seconds))
    make_execution(flow, started_at=month() - timedelta(seconds=1))
    make_execution(other, started_at=month())

    assert api.delete(f"/api/v1/flows/{flow.pk}").status_code == 204
    assert usage(api)["runsUsed"] == 4
    tasks.prune_history()
    assert usage(api)["runsUsed"] == 4
    assert sorted(DeletedRuns.objects.values_list("starts_at", "runs")) == [
        (month() - timedelta(days=1), 1),
        (month(), 3),
    ]


def test_runs_that_outlive_their_tiers_days_go_on_counting(api: APIClient, alice: User) -> None:
    flow = make_flow(alice)
    later = month() + timedelta(days=31)
    for seconds in range(2):
        make_execution(flow, started_at=month() + timedelta(seconds=seconds))
    assert history.prune_history(now=later).executions == 2
    make_execution(flow, started_at=month())
    assert history.prune_history(now=later).executions == 1
    assert usage(api)["runsUsed"] == 3


def test_the_runs_over_the_cap_of_pro_are_estimated_at_50_cents_a_thousand(api: APIClient, alice: User) -> None:
    DeletedRuns.objects.create(user=alice, starts_at=month(), runs=100_250)
    shown = usage(api)
    assert (shown["runsUsed"], shown["runsPercentage"], shown["estimatedOverage"]) == (100_250, 100.25, 0.125)


@pytest.mark.parametrize(("tier", "limit"), [(Tier.ENTERPRISE, -1), (Tier.HIGH_FREQUENCY, -1), (Tier.FREE, 1_000)])
def test_where_runs_are_unlimited_the_limit_is_minus_1_and_its_share_0(
    api: APIClient, alice: User, tier: str, limit: int
) -> None:
    User.objects.filter(pk=alice.pk).update(tier=tier)
    DeletedRuns.objects.create(user=alice, starts_at=month(), runs=500)
    shown = usage(api)
    share = 50.0 if limit > 0 else 0.0
    assert [shown[name] for name in ("runsLimit", "runsPercentage", "estimatedOverage")] == [limit, share, 0]


def test_the_tokens_of_models_are_broken_down_by_model_and_by_flow(api: APIClient, alice: User) -> None:
    flow = make_flow(alice)
    settle_llm(call=call(alice, flow_id=flow.pk), now=timezone.now())
    settle_llm(call=call(alice, model="o3", own_key=True), now=timezone.now())
    settle_llm(call=call(alice), now=month() - timedelta(seconds=1))
    shown = usage(api)
    assert shown["tokensUsed"] == 2_000
    assert sorted((row["model"], row["ownKey"], row["tokensIn"]) for row in shown["byModel"]) == [
        ("gpt-5", False, 900),
        ("o3", True, 900),
    ]
    assert sorted((row["flowName"] or "", row["calls"]) for row in shown["byFlow"]) == [("", 1), ("Greeter", 1)]


@pytest.mark.parametrize(
    ("now", "days"),
    [
        (datetime(2026, 12, 1, tzinfo=UTC), 31),
        (datetime(2026, 12, 30, 0, 0, 1, tzinfo=UTC), 2),
        (datetime(2026, 12, 31, 23, 59, tzinfo=UTC), 1),
    ],
)
def test_the_day_that_is_under_way_remains(alice: User, now: datetime, days: int) -> None:
    period = period_of(user=alice, now=now)
    assert period == Period(datetime(2026, 12, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC))
    assert run_usage(user=alice, runs=0, period=period, now=now).days_remaining == days


# By period. ------------------------------------------------------------------------------------------------------
def joined(user: User, at: datetime) -> None:
    User.objects.filter(pk=user.pk).update(created_at=at)


def history_of(api: APIClient, query: str = "") -> dict[str, Any]:
    answer = api.get(f"/api/v1/usage/history{query}")
    assert answer.status_code == 200, answer.content
    shown: dict[str, Any] = answer.json()
    return shown


def test_the_history_goes_back_from_this_month_to_the_one_in_which_the_user_joined(api: APIClient, alice: User) -> None:
    joined(alice, month() - timedelta(days=40))
    flow = make_flow(alice)
    for at in (month(), month(), month() - timedelta(microseconds=1)):
        make_execution(flow, started_at=at)
    DeletedRuns.objects.create(user=alice, starts_at=month() - timedelta(days=1), runs=7)
    settle_llm(call=call(alice), now=month() - timedelta(seconds=1))
    settle_llm(call=call(alice, cost="0.25"), now=month())
    shown = history_of(api)
    before = month_starts_at(month_of(month() - timedelta(days=1)))
    assert [(row["periodStart"], row["periodEnd"], row["runsUsed"]) for row in shown["items"][:2]] == [
        (f"{month():%Y-%m-%dT%H:%M:%SZ}", f"{month_resets_at(month_of(month())):%Y-%m-%dT%H:%M:%SZ}", 2),
        (f"{before:%Y-%m-%dT%H:%M:%SZ}", f"{month():%Y-%m-%dT%H:%M:%SZ}", 8),
    ]
    assert [(row["tokensUsed"], row["cost"]) for row in shown["items"]] == [(1_000, 0.25), (1_000, 1.0), (0, 0.0)]
    assert (shown["total"], shown["hasMore"]) == (3, False)


def test_only_the_period_under_way_has_a_limit_and_an_overage(api: APIClient, alice: User) -> None:
    joined(alice, month() - timedelta(days=1))
    DeletedRuns.objects.create(user=alice, starts_at=month(), runs=100_250)
    DeletedRuns.objects.create(user=alice, starts_at=month() - timedelta(days=1), runs=100_250)
    rows = history_of(api)["items"]
    assert [[row[name] for name in ("runsLimit", "runsPercentage", "estimatedOverage")] for row in rows] == [
        [100_000, 100.25, 0.125],
        [None, None, None],
    ]


def test_a_page_of_the_history_costs_the_same_however_long_it_is(
    api: APIClient, alice: User, django_assert_max_num_queries: Any
) -> None:
    joined(alice, datetime(1990, 1, 15, tzinfo=UTC))
    DeletedRuns.objects.create(user=alice, starts_at=datetime(1990, 1, 31, tzinfo=UTC), runs=3)
    months = (timezone.now().year - 1990) * 12 + timezone.now().month
    with django_assert_max_num_queries(4):  # who asks, periods, runs, calls
        shown = history_of(api, f"?pageSize=100&page={months // 100 + 1}")
    assert (shown["total"], shown["items"][-1]["periodStart"]) == (months, "1990-01-01T00:00:00Z")
    assert [row["runsUsed"] for row in shown["items"][-2:]] == [0, 3]


def test_months_meet_without_a_gap(alice: User) -> None:
    until, since = datetime(2028, 3, 31, 23, 59, tzinfo=UTC), datetime(2027, 11, 1, tzinfo=UTC)
    periods = list(periods_of(user=alice, until=until, since=since))
    assert [f"{period.starts_at:%Y-%m}" for period in periods] == [
        "2028-03",
        "2028-02",
        "2028-01",
        "2027-12",
        "2027-11",
    ]
    assert all(later.starts_at == earlier.ends_at for later, earlier in pairwise(periods))


def test_a_day_within_which_periods_meet_belongs_to_one_of_them() -> None:
    noon = datetime(2026, 11, 15, 12, tzinfo=UTC)
    midnight = datetime(2026, 12, 15, tzinfo=UTC)
    earlier, later = Period(noon - timedelta(days=30), noon), Period(noon, midnight)
    assert (earlier.days[1], later.days) == (date(2026, 11, 15), (date(2026, 11, 16), date(2026, 12, 14)))


# By day. ---------------------------------------------------------------------------------------------------------
def daily_of(api: APIClient, query: str = "") -> list[dict[str, Any]]:
    answer = api.get(f"/api/v1/usage/daily{query}")
    assert answer.status_code == 200, answer.content
    shown: list[dict[str, Any]] = answer.json()
    return shown


def test_each_day_has_its_runs_kept_and_deleted_and_its_calls(api: APIClient, alice: User, bob: User) -> None:
    flow, day = make_flow(alice), datetime(2026, 5, 2, tzinfo=UTC)
    for at in (day, day + timedelta(hours=23, minutes=59), day - timedelta(microseconds=1), day + timedelta(days=2)):
        make_execution(flow, started_at=at)
    make_execution(make_flow(bob), started_at=day)
    DeletedRuns.objects.create(user=alice, starts_at=day, runs=5)
    DeletedRuns.objects.create(user=bob, starts_at=day, runs=5)
    settle_llm(call=call(alice, cost="0.5"), now=day)
    settle_llm(call=call(alice, cost=None, model="o3"), now=day)
    rows = daily_of(api, "?from=2026-05-01&to=2026-05-03")
    assert [(row["day"], row["runs"]) for row in rows] == [("2026-05-01", 1), ("2026-05-02", 7), ("2026-05-03", 0)]
    assert [(row["calls"], row["tokensIn"], row["tokensOut"], row["cost"]) for row in rows] == [
        (0, 0, 0, 0.0),
        (2, 1_800, 200, 0.5),
        (0, 0, 0, 0.0),
    ]


def test_without_days_it_is_the_period_up_to_today(api: APIClient, alice: User) -> None:
    days = [row["day"] for row in daily_of(api)]
    assert (days[0], days[-1], len(days)) == (f"{month():%Y-%m-%d}", f"{timezone.now():%Y-%m-%d}", timezone.now().day)
    assert [row["day"] for row in daily_of(api, "?to=2026-02-02")] == ["2026-02-01", "2026-02-02"]


@pytest.mark.parametrize("query", ["from=2026-05-02&to=2026-05-01", "from=2025-05-01&to=2026-05-02", "to=9999-12-31"])
def test_more_than_366_days_or_none_are_refused(api: APIClient, alice: User, query: str) -> None:
    answer = api.get(f"/api/v1/usage/daily?{query}")
    assert (answer.status_code, list(answer.json()["details"])) == (400, ["from"])


def test_the_first_and_the_last_days_there_are_can_be_asked_for(api: APIClient, alice: User) -> None:
    assert len(daily_of(api, "?from=0001-01-01&to=0001-01-02")) == 2
    assert len(daily_of(api, "?from=9999-12-30&to=9999-12-31")) == 2


# In the admin. ---------------------------------------------------------------------------------------------------
def test_the_admin_shows_deleted_runs_and_changes_none(admin_client: Client, alice: User) -> None:
    row = DeletedRuns.objects.create(user=alice, starts_at=month(), runs=7)
    page = admin_client.get("/admin/billing/deletedruns/", {"q": "alice@"})
    assert (page.status_code, alice.email in page.content.decode()) == (200, True)
    url = f"/admin/billing/deletedruns/{row.pk}/"
    assert admin_client.get(f"{url}change/").status_code == 200
    assert admin_client.post(f"{url}change/", {"runs": 0}).status_code == 403


def test_calls_of_models_are_each_users_own_by_day_and_by_period(api: APIClient, alice: User, bob: User) -> None:
    now = timezone.now()
    for user, cost in ((alice, "0.5"), (bob, "8")):
        settle_llm(call=call(user, cost=cost), now=now)
    today = daily_of(api)[-1]
    [period, *_] = api.get("/api/v1/usage/history").json()["items"]
    assert (today["calls"], today["cost"]) == (1, 0.5)
    assert (period["tokensUsed"], period["cost"]) == (1_000, 0.5)


def test_tokens_of_the_day_within_which_a_period_begins_are_of_the_one_before(alice: User) -> None:
    start = datetime(2026, 5, 10, 12, tzinfo=UTC)
    for at in (start - timedelta(days=30), start):
        SubscriptionPeriod.objects.create(user=alice, starts_at=at, ends_at=at + timedelta(days=30), tier=Tier.PRO)
    now = start + timedelta(hours=2)
    settle_llm(call=call(alice), now=now)
    periods = list(periods_of(user=alice, until=now, since=start - timedelta(days=1)))
    assert [row["tokens_used"] for row in counting.history(user=alice, periods=periods, now=now)] == [0, 1_000]
    assert counting.dashboard(user=alice, now=now)["tokens_used"] == 0


def test_in_the_plot_a_single_run_is_seen_beside_thousands() -> None:
    days = [{"day": date(2026, 5, day), "runs": runs} for day, runs in ((1, 0), (2, 1), (3, 10_000))]
    assert [bar.height for bar in plot_of(days).bars] == [0, 2, 100]
