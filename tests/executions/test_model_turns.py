"""Turns of models: each a step of its own, journalled, so that what was answered is never asked again."""

from collections.abc import Callable
from threading import Thread
from typing import Any

import pytest
from rest_framework.test import APIClient

from billing.models import LlmUsage
from executions.models import Execution, JournalEntry, State, Step
from llm.path.retries import ROUNDS
from tests.executions.flows import result, retry_from_failed, run, start, trace, wake
from tests.llm.model_server import ModelServer, fail, slow, text
from tests.waiting import wait_until

pytestmark = pytest.mark.django_db(transaction=True)
Drain = Callable[[], None]
FAILS = [fail(500)] * ROUNDS


def asker(api: APIClient, more: str = "", after: str = "", **config: Any) -> str:
    """A flow that asks the model; `more` are keys of the listener, `after` further listeners."""
    settings = ", ".join(f"{name}: {value}" for name, value in config.items())
    return start(api, f"  - {{name: ask, handler: acme.asker, config: {{{settings}}}{more}}}\n{after}")


def turns(api: APIClient, execution: Execution) -> list[dict[str, Any]]:
    return [step for step in trace(api, execution)["ask"] if step["block"] == "blox.model"]


def asking(api: APIClient, execution: Execution) -> dict[str, Any]:
    [step] = [step for step in trace(api, execution)["ask"] if step["block"] == "acme.asker"]
    return step


def prompts(models: ModelServer) -> list[str]:
    return [request.prompt for request in models.log]


def test_each_turn_is_a_step_below_the_one_that_asked(api: APIClient, drain: Drain, models: ModelServer) -> None:
    models.script(text("one", tokens_in=10, tokens_out=3), text("two", tokens_in=20, tokens_out=4))
    execution = run(api, asker(api, turns=2, system="Be brief."), "hello")
    drain()
    assert result(execution) == ("success", ["one", "two"])
    first, second = turns(api, execution)
    step = asking(api, execution)
    key = Step.objects.get(pk=step["id"]).key
    assert [turn["scope"] for turn in (first, second)] == [f"{key}:1", f"{key}:2"]
    assert [(turn["tokensIn"], turn["tokensOut"]) for turn in (first, second, step)] == [(10, 3), (20, 4), (0, 0)]
    assert (first["status"], first["output"]) == ("success", {"text": "one", "calls": []})
    call = first["modelCall"]
    assert {name: call[name] for name in ("model", "provider", "ownKey", "cost", "cached", "stop")} == {
        "model": "echo-1",
        "provider": "acme",
        "ownKey": False,
        "cost": None,  # which is not zero
        "cached": "",
        "stop": "stop",
    }
    assert [(hop["provider"], hop["model"], hop["outcome"]) for hop in call["path"]] == [("acme", "echo-1", "answered")]
    assert call["latencyMs"] >= 0 and call["path"][0]["ms"] >= 0
    assert step["modelCall"] is None


def test_a_turn_records_what_is_new_in_it(api: APIClient, drain: Drain, models: ModelServer) -> None:
    execution = run(api, asker(api, turns=2, system="Be brief."), "hello")
    drain()
    first, second = turns(api, execution)
    assert first["input"] == {
        "model": "acme:echo-1",
        "system": "Be brief.",
        "messages": [{"role": "user", "text": "1: hello"}],
    }
    assert second["input"] == {
        "model": "acme:echo-1",
        "earlierMessages": 2,
        "messages": [{"role": "user", "text": "2: hello"}],
    }


def test_a_failed_turn_is_asked_again_and_an_answered_one_is_not(
    api: APIClient, drain: Drain, models: ModelServer
) -> None:
    models.script(text("one"), *FAILS, text("two"))
    execution = run(api, asker(api, ", retry: {max_attempts: 2}", turns=2), "x")
    drain()
    wake(execution)
    drain()
    assert result(execution) == ("success", ["one", "two"])
    assert prompts(models) == ["1: x", *["2: x"] * (ROUNDS + 1)]
    assert [(turn["status"], turn["attempt"], turn["error"]) for turn in turns(api, execution)] == [
        ("success", 1, None),
        ("success", 2, None),
    ]
    assert asking(api, execution)["attempt"] == 2
    assert sum(LlmUsage.objects.values_list("calls", flat=True)) == 2


def test_a_turn_that_fails_for_good_fails_its_step_with_the_same_code(
    api: APIClient, drain: Drain, models: ModelServer
) -> None:
    models.script(text("one"), *FAILS)
    execution = run(api, asker(api, ", retry: {max_attempts: 1}", turns=2), "x")
    drain()
    [first, failed], step = turns(api, execution), asking(api, execution)
    assert [first["status"], failed["status"], step["status"]] == ["success", "error", "error"]
    assert (failed["errorCode"], failed["error"]) == (step["errorCode"], step["error"])
    assert result(execution) == ("error", "provider_unavailable")
    assert [hop["outcome"] for hop in failed["modelCall"]["path"]] == ["unavailable"] * ROUNDS
    assert failed["output"] is None
    told = api.get(f"/api/v1/flows/{execution.flow_id}/executions/{execution.pk}/explain").json()
    assert len(told["failures"]) == 1  # not the turn's beside it
    assert (told["cost"]["modelTurns"], told["cost"]["modelCost"], told["cost"]["unpricedTurns"]) == (1, "0", 1)


def test_a_retry_from_the_failed_step_keeps_the_answers(api: APIClient, drain: Drain, models: ModelServer) -> None:
    models.script(text("one"), text("two"), fail(400))
    execution = run(api, asker(api, ", retry: {max_attempts: 1}", turns=3), "x")
    drain()
    assert result(execution)[0] == "error"
    models.script(text("three"))
    retry = retry_from_failed(api, execution)
    drain()
    assert result(retry) == ("success", ["one", "two", "three"])
    assert prompts(models) == ["1: x", "2: x", "3: x", "3: x"]
    assert [turn["status"] for turn in turns(api, retry)] == ["success"] * 3


def test_a_provider_that_asks_for_a_long_wait_holds_no_worker(
    api: APIClient, drain: Drain, models: ModelServer
) -> None:
    models.script(text("one"), fail(429, {"Retry-After": "600"}), text("two"))
    execution = run(api, asker(api, ", retry: {max_attempts: 2}", turns=2), "x")
    drain()
    execution.refresh_from_db()
    assert execution.state == State.PARKED
    assert execution.due_at is not None and (execution.due_at - execution.started_at).total_seconds() > 300
    assert prompts(models) == ["1: x", "2: x"]
    assert asking(api, execution)["failures"][0]["code"] == "provider_rate_limited"


def test_tools_between_turns_and_a_park_in_a_tool_cost_no_answer_twice(
    api: APIClient, drain: Drain, models: ModelServer
) -> None:
    wait = "  - {name: tool, handler: blox.delay, config: {seconds: 600}}\n"
    execution = run(api, asker(api, ", peers: [tool]", wait, turns=2, tool="tool"), "x")
    drain()
    execution.refresh_from_db()
    assert execution.state == State.PARKED
    wake(execution)
    drain()
    assert result(execution) == ("success", ["1: x", "2: 1: x"])
    assert prompts(models) == ["1: x", "2: 1: x"]


def test_a_turn_under_way_is_awaited_and_recorded_when_its_execution_is_canceled(
    api: APIClient, drain: Drain, models: ModelServer
) -> None:
    models.script(slow(1, text("one")))
    execution = run(api, asker(api, turns=2), "x")
    worker = Thread(target=drain)
    worker.start()
    wait_until(lambda: len(models.log) == 1)
    api.post(f"/api/v1/flows/{execution.flow_id}/executions/{execution.pk}/cancel")
    worker.join()
    assert result(execution) == ("error", "canceled")
    assert prompts(models) == ["1: x"]
    [turn] = turns(api, execution)
    assert (turn["status"], turn["output"]["text"]) == ("success", "one")
    assert asking(api, execution)["errorCode"] == "canceled"
    assert JournalEntry.objects.get(execution=execution).kind == "model"


def test_a_turn_ends_with_the_time_limit_of_its_listener(api: APIClient, drain: Drain, models: ModelServer) -> None:
    models.script(slow(5))
    execution = run(api, asker(api, ", timeout: 0.3, retry: {max_attempts: 1}"), "x")
    drain()
    [turn] = turns(api, execution)
    assert turn["status"] == "error"
    assert turn["durationMs"] < 3000
    assert result(execution)[0] == "error"


def test_a_turn_ends_with_its_execution_when_that_is_out_of_time(
    api: APIClient, drain: Drain, models: ModelServer
) -> None:
    models.script(slow(5))
    flow = start(api, "  - {name: ask, handler: acme.asker, config: {turns: 1}}\n", head="  timeout: 1\n")
    execution = run(api, flow, "x")
    drain()
    assert result(execution) == ("timeout", "timeout")
    [turn] = turns(api, execution)
    assert (turn["status"], turn["errorCode"]) == ("error", "timeout")


def test_a_handed_back_execution_goes_on_after_its_last_turn(
    api: APIClient, models: ModelServer, transactional_db: None
) -> None:
    from executions.engine.worker import drain_due_executions

    models.script(slow(1, text("one")), text("two"))
    execution = run(api, asker(api, turns=2), "x")
    drain_due_executions(seconds=0.3)
    execution.refresh_from_db()
    assert (execution.state, execution.crashes) == (State.QUEUED, 0)
    assert [turn["status"] for turn in turns(api, execution)] == ["success"]
    drain_due_executions(seconds=30)
    assert result(execution) == ("success", ["one", "two"])
    assert prompts(models) == ["1: x", "2: x"]


def test_an_unknown_provider_is_an_error_that_says_what_there_is(
    api: APIClient, drain: Drain, models: ModelServer
) -> None:
    execution = run(api, asker(api, model="acmi:echo-1"), "x")
    drain()
    assert result(execution) == ("error", "no_provider")
    assert "acme" in (asking(api, execution)["error"] or "")
    assert [turn["status"] for turn in turns(api, execution)] == ["error"]
    assert models.log == []


def test_turns_are_not_counted_as_messages(api: APIClient, drain: Drain, models: ModelServer) -> None:
    flow = start(api, "  - {name: ask, handler: acme.asker, config: {turns: 4}}\n", head="  max_messages: 2\n")
    execution = run(api, flow, "x")
    drain()
    assert result(execution)[0] == "success"
