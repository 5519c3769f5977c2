"""Budgets through the API and the admin."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from rest_framework.test import APIClient

from accounts.models import User
from billing.models import Budget, BudgetPeriod
from flows.models import Flow
from flows.services import delete_flow, update_flow
from tests.billing.metering import call, reserve, settle_llm, spend
from tests.conftest import api_as

pytestmark = pytest.mark.django_db

BUDGETS = "/api/v1/budgets"


@pytest.fixture
def flow(alice: User) -> Flow:
    return Flow.objects.create(user=alice, name="Orders")


def test_a_budget_is_shown_with_what_this_month_has_used_of_it(api: APIClient, alice: User, flow: Flow) -> None:
    made = api.post(BUDGETS, {"flowId": str(flow.pk), "monthlyCost": 10, "monthlyTokens": 5_000})
    assert made.status_code == 201
    now = timezone.now()
    spend(alice, cost="2.5", now=now, flow_id=flow.pk)
    reserve(alice, cost="0.1", now=now, flow_id=flow.pk)
    month = now.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    shown = api.get(f"{BUDGETS}/{made.json()['id']}").json()
    assert shown.items() >= {
        "flowId": str(flow.pk), "flowName": "Orders", "monthlyCost": 10.0, "monthlyTokens": 5_000,
        "spentCost": 2.5, "spentTokens": 1_000, "reservedCost": 0.1, "reservedTokens": 1_000, "unpricedCalls": 0,
        "warnedAt": None, "stoppedAt": None, "periodStart": f"{month:%Y-%m-%d}T00:00:00Z",
    }.items()  # fmt: skip
    assert shown["resetsAt"] > shown["periodStart"]
    assert api.get(BUDGETS).json()["items"] == [shown]


@pytest.mark.parametrize("money", [0.1, "0.1", 1, "12.345678"])
def test_money_is_a_number_or_the_text_of_one(api: APIClient, money: Any) -> None:
    assert api.post(BUDGETS, {"monthlyCost": money}).json()["monthlyCost"] == float(money)


def test_what_the_month_has_used_before_counts(api: APIClient, alice: User) -> None:
    settle_llm(call=call(alice, cost="3"), now=timezone.now())
    assert api.post(BUDGETS, {"monthlyCost": 10}).json()["spentCost"] == 3.0


def test_one_that_nothing_was_asked_of_yet_this_month_has_used_nothing(api: APIClient) -> None:
    made = api.post(BUDGETS, {"monthlyTokens": 10}).json()
    BudgetPeriod.objects.all().delete()
    assert api.get(f"{BUDGETS}/{made['id']}").json()["spentTokens"] == 0


def test_a_list_takes_no_more_queries_for_more_budgets(api: APIClient, alice: User) -> None:
    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            assert api.get(BUDGETS).status_code == 200
        return len(captured)

    api.post(BUDGETS, {"monthlyCost": 1})
    few = queries()
    for number in range(4):
        flow = Flow.objects.create(user=alice, name=f"Flow {number}")
        api.post(BUDGETS, {"monthlyCost": 1, "flowId": str(flow.pk)})
    assert queries() == few


def test_a_limit_can_be_changed_and_taken_away_beside_another(api: APIClient) -> None:
    url = f"{BUDGETS}/{api.post(BUDGETS, {'monthlyCost': 10}).json()['id']}"
    assert api.patch(url, {"monthlyTokens": 7}).json()["monthlyCost"] == 10.0
    changed = api.patch(url, {"monthlyCost": None}).json()
    assert (changed["monthlyCost"], changed["monthlyTokens"]) == (None, 7)


def test_a_budget_without_any_limit_is_400(api: APIClient) -> None:
    assert [*api.post(BUDGETS, {}).json()["details"]] == ["monthlyCost"]
    url = f"{BUDGETS}/{api.post(BUDGETS, {'monthlyCost': 10}).json()['id']}"
    answer = api.patch(url, {"monthlyCost": None})
    assert (answer.status_code, [*answer.json()["details"]]) == (400, ["monthlyCost"])
    assert api.get(url).json()["monthlyCost"] == 10.0


@pytest.mark.parametrize(
    "limit",
    [
        {"monthlyCost": 0}, {"monthlyCost": -1}, {"monthlyCost": "NaN"}, {"monthlyCost": 1e300}, {"monthlyCost": True},
        {"monthlyCost": "1.00000000001"}, {"monthlyTokens": 0}, {"monthlyTokens": 10**16}, {"monthlyTokens": 1.5},
    ],
    ids=str,
)  # fmt: skip
def test_a_limit_that_cannot_be_is_400(api: APIClient, limit: dict[str, Any]) -> None:
    answer = api.post(BUDGETS, limit)
    assert (answer.status_code, [*answer.json()["details"]]) == (400, [*limit])


def test_there_is_one_budget_for_all_flows_and_one_for_each(api: APIClient, flow: Flow) -> None:
    for body in ({"monthlyCost": 1}, {"monthlyCost": 1, "flowId": str(flow.pk)}):
        assert api.post(BUDGETS, body).status_code == 201
        again = api.post(BUDGETS, body)
        assert (again.status_code, again.json()["code"]) == (409, "budget_exists")


@pytest.mark.django_db(transaction=True)
def test_of_several_that_are_made_at_once_there_is_one(alice: User) -> None:
    def make(_: int) -> int:
        try:
            return api_as(alice).post(BUDGETS, {"monthlyCost": 1}).status_code
        finally:
            connection.close()

    with ThreadPoolExecutor(5) as threads:
        assert sorted(threads.map(make, range(5))) == [201, 409, 409, 409, 409]
    assert Budget.objects.count() == BudgetPeriod.objects.count() == 1


def test_a_flow_of_another_is_as_unknown_as_any(bobs_api: APIClient, flow: Flow) -> None:
    """It would limit nothing, which nobody would notice."""
    answers = [bobs_api.post(BUDGETS, {"monthlyCost": 1, "flowId": str(of)}) for of in (flow.pk, uuid4())]
    assert answers[0].json() == answers[1].json()
    assert (answers[0].status_code, [*answers[0].json()["details"]]) == (400, ["flowId"])
    assert not Budget.objects.exists()


def test_a_deleted_budget_limits_nothing_more(api: APIClient, alice: User) -> None:
    url = f"{BUDGETS}/{api.post(BUDGETS, {'monthlyCost': 1}).json()['id']}"
    reserve(alice, now=timezone.now())
    assert api.delete(url).status_code == 204
    assert api.get(url).status_code == 404
    assert reserve(alice, now=timezone.now()) is None


def test_a_flows_budget_goes_with_the_flow_and_has_its_name(api: APIClient, flow: Flow) -> None:
    url = f"{BUDGETS}/{api.post(BUDGETS, {'monthlyCost': 1, 'flowId': str(flow.pk)}).json()['id']}"
    update_flow(flow=flow, changes={"name": "Bills"})
    assert api.get(url).json()["flowName"] == "Bills"
    delete_flow(flow=flow)
    assert api.get(url).status_code == 404


# The admin. ------------------------------------------------------------------------------------------------------
def test_an_operator_changes_a_limit_and_not_what_is_spent(admin_client: Client, alice: User) -> None:
    made = Budget.objects.create(user=alice, monthly_cost=1)
    spend(alice, now=timezone.now())
    url = f"/admin/billing/budget/{made.pk}/change/"
    assert "used up at" in admin_client.get(url).content.decode().lower()
    form = {"monthly_cost": "2", "monthly_tokens": "", "periods-TOTAL_FORMS": 0, "periods-INITIAL_FORMS": 0}
    assert admin_client.post(url, form).status_code == 302
    made.refresh_from_db()
    assert made.monthly_cost == 2
    row = BudgetPeriod.objects.get()
    assert row.spent_cost == 1
    assert row.stopped_at_100 is None
    assert admin_client.post(url, {**form, "monthly_cost": ""}).status_code == 200  # refused: no limit would be left
    assert admin_client.post(f"/admin/billing/budgetperiod/{row.pk}/change/", {"spent_cost": 0}).status_code == 403


def test_an_operator_sets_a_budget_that_counts_what_was_used(admin_client: Client, alice: User) -> None:
    settle_llm(call=call(alice, cost="3"), now=timezone.now())
    form = {"user": alice.pk, "monthly_cost": "5", "periods-TOTAL_FORMS": 0, "periods-INITIAL_FORMS": 0}
    assert admin_client.post("/admin/billing/budget/add/", form).status_code == 302
    assert BudgetPeriod.objects.get().spent_cost == 3
    assert admin_client.post("/admin/billing/budget/add/", form).status_code == 200  # refused: there is one


def test_an_operator_deletes_budgets_with_their_months(admin_client: Client, alice: User) -> None:
    made = Budget.objects.create(user=alice, monthly_cost=1)
    reserve(alice, now=timezone.now())
    answer = admin_client.post(f"/admin/billing/budget/{made.pk}/delete/", {"post": "yes"})
    assert answer.status_code == 302
    assert not BudgetPeriod.objects.exists()


@pytest.mark.parametrize("page", ["budget", "budgetperiod", "budgetreservation", "budgetnotice", "settledcall"])
def test_the_admins_lists_open(admin_client: Client, alice: User, page: str) -> None:
    Budget.objects.create(user=alice, monthly_cost=1)
    spend(alice, now=timezone.now())
    reserve(alice, cost="0", now=timezone.now())
    content = admin_client.get(f"/admin/billing/{page}/").content.decode()
    assert "alice@shop.example" in content or page == "settledcall"


def test_an_operator_sets_one_for_each_user(admin_client: Client, alice: User, bob: User) -> None:
    Budget.objects.create(user=alice, monthly_cost=1)
    form = {"user": bob.pk, "monthly_cost": "5", "periods-TOTAL_FORMS": 0, "periods-INITIAL_FORMS": 0}
    assert admin_client.post("/admin/billing/budget/add/", form).status_code == 302
