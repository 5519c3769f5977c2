"""`manage.py recount_usage`: what is counted beside what is on record."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db.models import F, QuerySet
from django.utils import timezone
from rest_framework.test import APIClient

from accounts.models import Tier, User
from billing.models import BudgetPeriod, DeletedRuns, LlmUsage, RunBudget
from billing.months import month_of, month_starts_at
from executions.models import Step, StepStatus
from flows.services import set_budget
from tests.executions.factories import make_execution, make_flow
from tests.executions.flows import retry_from_failed, run, start
from tests.llm.model_server import ModelServer, text

pytestmark = pytest.mark.django_db(transaction=True)
Drain = Callable[[], None]

ASKS = "  - {name: ask, handler: acme.asker, config: {turns: 2}, peers: [then]}\n"
THEN = "  - {name: then, handler: blox.output}\n"
THEN_FAILS = "  - {name: then, handler: blox.fail, config: {message: no}}\n"


def recounted(*arguments: str) -> tuple[int, str]:
    """The exit status, and what was said."""
    out = StringIO()
    try:
        call_command("recount_usage", *arguments, stdout=out)
    except CommandError as error:
        return error.returncode, f"{out.getvalue()}{error}"
    return 0, out.getvalue()


@pytest.fixture
def asked(api: APIClient, drain: Drain, models: ModelServer, alice: User) -> None:
    """Two calls of 13 and 24 tokens are on record and counted."""
    set_budget(owner=alice, flow_id=None, monthly_cost=None, monthly_tokens=10**6, now=timezone.now())
    models.script(text("one", tokens_in=10, tokens_out=3), text("two", tokens_in=20, tokens_out=4))
    run(api, start(api, ASKS + THEN))
    drain()
    assert sum(LlmUsage.objects.values_list(F("tokens_in") + F("tokens_out"), flat=True)) == 37


@pytest.fixture
def free(alice: User) -> User:
    User.objects.filter(pk=alice.pk).update(tier=Tier.FREE)
    return User.objects.get(pk=alice.pk)


def test_what_the_engine_has_counted_is_what_is_on_record(asked: None, alice: User) -> None:
    assert recounted() == (0, "1 users recounted, no difference left.\n")


@pytest.mark.parametrize(("more", "shown"), [(-1, "at least"), (1, "at most")])
def test_usage_that_the_record_does_not_bear_out_is_a_difference(asked: None, more: int, shown: str) -> None:
    LlmUsage.objects.update(tokens_in=F("tokens_in") + more)
    BudgetPeriod.objects.update(spent_tokens=1_000)
    status, said = recounted()
    assert status == 1
    kept = f"alice@shop.example: model usage: 2 calls, {37 + more} tokens, $0.0000 on record"
    assert f"{kept}, {shown} 2 calls, 37 tokens, $0.0000 recounted\n1 users recounted, 1 differences left." in said


def test_a_call_that_was_counted_twice_is_a_difference(asked: None) -> None:
    LlmUsage.objects.update(calls=F("calls") + 1)
    assert recounted()[0] == 1


def test_what_history_no_longer_has_is_no_difference_but_what_it_has_is_counted(
    api: APIClient, asked: None, alice: User
) -> None:
    DeletedRuns.objects.create(user=alice, starts_at=month_starts_at(month_of(timezone.now())), runs=1)
    LlmUsage.objects.update(tokens_in=F("tokens_in") + 1)
    BudgetPeriod.objects.update(spent_tokens=1_000)
    assert recounted()[0] == 0
    LlmUsage.objects.update(tokens_in=F("tokens_in") - 2)
    assert recounted()[0] == 1


def test_turns_that_a_retry_has_taken_over_were_asked_once(api: APIClient, drain: Drain, models: ModelServer) -> None:
    models.script(*[text("one", tokens_in=10, tokens_out=3)] * 2)
    failed = run(api, start(api, ASKS + THEN_FAILS))
    drain()
    retry_from_failed(api, failed)
    drain()
    assert Step.objects.filter(block="blox.model").count() == 4
    assert len(models.log) == 2
    assert recounted()[0] == 0


def test_a_budget_with_less_spent_than_was_used_is_a_difference(asked: None) -> None:
    BudgetPeriod.objects.update(spent_tokens=36)
    status, said = recounted()
    assert (status, "$0.0000 and 36 tokens spent on record, $0.0000 and 37 tokens used" in said) == (1, True)


# Runs. -----------------------------------------------------------------------------------------------------------
def test_the_count_by_which_runs_are_refused_is_recounted_and_set_right(api: APIClient, free: User) -> None:
    flow = start(api, THEN)
    for _ in range(3):
        run(api, flow)
    assert recounted("--user", free.email) == (0, "1 users recounted, no difference left.\n")
    RunBudget.objects.update(runs=5)
    status, said = recounted("--user", free.email)
    assert (status, "at the cap: 5 on record, 3 recounted\n" in said) == (1, True)
    assert RunBudget.objects.get().runs == 5
    status, said = recounted("--fix")
    assert (status, "5 on record, 3 recounted; it is set right\n" in said) == (0, True)
    assert RunBudget.objects.get().runs == 3
    assert recounted()[0] == 0


def test_deleted_runs_count_and_a_row_that_is_not_there_is_no_difference(free: User) -> None:
    month = datetime(2026, 5, 1, tzinfo=UTC)
    DeletedRuns.objects.create(user=free, starts_at=month, runs=7)
    make_execution(make_flow(free), started_at=month + timedelta(days=3))
    assert recounted("--period", "2026-04")[0] == 0
    assert recounted("--period", "2026-05", "--fix")[0] == 0
    assert not RunBudget.objects.exists()  # the next acceptance makes it, and begins with these
    RunBudget.objects.create(user=free, period_start=month.date(), runs=2)
    assert recounted("--at", "2026-05-31T23:59:59")[0] == 1
    assert recounted("--at", "2026-06-01")[0] == 0
    assert recounted("--period", "2026-05", "--fix")[0] == 0
    assert RunBudget.objects.get().runs == 8


def test_runs_of_tiers_that_are_not_refused_are_counted_once_and_need_no_recount(alice: User) -> None:
    RunBudget.objects.create(user=alice, period_start=month_of(timezone.now()), runs=5)
    assert recounted()[0] == 0


@pytest.mark.parametrize(
    ("arguments", "why"),
    [(["--user", "nobody@shop.example"], "no user"), (["--period", "May"], "--period"), (["--at", "noon"], "--at")],
)
def test_what_cannot_be_recounted_is_said(db: None, arguments: list[str], why: str) -> None:
    assert why in recounted(*arguments)[1]


# Whose, and of what. -----------------------------------------------------------------------------------------------
def test_each_users_calls_and_budgets_are_their_own(
    bobs_api: APIClient, drain: Drain, models: ModelServer, asked: None, alice: User, bob: User
) -> None:
    set_budget(owner=bob, flow_id=None, monthly_cost=None, monthly_tokens=10**6, now=timezone.now())
    models.script(*[text("one", tokens_in=10, tokens_out=3)] * 2)
    run(bobs_api, start(bobs_api, ASKS + THEN))
    drain()
    BudgetPeriod.objects.filter(budget__user=bob).update(spent_tokens=1)
    assert recounted("--user", alice.email)[0] == 0
    assert recounted("--user", bob.email)[0] == 1


def test_a_flows_budget_is_held_against_the_calls_of_that_flow(asked: None, alice: User) -> None:
    other = make_flow(alice, name="asks nothing")
    set_budget(owner=alice, flow_id=other.pk, monthly_cost=None, monthly_tokens=10, now=timezone.now())
    assert recounted()[0] == 0


def test_dollars_are_recounted_as_tokens_are(asked: None) -> None:
    LlmUsage.objects.update(cost=5, unpriced_calls=0)
    BudgetPeriod.objects.update(spent_cost=4)
    said = recounted()[1]
    assert "model usage: 2 calls, 37 tokens, $5.0000 on record, at most 2 calls, 37 tokens, $0.0000 recounted" in said
    assert "$4.0000 and 37 tokens spent on record, $5.0000 and 37 tokens used" in said


def first_turn() -> "QuerySet[Step]":
    return Step.objects.filter(pk=Step.objects.filter(block="blox.model").earliest("completed_at").pk)


def test_what_the_cache_answered_has_no_tokens(asked: None) -> None:
    first_turn().update(model_call={**(first_turn().get().model_call or {}), "cached": True})
    LlmUsage.objects.update(tokens_in=20, tokens_out=4)
    assert recounted()[0] == 0


def test_calls_of_executions_that_began_before_the_period_and_are_deleted_are_no_difference(
    asked: None, alice: User
) -> None:
    before = month_starts_at(month_of(timezone.now())) - timedelta(days=1)
    LlmUsage.objects.update(tokens_in=F("tokens_in") + 1)
    BudgetPeriod.objects.update(spent_tokens=1_000)
    assert recounted()[0] == 1
    DeletedRuns.objects.create(user=alice, starts_at=before, runs=1)
    assert recounted()[0] == 0


def test_an_answer_that_could_not_be_kept_is_counted_and_no_difference(asked: None) -> None:
    first_turn().update(status=StepStatus.ERROR, error_code="answer_unreadable", tokens_in=0, tokens_out=0)
    assert recounted()[0] == 0
