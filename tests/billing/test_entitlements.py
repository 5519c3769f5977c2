"""Each limit where it is enforced: the tier's, a user's own, and when many ask at the same moment."""

from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone
from rest_framework.test import APIClient

from accounts.models import Tier, User
from accounts.services import set_tier
from billing.models import RunBudget
from executions import history
from executions.engine.lanes import anything_startable
from executions.engine.leases import claim
from executions.models import Execution, State
from flows.models import Flow
from llm.services import allowance_of
from tests.billing.limits import all_at_once, give
from tests.conftest import api_as
from tests.executions.factories import make_execution, make_flow
from triggers.models import Delivery, Trigger
from triggers.services import prune_ledgers

pytestmark = pytest.mark.django_db(transaction=True)

FLOWS = "/api/v1/flows"
WEBHOOK = {"type": "webhook", "name": "in", "config": {"respond": "result"}}
MANUAL = {"type": "manual", "name": "by hand", "config": {}}


@pytest.fixture
def free(alice: User) -> User:
    User.objects.filter(pk=alice.pk).update(tier=Tier.FREE)
    alice.tier = Tier.FREE
    return alice


def post(user: User, path: str, body: Any = None) -> Any:
    return api_as(user).post(path, body or {}, format="json")


def run(user: User, flow: Flow) -> Any:
    return post(user, f"{FLOWS}/{flow.pk}/executions/run")


def counted(answers: list[Any]) -> Counter[tuple[int, str]]:
    return Counter((answer.status_code, answer.json().get("code", "")) for answer in answers)


# Flows and triggers. ---------------------------------------------------------------------------------------------
def test_flows_that_are_made_copied_and_imported_at_once_do_not_pass_the_limit(free: User) -> None:
    give(free, "flows", 4)
    flow = make_flow(free)
    document = api_as(free).get(f"{FLOWS}/{flow.pk}/export").json()
    calls: list[Callable[[], Any]] = [
        lambda: post(free, FLOWS, {"name": "new"}),
        lambda: post(free, f"{FLOWS}/{flow.pk}/duplicate"),
        lambda: post(free, FLOWS, document),
    ]
    assert counted(all_at_once(calls * 3)) == {(201, ""): 3, (402, "flow_limit_reached"): 6}
    assert Flow.objects.count() == 4


def test_the_refusal_of_a_flow_says_whose_limit_it_is(free: User) -> None:
    make_flow(free)
    refused = post(free, FLOWS, {"name": "second"}).json()
    assert refused["message"] == (
        "The free tier's limit is 1 flow, and you have as many. Delete one, or upgrade to make another."
    )
    give(free, "flows", 2)
    make_flow(free)
    refused = post(free, FLOWS, {"name": "third"}).json()
    assert refused["message"] == "Your limit is 2 flows, and you have as many. Delete one to make another."
    assert refused["details"] == {"limit": 2, "tier": "free"}


def test_triggers_that_are_made_at_once_do_not_pass_the_limit_of_a_flow(free: User) -> None:
    give(free, "triggers_per_flow", 3)
    flow = make_flow(free)
    answers = all_at_once([lambda: post(free, f"{FLOWS}/{flow.pk}/triggers", MANUAL)] * 8)
    assert counted(answers) == {(201, ""): 3, (402, "trigger_limit_reached"): 5}
    refused = next(answer.json() for answer in answers if answer.status_code == 402)
    assert refused["message"].startswith("Your limit is 3 triggers a flow, and this one has as many.")
    assert refused["details"] == {"limit": 3, "tier": "free"}


def test_an_export_with_more_triggers_than_a_flow_may_have_makes_nothing(free: User) -> None:
    give(free, "triggers_per_flow", 1)
    answer = post(free, FLOWS, {"name": "imported", "triggers": [MANUAL, MANUAL]})
    assert (answer.status_code, answer.json()["code"]) == (402, "trigger_limit_reached")
    assert (Flow.objects.count(), Trigger.objects.count()) == (0, 0)


# Runs. -----------------------------------------------------------------------------------------------------------
def test_runs_accepted_at_once_do_not_pass_the_cap_and_the_rest_is_402(free: User) -> None:
    give(free, "runs_per_month", 3)
    flow = make_flow(free)
    answers = all_at_once([lambda: run(free, flow)] * 8)
    assert counted(answers) == {(201, ""): 3, (402, "usage_limit_exceeded"): 5}
    assert Execution.objects.count() == 3


def test_pro_goes_on_over_its_runs_and_owes_for_them(api: APIClient, alice: User) -> None:
    give(alice, "runs_per_month", 1)
    flow = make_flow(alice)
    assert [run(alice, flow).status_code for _ in range(3)] == [201] * 3
    usage = api.get("/api/v1/usage").json()
    assert (usage["runsUsed"], usage["runsLimit"], usage["estimatedOverage"]) == (3, 1, 0.001)


def test_who_comes_down_to_free_has_used_what_pro_ran_this_month(alice: User) -> None:
    flow = make_flow(alice)
    give(alice, "runs_per_month", 4)
    set_tier(user=alice, tier=Tier.FREE)
    assert run(alice, flow).status_code == 201
    set_tier(user=alice, tier=Tier.PRO)
    assert [run(alice, flow).status_code for _ in range(2)] == [201] * 2  # no row counts these
    set_tier(user=alice, tier=Tier.FREE)
    assert [run(alice, flow).status_code for _ in range(2)] == [201, 402]
    assert RunBudget.objects.get().runs == 4


def test_a_tier_that_an_operator_sets_on_the_users_page_counts_the_month_anew(
    admin_client: Client, alice: User
) -> None:
    flow = make_flow(alice)
    set_tier(user=alice, tier=Tier.FREE)
    run(alice, flow)
    page = f"/admin/accounts/user/{alice.pk}/change/"
    tokens = {"access_tokens-TOTAL_FORMS": 0, "access_tokens-INITIAL_FORMS": 0}
    for tier in (Tier.PRO, Tier.FREE):
        body = {"email": alice.email, "tier": tier, "is_active": "on", **tokens}
        assert admin_client.post(page, body).status_code == 302
        assert not RunBudget.objects.exists()
        assert run(alice, flow).status_code == 201
    assert (User.objects.get(pk=alice.pk).tier, RunBudget.objects.get().runs) == (Tier.FREE, 3)


# Executions. -----------------------------------------------------------------------------------------------------
def test_what_waits_for_the_limit_on_executions_at_once_is_accepted_and_never_called_a_quota(free: User) -> None:
    flow = make_flow(free)
    assert counted([run(free, flow) for _ in range(4)]) == {(201, ""): 4}
    assert len(claim("worker", limit=10, holding=0)) == 2
    assert run(free, flow).status_code == 201
    assert not anything_startable()


@pytest.mark.parametrize(("own", "held"), [(1, 1), (3, 3)])
def test_claims_and_metrics_go_by_a_users_own_limit_on_executions_at_once(
    free: User, bob: User, client: Client, own: int, held: int
) -> None:
    give(free, "concurrent_executions", own)
    flows = make_flow(free), make_flow(bob)
    for flow in flows:
        for _ in range(4):
            make_execution(flow, status="running", due_at=timezone.now())
    assert "bloxserver_tenants_at_cap 0.0" in client.get("/metrics").content.decode()
    claim("worker", limit=100, holding=0)
    working = Counter(Execution.objects.filter(state=State.WORKING).values_list("user", flat=True))
    assert working == {free.pk: held, bob.pk: 4}
    assert "bloxserver_tenants_at_cap 1.0" in client.get("/metrics").content.decode()


def test_an_execution_gets_the_seconds_of_its_owners_own_limit(free: User) -> None:
    give(free, "execution_seconds", 20)
    run(free, make_flow(free))
    assert Execution.objects.get().seconds_allowed == 20


def test_history_and_ledgers_are_kept_for_the_owners_own_days(free: User, bob: User) -> None:
    give(free, "history_days", 60)
    old = timezone.now() - timedelta(days=45)
    for user in (free, bob):
        flow = make_flow(user)
        make_execution(flow, started_at=old)
        trigger = Trigger.objects.create(flow=flow, type="manual", name="by hand")
        Delivery.objects.create(trigger=trigger, verdict="invalid", method="POST", size=1, received_at=old)
    history.prune_history(now=timezone.now())
    prune_ledgers(timezone.now())
    assert [execution.user_id for execution in Execution.objects.all()] == [free.pk]
    assert [row.trigger.flow.user_id for row in Delivery.objects.all()] == [free.pk]


@pytest.mark.parametrize(("days", "kept"), [(29, True), (31, False)])
def test_after_a_fall_history_and_ledgers_are_kept_as_before_for_thirty_days(
    free: User, bob: User, days: int, kept: bool
) -> None:
    now = timezone.now()
    set_tier(user=free, tier=Tier.ENTERPRISE)
    set_tier(user=free, tier=Tier.FREE, now=now - timedelta(days=days))
    User.objects.filter(pk=bob.pk).update(tier=Tier.FREE)  # and has not fallen
    for user in (free, bob):
        flow = make_flow(user)
        make_execution(flow, started_at=now - timedelta(days=45))
        trigger = Trigger.objects.create(flow=flow, type="manual", name="by hand")
        received = now - timedelta(days=45)
        Delivery.objects.create(trigger=trigger, verdict="invalid", method="POST", size=1, received_at=received)
    history.prune_history(now=now)
    prune_ledgers(now)
    assert [execution.user_id for execution in Execution.objects.all()] == [free.pk] * kept
    assert [row.trigger.flow.user_id for row in Delivery.objects.all()] == [free.pk] * kept


def test_after_a_fall_the_owners_own_days_hold(free: User) -> None:
    give(free, "history_days", 9)
    set_tier(user=free, tier=Tier.PRO)
    set_tier(user=free, tier=Tier.FREE)
    make_execution(make_flow(free), started_at=timezone.now() - timedelta(days=10))
    history.prune_history(now=timezone.now())
    assert not Execution.objects.exists()


def test_a_webhook_waits_as_long_as_its_owners_own_limit_says(free: User) -> None:
    give(free, "webhook_wait_seconds", 0)
    flow = make_flow(free)
    hook = post(free, f"{FLOWS}/{flow.pk}/triggers", WEBHOOK).json()
    began = timezone.now()
    answer = Client().post(f"/webhooks/{hook['webhookToken']}")
    assert (answer.status_code, answer.json()["message"]) == (202, "The execution is still running.")
    assert timezone.now() - began < timedelta(seconds=3)  # free waits for ten


# Rates. ----------------------------------------------------------------------------------------------------------
def test_the_api_and_webhooks_count_by_a_users_own_rate(free: User) -> None:
    give(free, "api_requests_per_minute", 3)
    flow = make_flow(free)
    hook = post(free, f"{FLOWS}/{flow.pk}/triggers", WEBHOOK).json()
    answers = [api_as(free).get(FLOWS) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[0]["X-RateLimit-Limit"] == "3"
    Execution.objects.all().delete()
    give(free, "webhook_wait_seconds", 0)
    hooks = [Client().post(f"/webhooks/{hook['webhookToken']}").status_code for _ in range(4)]
    assert hooks == [202, 202, 202, 429]


def test_calls_of_models_count_by_a_users_own_limits(free: User) -> None:
    assert allowance_of(free).name == "free tier"
    give(free, "llm_tokens_per_minute", 5)
    allowance = allowance_of(free)
    assert (allowance.name, allowance.requests, allowance.tokens, allowance.at_once) == ("account", 10, 5, 2)
