"""Agents from end to end: a flow that is run through the API, the engine, and a server that plays the model."""

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db.models.functions import Now
from rest_framework.test import APIClient

from executions.engine.leases import claim
from executions.engine.store import Change, write
from executions.engine.sweeper import sweep
from executions.models import Execution, State, Step, StepStatus
from flows.models import AgentMemory
from tests.executions.flows import result, retry_from_failed, run, start, trace, wake
from tests.llm.model_server import ModelServer, calls, fail, last_user, system, text, tool_results
from tests.witness import Witness

pytestmark = pytest.mark.django_db(transaction=True)
Drain = Callable[[], None]

AGENT = """\
  - name: agent
    handler: blox.agent
    agent: true
    model: acme:gpt-5
    prompt: You serve {{{{ vars.shop }}}}.
    cache: "off"
    {options}
    peers: [add, find]
    next: [done]
  - {{name: add, handler: blox.calculate, description: Adds up}}
  - {{name: find, handler: blox.http, config: {{url: "{url}/find?q={{{{ payload.q }}}}"}}}}
  - {{name: done, handler: blox.output, config: {{value: {{said: "{{{{ payload }}}}"}}}}}}
"""


def agent(api: APIClient, url: str = "https://shop.example", options: str = "") -> str:
    api.put("/api/v1/variables/shop", {"value": "Acme"}, format="json")
    return start(api, AGENT.format(url=url, options=options))


def ended(api: APIClient, drain: Drain, flow: str, payload: Any = "How much?") -> Execution:
    execution = run(api, flow, payload)
    drain()
    return execution


def reason(execution: Execution) -> str:
    execution.refresh_from_db()
    return execution.error_message or ""


def test_an_agent_answers_with_what_its_tools_gave(
    api: APIClient, drain: Drain, world: Witness, models: ModelServer
) -> None:
    models.script(calls([("add", {"expression": "2+3"}), ("find", {"q": "shoes"})]), text("It is 5."))
    execution = ended(api, drain, agent(api, world.url))
    assert result(execution) == ("success", {"said": "It is 5."})
    first, second = models.log
    assert (system(first.body), first.prompt) == ("You serve Acme.", "How much?")
    tools = {tool["function"]["name"]: tool["function"] for tool in first.body["tools"]}
    assert tools["add"]["description"] == "Adds up"
    assert tools["add"]["parameters"]["required"] == ["expression"]
    assert tools["find"]["parameters"]["properties"] == {"q": {}}
    added, found = tool_results(second.body)
    assert added == "5"
    assert json.loads(found)["status"] == 200
    steps = trace(api, execution)
    assert [step["fromListener"] for step in steps["add"] + steps["find"] + steps["done"]] == ["agent"] * 3


def test_tools_of_a_turn_run_at_once_and_their_results_keep_the_order(
    api: APIClient, drain: Drain, models: ModelServer
) -> None:
    flow = start(
        api,
        """\
  - {name: agent, handler: blox.agent, model: "acme:gpt-5", peers: [wait]}
  - {name: wait, handler: blox.delay, config: {seconds: "{{ payload.s }}"}}
""",
    )
    models.script(calls([("wait", {"s": 1.2}), ("wait", {"s": 0.6}), ("wait", {"s": 0.9})]), text("ok"))
    execution = ended(api, drain, flow)
    assert result(execution) == ("success", "ok")
    assert tool_results(models.log[1].body) == ['{"s":1.2}', '{"s":0.6}', '{"s":0.9}']
    waits = Step.objects.filter(execution=execution, listener="wait")
    assert max(step.started_at for step in waits) < min(step.completed_at for step in waits if step.completed_at)


def test_a_tools_failure_goes_back_to_the_model(api: APIClient, drain: Drain, models: ModelServer) -> None:
    models.script(calls([("add", {"expression": "1/0"}), ("add", {"sum": 1}), ("fly", {})]), text("Sorry"))
    execution = ended(api, drain, agent(api))
    assert result(execution) == ("success", {"said": "Sorry"})
    failed, unfit, unknown = tool_results(models.log[1].body)
    assert "add: 1/0 divides by zero." in failed
    assert "'expression' is a required property" in unfit
    assert "There is no tool 'fly'" in unknown


def test_a_retry_of_what_failed_goes_on_with_the_same_conversation(
    api: APIClient, drain: Drain, models: ModelServer
) -> None:
    models.script(calls([("add", {"expression": "1/0"}), ("add", {"expression": "1+1"})]))
    models.script(fail(400, message="no"))
    execution = ended(api, drain, agent(api))
    assert result(execution)[0] == "error"
    models.script(text("2"))
    again = retry_from_failed(api, execution)
    drain()
    assert result(again) == ("success", {"said": "2"})
    assert len(models.log) == 3
    assert models.log[2].body == models.log[1].body
    assert trace(api, again)["add"][0]["output"] == 2
    assert Step.objects.filter(execution=again, listener="add").count() == 1


PAYING = """\
  - {{name: agent, handler: blox.agent, model: "acme:gpt-5", retry: {{max_attempts: 2}}, peers: [pay]}}
  - {{name: pay, handler: blox.http, config: {{method: POST, url: "{url}/status/500"}}}}
"""


def with_a_failed_call(api: APIClient, drain: Drain, url: str, models: ModelServer) -> Execution:
    """An agent whose tool has failed, and whose first attempt has failed with its second turn."""
    models.answer_with(lambda body: fail(503) if tool_results(body) else calls([("pay", {})]))
    execution = ended(api, drain, start(api, PAYING.format(url=url)))
    models.answer_with(lambda body: text("Not paid"))
    return execution


def test_a_later_attempt_gives_the_model_the_failures_that_it_saw(
    api: APIClient, drain: Drain, world: Witness, models: ModelServer
) -> None:
    execution = with_a_failed_call(api, drain, world.url, models)
    wake(execution)
    drain()
    assert result(execution) == ("success", "Not paid")
    assert Step.objects.get(execution=execution, block="blox.agent").attempt == 2
    turns = [request.body["messages"] for request in models.log[1:]]
    assert len(turns) > 1
    assert all(turn == turns[0] for turn in turns)
    assert len(world.calls) == 1


def test_a_call_that_failed_is_not_made_again_after_a_crash(
    api: APIClient, drain: Drain, world: Witness, models: ModelServer
) -> None:
    execution = with_a_failed_call(api, drain, world.url, models)
    die_after_the_first_turn(execution)
    drain()
    assert result(execution) == ("success", "Not paid")
    assert len(world.calls) == 1
    assert "answered 500" in tool_results(models.log[-1].body)[0]


def die_after_the_first_turn(execution: Execution) -> None:
    """Leave what a worker leaves that is killed when the call has failed, and its agent has not heard of it."""
    wake(execution)
    [claimed] = claim("dying", limit=10, holding=0)
    step = next(step for step in claimed.steps if step.block == "blox.agent")
    step.status, step.attempt, step.failures = StepStatus.RUNNING, 1, []
    write([Change(execution.pk, claimed.lease, steps=[step])])
    execution.journal.filter(kind="failed_call").delete()
    execution.journal.filter(kind="sleep").delete()
    Execution.objects.filter(pk=execution.pk).update(lease_until=Now() - timedelta(seconds=1))
    sweep()


# A person. -------------------------------------------------------------------------------------------------------
def waiting(api: APIClient, drain: Drain, models: ModelServer) -> Execution:
    models.script(calls([("add", {"expression": "2+2"})]))
    execution = ended(api, drain, agent(api, options="config: {approve: [add]}"))
    execution.refresh_from_db()
    assert (execution.state, execution.lease_owner) == (State.PARKED, "")
    return execution


def answer(api: APIClient, execution: Execution, **body: Any) -> None:
    url = f"/api/v1/flows/{execution.flow_id}/executions/{execution.pk}/approve"
    assert api.post(url, body, format="json").status_code == 200


def test_a_call_that_needs_a_yes_parks_and_goes_on(api: APIClient, drain: Drain, models: ModelServer) -> None:
    execution = waiting(api, drain, models)
    url = f"/api/v1/flows/{execution.flow_id}/executions/{execution.pk}/approvals"
    [question] = api.get(url).json()["items"]
    assert question["message"] == 'The agent agent wants to call add with {"expression": "2+2"}'
    answer(api, execution, approved=True)
    models.script(text("4"))
    drain()
    assert result(execution) == ("success", {"said": "4"})
    assert tool_results(models.log[1].body) == ["4"]
    assert len(models.log) == 2


def test_a_no_goes_back_to_the_model(api: APIClient, drain: Drain, models: ModelServer) -> None:
    execution = waiting(api, drain, models)
    answer(api, execution, approved=False, comment="too dear")
    models.script(text("Then not."))
    drain()
    assert result(execution) == ("success", {"said": "Then not."})
    assert "A person refused this call: too dear" in tool_results(models.log[1].body)[0]
    assert not Step.objects.filter(execution=execution, listener="add").exists()


def test_a_retry_of_what_failed_asks_no_person_again(api: APIClient, drain: Drain, models: ModelServer) -> None:
    execution = waiting(api, drain, models)
    answer(api, execution, approved=True)
    models.script(fail(400))
    drain()
    assert result(execution)[0] == "error"
    again = retry_from_failed(api, execution)
    models.script(text("4"))
    drain()
    assert result(again) == ("success", {"said": "4"})


# Limits. ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("options", "code"),
    [
        ("config: {max_turns: 2}", "too_many_turns"),
        ("config: {max_tokens: 150}", "token_limit"),
        ("config: {max_cost: 5}", "cost_unknown"),
    ],
)
def test_limits_end_the_agent_and_the_execution(
    api: APIClient, drain: Drain, models: ModelServer, options: str, code: str
) -> None:
    models.answer_with(
        lambda body: calls([("add", {"expression": f"1+{len(tool_results(body))}"})], tokens_in=50, tokens_out=25)
    )
    execution = ended(api, drain, agent(api, options=options))
    assert result(execution) == ("error", code)
    assert len(models.log) == (1 if code == "cost_unknown" else 2)


def test_an_agent_that_repeats_itself_is_ended(api: APIClient, drain: Drain, models: ModelServer) -> None:
    models.answer_with(lambda body: calls([("add", {"expression": "1+1"})]))
    execution = ended(api, drain, agent(api))
    assert result(execution) == ("error", "repeated_call")
    assert "add with the same arguments 5 times" in reason(execution)
    assert len(models.log) == 5
    assert "This very call was made 4 times" in tool_results(models.log[4].body)[3]


def test_an_answer_by_schema_is_repaired_once(api: APIClient, drain: Drain, models: ModelServer) -> None:
    options = "config: {schema: {type: object, properties: {sum: {type: number}}, required: [sum]}}"
    models.script(text('{"sum": "two"}'), text('{"sum": 2}'))
    execution = ended(api, drain, agent(api, options=options))
    assert result(execution) == ("success", {"said": {"sum": 2}})
    assert "At $.sum: 'two' is not of type 'number'" in models.log[1].prompt


# Memory, and agents of agents. -----------------------------------------------------------------------------------
def test_an_agent_remembers_earlier_executions_by_key(api: APIClient, drain: Drain, models: ModelServer) -> None:
    flow = agent(api, options='memory: {kind: flow, key: "{{ payload.who }}"}')
    models.script(text("Hello Ann"), text("Hello Bob"), text("You are Ann"))
    for who in ("ann", "bob", "ann"):
        assert result(ended(api, drain, flow, {"who": who}))[0] == "success"
    said = [(each["role"], each["content"]) for each in models.log[2].body["messages"] if each["role"] != "system"]
    assert said == [("user", '{"who":"ann"}'), ("assistant", "Hello Ann"), ("user", '{"who":"ann"}')]
    assert sorted(AgentMemory.objects.values_list("listener", "key")) == [("agent", "ann"), ("agent", "bob")]


def test_without_memory_it_begins_anew(api: APIClient, drain: Drain, models: ModelServer) -> None:
    flow = agent(api)
    ended(api, drain, flow, "one")
    ended(api, drain, flow, "two")
    assert [each["content"] for each in models.log[1].body["messages"] if each["role"] == "user"] == ["two"]
    assert not AgentMemory.objects.exists()


def test_an_agent_can_be_a_tool_of_another(api: APIClient, drain: Drain, models: ModelServer) -> None:
    flow = start(
        api,
        """\
  - {name: chief, handler: blox.agent, model: "acme:gpt-5", prompt: Lead, peers: [helper]}
  - {name: helper, handler: blox.agent, description: Counts, model: "acme:gpt-5", prompt: Count, peers: [add]}
  - {name: add, handler: blox.calculate}
""",
    )

    def play(body: dict[str, Any]) -> Any:
        results = tool_results(body)
        if results:
            return text(f"{system(body)}: {results[0]}")
        tool, asked = ("helper", {"prompt": "2+2?"}) if system(body) == "Lead" else ("add", {"expression": "2+2"})
        return calls([(tool, asked)])

    models.answer_with(play)
    execution = ended(api, drain, flow)
    assert result(execution) == ("success", "Lead: Count: 4")
    assert [(system(each.body), last_user(each.body)) for each in models.log] == [
        ("Lead", "How much?"),
        ("Count", "2+2?"),
        ("Count", "2+2?"),
        ("Lead", "How much?"),
    ]


# One question. ---------------------------------------------------------------------------------------------------
def test_a_question_is_answered_by_schema(api: APIClient, drain: Drain, models: ModelServer) -> None:
    flow = start(
        api,
        """\
  - name: sort
    handler: blox.llm
    config:
      model: acme:gpt-5
      system: You sort mail.
      prompt: "{{ payload.subject }}"
      schema: {type: object, properties: {urgent: {type: boolean}}, required: [urgent]}
""",
    )
    models.script(text("Urgent!"), text('{"urgent": true}'))
    assert result(ended(api, drain, flow, {"subject": "Fire"})) == ("success", {"urgent": True})
    assert (system(models.log[0].body), models.log[0].prompt) == ("You sort mail.", "Fire")
    assert "It is no JSON" in models.log[1].prompt


# What is found before it runs. -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("model", "part"), [("acmee:gpt-5", "acme"), ("openai:gpt-5", "openai"), ("no-such-model", "no-such-model")]
)
def test_a_model_that_nobody_serves_keeps_a_flow_from_starting(
    api: APIClient, models: ModelServer, model: str, part: str
) -> None:
    yaml = f"organism: {{name: x}}\nlisteners:\n  - {{name: a, handler: blox.llm, model: '{model}'}}\n"
    [error] = api.post("/api/v1/flows/validate", {"organismYaml": yaml}, format="json").json()["errors"]
    assert (error["path"], error["line"]) == ("listeners[0].model", 3)
    assert part in error["message"]
    flow = api.post("/api/v1/flows", {"name": "x", "organismYaml": yaml}, format="json").json()
    refused = api.post(f"/api/v1/flows/{flow['id']}/start")
    assert (refused.status_code, refused.json()["details"]["errors"]) == (400, [error])


# A crash that is not repeated. -----------------------------------------------------------------------------------
@pytest.mark.parametrize("what", ["turn", "call"])
def test_what_a_crash_leaves_under_way_ends_with_the_agent(
    api: APIClient, drain: Drain, models: ModelServer, what: str
) -> None:
    called = start(api, "  - {name: wait, handler: blox.delay, config: {seconds: 600}}\n")
    flow = start(
        api,
        f"""\
  - {{name: agent, handler: blox.agent, model: "acme:gpt-5", on_crash: fail, on_error: sorry, peers: [deep]}}
  - {{name: deep, handler: blox.call_flow, config: {{flow: "{called}"}}}}
  - {{name: sorry, handler: blox.output}}
""",
    )
    models.script(calls([("deep", {"input": None})]))
    execution = ended(api, drain, flow)
    die_in_a(what, execution)
    drain()
    assert result(execution)[0] == "success"
    left = Step.objects.filter(execution=execution).unfinished()
    assert list(left.values_list("listener", "block", "status")) == []
    child = Execution.objects.get(parent_id=execution.pk)
    assert (child.status, child.error_code) == ("error", "canceled")


def die_in_a(what: str, execution: Execution) -> None:
    """Leave what a worker leaves that is killed while the agent's tool is under way, or its turn as well."""
    execution.refresh_from_db()
    assert execution.state == State.PARKED
    Execution.objects.filter(pk=execution.pk).update(due_at=Now())
    [claimed] = [each for each in claim("dying", limit=10, holding=0) if each.pk == execution.pk]
    blocks = {"turn": ("blox.agent", "blox.model"), "call": ("blox.agent",)}[what]
    steps = [step for step in claimed.steps if step.block in blocks]
    for step in steps:
        step.status, step.completed_at = StepStatus.RUNNING, None
    write([Change(execution.pk, claimed.lease, steps=steps)])
    Execution.objects.filter(pk=execution.pk).update(lease_until=Now() - timedelta(seconds=1))
    sweep()
