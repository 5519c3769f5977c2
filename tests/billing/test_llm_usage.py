"""What calls of models came to, counted once, and the report of it."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import connection
from django.test import Client
from django.utils import timezone as django_timezone
from rest_framework.test import APIClient

from accounts.models import User
from billing.metering import settle_all
from billing.metering.housekeeping import keep_budgets
from billing.models import LlmUsage, SettledCall
from billing.models.usage import NO_FLOW
from flows.models import Flow
from tests.billing.metering import NOVEMBER, call, settle_llm

pytestmark = pytest.mark.django_db

USAGE = "/api/v1/usage/llm"
FLOW = UUID(int=7)


def test_calls_of_one_model_on_one_day_add_up_in_one_row(alice: User) -> None:
    for cost in ("0.00000000001", "0.25", "1"):
        settle_llm(call=call(alice, cost=cost), now=NOVEMBER)
    row: Any = LlmUsage.objects.get()
    assert (row.day, row.flow_id, row.model, row.provider) == (NOVEMBER.date(), NO_FLOW, "gpt-5", "openai")
    assert (row.calls, row.tokens_in, row.tokens_out, row.cost) == (3, 2_700, 300, Decimal("1.2500000001"))


@pytest.mark.parametrize(
    "other",
    [{"model": "o3"}, {"provider": "azure"}, {"own_key": True}, {"flow_id": FLOW}],
    ids=lambda other: next(iter(other)),
)
def test_what_differs_in_model_provider_key_or_flow_is_counted_apart(alice: User, other: dict[str, Any]) -> None:
    settle_llm(call=call(alice), now=NOVEMBER)
    settle_llm(call=call(alice, **other), now=NOVEMBER)
    assert list(LlmUsage.objects.values_list("calls", flat=True)) == [1, 1]


def test_the_day_is_that_of_utc(alice: User) -> None:
    settle_llm(call=call(alice), now=datetime(2026, 12, 1, 1, tzinfo=timezone(timedelta(hours=2))))
    assert str(LlmUsage.objects.get().day) == "2026-11-30"


def test_a_call_that_is_settled_twice_counts_once(alice: User) -> None:
    once = call(alice)
    settle_all(calls=[once, once], now=NOVEMBER)
    settle_llm(call=once, now=NOVEMBER)
    settle_all(calls=[call(alice), once], now=NOVEMBER)
    assert LlmUsage.objects.get().calls == 2


@pytest.mark.django_db(transaction=True)
def test_calls_that_are_settled_beside_each_other_and_twice_count_once_each(alice: User) -> None:
    """In groups that lie across each other, as workers commit them."""
    calls = [call(alice, model=f"m{number % 3}") for number in range(30)]

    def settle(start: int) -> None:
        try:
            settle_all(calls=[calls[(start + 7 * step) % 30] for step in range(10)], now=NOVEMBER)
        finally:
            connection.close()

    with ThreadPoolExecutor(10) as threads:
        list(threads.map(settle, range(30)))
    assert sorted(LlmUsage.objects.values_list("model", "calls", "cost")) == [
        (f"m{number}", 10, Decimal(10)) for number in range(3)
    ]


@pytest.mark.django_db(transaction=True)
def test_calls_of_several_models_can_be_settled_in_any_order_beside_each_other(alice: User) -> None:
    """Two transactions that locked the rows of the models each in its own order would wait for each other."""
    start = threading.Barrier(8)

    def settle(number: int) -> None:
        models = [f"m{at}" for at in range(40)]
        try:
            start.wait()
            for _ in range(5):
                settle_all(
                    calls=[call(alice, model=model) for model in models[:: 1 if number % 2 else -1]], now=NOVEMBER
                )
        finally:
            connection.close()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(settle, range(8)))
    assert set(LlmUsage.objects.values_list("calls", flat=True)) == {40}


def test_a_hit_of_the_cache_is_a_call_that_costs_nothing(alice: User) -> None:
    settle_llm(call=call(alice, cached=True), now=NOVEMBER)
    row: Any = LlmUsage.objects.get()
    assert (row.calls, row.cached_calls, row.tokens_in, row.cost, row.unpriced_calls) == (1, 1, 0, 0, 0)


def test_a_call_whose_price_is_not_known_is_counted_as_that(alice: User) -> None:
    settle_llm(call=call(alice, cost=None), now=NOVEMBER)
    row: Any = LlmUsage.objects.get()
    assert (row.calls, row.unpriced_calls, row.tokens_in, row.cost) == (1, 1, 900, 0)


def test_names_that_do_not_fit_are_cut_rather_than_refused(alice: User) -> None:
    settle_llm(call=call(alice, model="m" * 300 + "\0", provider="p\0"), now=NOVEMBER)
    assert LlmUsage.objects.get().model == "m" * 200


def test_settled_calls_are_forgotten_after_a_week(alice: User) -> None:
    settle_llm(call=call(alice), now=NOVEMBER)
    keep_budgets(now=NOVEMBER + timedelta(days=6))
    assert SettledCall.objects.exists()
    keep_budgets(now=NOVEMBER + timedelta(days=8))
    assert not SettledCall.objects.exists()
    assert LlmUsage.objects.exists()


# GET /usage/llm --------------------------------------------------------------------------------------------------
def test_the_report_adds_up_by_model_by_flow_and_by_day(api: APIClient, alice: User) -> None:
    flow = Flow.objects.create(user=alice, name="Orders")
    settle_llm(call=call(alice, cost="2.5", flow_id=flow.pk), now=NOVEMBER)
    settle_llm(call=call(alice, cost="1", model="o3"), now=NOVEMBER + timedelta(days=1))
    settle_llm(call=call(alice, cached=True, flow_id=flow.pk), now=NOVEMBER + timedelta(days=1))
    answer = api.get(f"{USAGE}?from=2026-11-01&to=2026-11-30").json()
    assert (answer["from"], answer["to"]) == ("2026-11-01", "2026-11-30")
    assert answer["totals"] == {
        "calls": 3, "cachedCalls": 1, "unpricedCalls": 0, "tokensIn": 1800, "tokensOut": 200, "cost": 3.5
    }  # fmt: skip
    assert [(row["provider"], row["model"], row["calls"], row["cost"]) for row in answer["byModel"]] == [
        ("openai", "gpt-5", 2, 2.5),
        ("openai", "o3", 1, 1.0),
    ]
    assert [(row["flowId"], row["flowName"], row["cost"]) for row in answer["byFlow"]] == [
        (str(flow.pk), "Orders", 2.5),
        (None, None, 1.0),
    ]
    assert [(row["day"], row["calls"]) for row in answer["byDay"]] == [("2026-11-24", 1), ("2026-11-25", 2)]


def test_where_no_price_is_known_the_cost_is_null_and_not_zero(api: APIClient, alice: User) -> None:
    settle_llm(call=call(alice, cost=None, model="mystery"), now=NOVEMBER)
    settle_llm(call=call(alice, cached=True, model="mystery"), now=NOVEMBER)
    settle_llm(call=call(alice, cost="1"), now=NOVEMBER)
    answer = api.get(f"{USAGE}?from=2026-11-24&to=2026-11-24").json()
    assert {row["model"]: row["cost"] for row in answer["byModel"]} == {"mystery": None, "gpt-5": 1.0}
    assert (answer["totals"]["cost"], answer["totals"]["unpricedCalls"]) == (1.0, 1)


def test_without_days_it_is_this_month_up_to_today(api: APIClient, alice: User) -> None:
    now = django_timezone.now()
    settle_llm(call=call(alice), now=now)
    settle_llm(call=call(alice), now=now.replace(day=1) - timedelta(days=1))
    answer = api.get(USAGE).json()
    assert answer["totals"]["calls"] == 1
    assert answer["to"] == str(now.astimezone(UTC).date())


def test_only_the_dearest_are_listed_and_the_others_counted(api: APIClient, alice: User) -> None:
    LlmUsage.objects.bulk_create(
        LlmUsage(
            user=alice, day=NOVEMBER.date(), flow_id=uuid4(), model=f"m{number}", provider="p", calls=1, cost=number
        )
        for number in range(103)
    )
    answer = api.get(f"{USAGE}?from=2026-11-01&to=2026-11-30").json()
    assert (len(answer["byModel"]), answer["moreModels"]) == (100, 3)
    assert (len(answer["byFlow"]), answer["moreFlows"]) == (100, 3)
    assert (answer["byModel"][0]["model"], answer["totals"]["calls"]) == ("m102", 103)


@pytest.mark.parametrize("query", ["from=2026-11-02&to=2026-11-01", "from=2025-01-01&to=2026-11-01", "from=yesterday"])
def test_days_that_cannot_be_are_400(api: APIClient, query: str) -> None:
    answer = api.get(f"{USAGE}?{query}")
    assert (answer.status_code, [*answer.json()["details"]]) == (400, ["from"])


def test_one_tenants_usage_is_not_anothers(bobs_api: APIClient, alice: User) -> None:
    settle_llm(call=call(alice), now=NOVEMBER)
    assert bobs_api.get(f"{USAGE}?from=2026-11-01&to=2026-11-30").json()["totals"]["calls"] == 0


def test_the_admin_lists_usage_with_its_sums_and_changes_none(admin_client: Client, alice: User, bob: User) -> None:
    settle_llm(call=call(alice, cost="1.5"), now=NOVEMBER)
    settle_llm(call=call(alice, cost=None, model="mystery"), now=NOVEMBER)
    settle_llm(call=call(bob), now=NOVEMBER)
    page = admin_client.get("/admin/billing/llmusage/", {"user__id__exact": str(alice.pk)}).content.decode()
    assert "2 calls (0 from the cache), 1,800 tokens in, 200 out, $1.5000 and 1 calls at unknown prices" in page
    row = LlmUsage.objects.filter(user=alice).first()
    assert row is not None
    url = f"/admin/billing/llmusage/{row.pk}/"
    assert admin_client.get(f"{url}change/").status_code == 200
    assert admin_client.post(f"{url}change/", {"calls": 0}).status_code == 403
