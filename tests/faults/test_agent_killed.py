"""A worker that is killed in the middle of an agent's turn: the provider's log is the witness of what was asked twice."""

import json
from collections.abc import Iterator

import pytest
from pytest_django import Settings
from rest_framework.test import APIClient

from billing.models import LlmUsage
from executions.engine.sweeper import sweep
from executions.models import Execution, State
from llm.models import Provider
from llm.services import forget_pool
from tests.executions.flows import result, run, start, trace
from tests.faults.processes import worker
from tests.llm.model_server import ModelServer, calls, slow, text
from tests.waiting import wait_until
from tests.witness import Witness

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.faults]

LISTENERS = """\
  - name: ask
    handler: blox.agent
    agent: true
    model: acme:echo-1
    prompt: Find it.
    peers: [find]
    next: [done]
  - name: find
    description: Finds something.
    input: {{type: object, properties: {{q: {{type: string}}}}, required: [q]}}
    handler: blox.http
    config: {{method: POST, url: "{url}/echo"}}
  - {{name: done, handler: blox.output}}
"""


@pytest.fixture
def models(world: Witness, settings: Settings) -> Iterator[ModelServer]:
    with ModelServer() as server:
        settings.BLOX_HTTP_ALLOW = [*settings.BLOX_HTTP_ALLOW, server.host]
        Provider.objects.create(name="Acme", provider="acme", base_url=server.url)
        forget_pool()
        yield server
    forget_pool()


def all_ended() -> bool:
    sweep()
    return not Execution.objects.exclude(state=State.ENDED).exists()


def test_a_worker_killed_in_an_agents_third_turn_costs_no_finished_turn_and_no_tool_call_twice(
    api: APIClient, world: Witness, models: ModelServer
) -> None:
    models.script(calls([("find", {"q": "one"})]), calls([("find", {"q": "two"})]), slow(60), text("found"))
    flow = start(api, LISTENERS.format(url=world.url))
    with worker() as doomed:
        execution = run(api, flow, "where?")
        wait_until(lambda: len(models.log) == 3)
        doomed.kill()
    with worker():
        wait_until(all_ended, seconds=60)
    assert result(execution) == ("success", "found")
    assert len(world.paths()) == 2

    asked = [json.dumps(request.body, sort_keys=True) for request in models.log]
    finished = [body for body, request in zip(asked, models.log, strict=True) if request.status == 200]
    assert len(asked) == 4 and asked[2] == asked[3]  # the third turn, and the third turn again
    assert len(finished) == len(set(finished)) == 3
    assert sum(LlmUsage.objects.values_list("calls", flat=True)) == 3

    turns = [step for step in trace(api, execution)["ask"] if step["block"] == "blox.model"]
    assert [(turn["status"], turn["attempt"]) for turn in turns] == [("success", 1), ("success", 1), ("success", 2)]
    assert turns[2]["failures"][0]["code"] == "worker_lost"
