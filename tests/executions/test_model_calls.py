"""What a model's turn costs, whatever comes in its way: budgets, time limits, providers that fall silent."""

import asyncio
from collections.abc import Callable
from contextlib import closing
from threading import Event, Thread
from time import sleep
from typing import Any

import pytest
from django.db import connection, transaction
from django.utils import timezone
from pytest_django import Settings
from rest_framework.test import APIClient

from accounts.models import User
from billing.models import BudgetPeriod, LlmUsage
from bloxserver.core.ids import new_id
from executions.engine import model_turn
from executions.engine.model_calls import ModelCall, metered
from executions.models import Execution, JournalEntry
from flows.services import set_budget
from llm import catalogue, wire
from llm.exchange import Answer, Caller, Hop, Request
from llm.models import Provider
from llm.path import pool
from llm.path.limits import OWN_KEY
from llm.path.shared import shared
from llm.services import endpoints_for, forget_pool
from tests.executions.flows import result, retry_from_failed, run, start, trace
from tests.llm.model_server import ModelServer, Reply, cut, fail, slow, text

pytestmark = pytest.mark.django_db(transaction=True)
Drain = Callable[[], None]


@pytest.fixture(autouse=True, scope="module")
def _warm() -> None:
    """The first call in a process imports for seconds, which would be of the time limit."""
    asyncio.run(wire.warm_up())


def asker(api: APIClient, more: str = ", retry: {max_attempts: 1}", head: str = "", **config: Any) -> str:
    settings = ", ".join(f"{name}: {value}" for name, value in config.items())
    return start(api, f"  - {{name: ask, handler: acme.asker, config: {{{settings}}}{more}}}\n", head=head)


def steps(api: APIClient, execution: Execution) -> tuple[dict[str, Any], dict[str, Any]]:
    """The one that asked, and its turn."""
    asking, turn = sorted(trace(api, execution)["ask"], key=lambda step: step["block"])
    return asking, turn


def budget(alice: User, tokens: int = 100_000) -> None:
    set_budget(owner=alice, flow_id=None, monthly_cost=None, monthly_tokens=tokens, now=timezone.now())


def reserved() -> int:
    """As a provider's thread finds it, while it is asked."""
    with closing(connection):
        return BudgetPeriod.objects.get().reserved_tokens


def noting(reservations: list[int]) -> Callable[[dict[str, Any]], Reply]:
    def answer(body: dict[str, Any]) -> Reply:
        reservations.append(reserved())
        return text("said", tokens_in=10, tokens_out=3)

    return answer


# Time limits. ----------------------------------------------------------------------------------------------------
def test_a_provider_that_is_too_late_is_told_of_by_name(api: APIClient, drain: Drain, models: ModelServer) -> None:
    models.script(slow(2))
    execution = run(api, asker(api, ", timeout: 0.8, retry: {max_attempts: 1}"), "x")
    drain()
    asking, turn = steps(api, execution)
    assert [hop["outcome"] for hop in turn["modelCall"]["path"]] == ["timeout"]
    assert asking["errorCode"] == "provider_unavailable"
    assert "acme" in asking["error"]


def test_a_time_limit_that_ends_the_step_names_whom_it_waited_for(
    api: APIClient, drain: Drain, models: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_turn, "MARGIN", -1.0)  # the call is given more time than the step has
    models.script(slow(2))
    execution = run(api, asker(api, ", timeout: 0.4, retry: {max_attempts: 1}"), "x")
    drain()
    asking, turn = steps(api, execution)
    assert (asking["errorCode"], turn["errorCode"]) == ("step_timeout", "step_timeout")
    assert asking["error"] == "It gave no result within 0.4 seconds. At the end it waited for acme:echo-1."


def test_an_answer_that_is_being_written_when_the_time_is_over_is_kept(
    api: APIClient, drain: Drain, models: ModelServer
) -> None:
    held, free = Event(), Event()

    def hold(pk: Any) -> None:
        with closing(connection), transaction.atomic():
            Execution.objects.filter(pk=pk).update(trigger_name="held")
            held.set()
            free.wait(5)

    def answer(body: dict[str, Any]) -> Reply:
        Thread(target=hold, args=[execution.pk]).start()
        held.wait(5)
        return text("one")

    models.answer_with(answer)
    execution = run(api, asker(api, ", timeout: 0.5, retry: {max_attempts: 1}"), "x")
    worker = Thread(target=drain)
    worker.start()
    held.wait(5)
    sleep(0.8)
    free.set()
    worker.join()
    asking, turn = steps(api, execution)
    assert asking["errorCode"] == "step_timeout"
    assert (turn["status"], turn["errorCode"], turn["output"]["text"]) == ("success", "", "one")
    assert JournalEntry.objects.get(execution=execution).kind == "model"


# What is reserved. -----------------------------------------------------------------------------------------------
def test_a_call_that_was_never_made_is_not_counted(
    api: APIClient, drain: Drain, models: ModelServer, alice: User
) -> None:
    Provider.objects.update(concurrency=1)
    forget_pool()
    budget(alice)

    served = endpoints_for(model="acme:echo-1", user=alice)

    async def take_the_slot() -> None:
        slot, _ = await pool.acquire(shared(), served, wait=1)
        assert slot is not None
        await shared().close()

    asyncio.run(take_the_slot())
    execution = run(api, asker(api, head="  timeout: 1\n"), "x")
    drain()
    assert result(execution) == ("timeout", "timeout")
    assert models.log == []
    period = BudgetPeriod.objects.get()
    assert (period.reserved_tokens, period.spent_tokens) == (0, 0)


def test_a_call_that_was_made_and_cut_off_stays_reserved(
    api: APIClient, drain: Drain, models: ModelServer, alice: User
) -> None:
    budget(alice)
    models.script(slow(3))
    execution = run(api, asker(api, head="  timeout: 1\n"), "x")
    drain()
    assert result(execution) == ("timeout", "timeout")
    assert BudgetPeriod.objects.get().reserved_tokens > 8_000


def test_an_answer_is_given_again_though_the_budget_leaves_less_room(
    api: APIClient, drain: Drain, models: ModelServer, alice: User
) -> None:
    budget(alice, tokens=1_000)
    models.script(text("said", tokens_in=10, tokens_out=3), text("said anew"))
    flow = start(api, "  - {name: ask, handler: blox.llm, model: 'acme:echo-1', config: {prompt: x, temperature: 0}}\n")
    for _ in range(2):
        execution = run(api, flow, "x")
        drain()
        assert result(execution) == ("success", "said")
    assert len(models.log) == 1 and models.log[0].body["max_tokens"] < 1_000


def test_a_stream_that_is_cut_counts_though_another_answers(
    api: APIClient, drain: Drain, models: ModelServer, alice: User
) -> None:
    budget(alice)
    Provider.objects.create(name="Other", provider="acme", base_url=f"{models.url}/eu", model_names=[], priority=9)
    forget_pool()
    models.script(cut("word " * 50), text("said", tokens_in=10, tokens_out=3))
    execution = run(api, asker(api), "x")
    drain()
    assert result(execution) == ("success", ["said"])
    _, turn = steps(api, execution)
    assert [hop["outcome"] for hop in turn["modelCall"]["path"]] == ["unavailable", "answered"]
    period = BudgetPeriod.objects.get()
    assert period.reserved_tokens == 0
    assert period.spent_tokens > 8_000 + 13
    usage = LlmUsage.objects.get()
    assert (usage.tokens_in, usage.tokens_out) == (10, 3)


def test_a_stream_that_is_cut_stays_reserved_where_nobody_answers(
    api: APIClient, drain: Drain, models: ModelServer, alice: User
) -> None:
    budget(alice)
    models.answer_with(lambda body: cut("word " * 50))
    execution = run(api, asker(api), "x")
    drain()
    assert result(execution) == ("error", "provider_unavailable")
    assert BudgetPeriod.objects.get().reserved_tokens > 8_000


def test_a_budget_with_room_sets_no_bound_to_the_answer(
    api: APIClient, drain: Drain, models: ModelServer, alice: User
) -> None:
    budget(alice)
    reservations: list[int] = []
    models.answer_with(noting(reservations))
    run(api, asker(api), "x")
    drain()
    assert "max_tokens" not in models.log[0].body
    assert 8_192 < reservations[0] < 8_300


def test_no_more_is_reserved_than_the_model_s_context_holds(
    api: APIClient, drain: Drain, models: ModelServer, alice: User
) -> None:
    Provider.objects.create(name="Old", provider="openai", base_url=models.url, model_names=["gpt-4"])
    forget_pool()
    budget(alice)
    reservations: list[int] = []
    models.answer_with(noting(reservations))
    execution = run(api, asker(api, model="openai:gpt-4"), "word " * 1_000)
    drain()
    assert result(execution)[0] == "success"
    assert reservations == [8_192]


# What goes wrong. ------------------------------------------------------------------------------------------------
def test_no_turn_stays_running_whatever_goes_wrong(
    api: APIClient, drain: Drain, models: ModelServer, alice: User, settings: Settings
) -> None:
    budget(alice)
    settings.BLOX_LLM_DEGRADED_AT = settings.BLOX_LLM_CRITICAL_AT = "never"
    Provider.objects.update(concurrency=5)
    forget_pool()
    execution = run(api, asker(api), "x")
    drain()
    asking, turn = steps(api, execution)
    assert (asking["errorCode"], turn["errorCode"]) == ("block_crashed", "block_crashed")
    assert (turn["status"], models.log) == ("error", [])
    assert BudgetPeriod.objects.get().reserved_tokens == 0


def test_a_retry_s_cost_is_of_what_it_asked_itself(api: APIClient, drain: Drain, models: ModelServer) -> None:
    models.script(text("one", tokens_in=10, tokens_out=3), fail(400))
    execution = run(api, asker(api, turns=2), "x")
    drain()
    models.script(text("two", tokens_in=20, tokens_out=4))
    retry = retry_from_failed(api, execution)
    drain()
    assert result(retry) == ("success", ["one", "two"])
    told = api.get(f"/api/v1/flows/{retry.flow_id}/executions/{retry.pk}/explain").json()["cost"]
    assert (told["modelTurns"], told["tokensIn"], told["tokensOut"]) == (1, 20, 4)


@pytest.mark.once
def test_what_was_lost_is_reckoned_at_the_price_of_who_was_asked() -> None:
    caller = Caller(new_id(), "pro", OWN_KEY, new_id())
    call = ModelCall(new_id(), caller, Request("openai:gpt-4", ()), [], tokens=2_000, tokens_out=1_000)
    lost = Hop("openai", "gpt-4", "unavailable", 5, may_be_charged=True)
    answered = Hop("acme", "echo-1", "answered", 5)
    counted = metered(call, Answer("said", model="echo-1", path=(lost, answered)), now=timezone.now())
    assert counted.lost_tokens == 2_000
    assert counted.lost_cost == catalogue.upper_cost(
        "openai", "gpt-4", tokens_in=1_000, max_tokens=1_000, at=timezone.now()
    )
    assert counted.lost_cost > 0
