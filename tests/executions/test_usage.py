"""`GET /usage`: what a month has used of what the tier allows."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone
from rest_framework.test import APIClient

from accounts.models import Tier, User
from billing.models import DeletedRuns
from billing.months import month_of, month_resets_at, month_starts_at
from billing.periods import Period, period_of
from billing.runs import run_usage
from executions import history, tasks
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


def test_the_admin_shows_deleted_runs_and_changes_none(admin_client: Client, alice: User) -> None:
    row = DeletedRuns.objects.create(user=alice, starts_at=month(), runs=7)
    page = admin_client.get("/admin/billing/deletedruns/", {"q": "alice@"})
    assert (page.status_code, alice.email in page.content.decode()) == (200, True)
    url = f"/admin/billing/deletedruns/{row.pk}/"
    assert admin_client.get(f"{url}change/").status_code == 200
    assert admin_client.post(f"{url}change/", {"runs": 0}).status_code == 403
