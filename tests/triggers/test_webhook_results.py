"""A webhook with `respond: result` answers with what its flow gives."""

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from accounts.models import User
from executions.models import Execution
from flows.services import create_flow, start_flow
from tests.triggers.conftest import path_of
from triggers.models import Trigger
from triggers.services import create_trigger

pytestmark = pytest.mark.django_db(transaction=True)

RESPOND = """\
organism: {{name: answer}}
listeners:
  - name: say
    handler: blox.respond
    config: {config}
    peers: [after]
  - name: after
    handler: blox.{after}
    config: {after_config}
"""


@pytest.fixture
def answering(alice: User) -> Callable[..., Trigger]:
    def make(config: str, *, after: str = "output", after_config: str = "{}", wait: float = 10) -> Trigger:
        yaml = RESPOND.format(config=config, after=after, after_config=after_config)
        flow = start_flow(flow=create_flow(owner=alice, name="Answers", organism_yaml=yaml), by=alice)
        options = {"respond": "result", "wait": wait}
        return create_trigger(flow=flow, type="webhook", name="Ask", config=options, now=timezone.now())

    return make


def ask(webhook: Trigger, body: str = '{"n": 1}', **headers: str) -> Any:
    return Client().post(path_of(webhook), body, content_type="application/json", headers=headers)


def test_the_output_is_the_answer(worker: None, make_trigger: Callable[..., Trigger]) -> None:
    answer = ask(make_trigger("webhook", respond="result"), '{"userID": [1.5, null]}')
    assert (answer.status_code, answer["Content-Type"]) == (200, "application/json")
    assert answer.json() == {"userID": [1.5, None]}


def test_a_respond_block_says_status_headers_and_body(worker: None, answering: Callable[..., Trigger]) -> None:
    answer = ask(answering('{status: 201, headers: {X-Order: "7"}, body: {id: 7}}'))
    assert (answer.status_code, answer["X-Order"], answer.json()) == (201, "7", {"id": 7})


def test_text_goes_out_as_text(worker: None, answering: Callable[..., Trigger]) -> None:
    answer = ask(answering('{headers: {Content-Type: text/html}, body: "<b>hi</b>"}'))
    assert (answer["Content-Type"], answer.content) == ("text/html", b"<b>hi</b>")


def test_a_script_in_an_answer_does_not_run_as_this_sites(worker: None, answering: Callable[..., Trigger]) -> None:
    answer = ask(answering('{headers: {Content-Type: text/html}, body: "<script>alert(1)</script>"}'))
    assert answer.status_code == 200
    assert answer["Content-Security-Policy"] == "sandbox"
    assert answer["X-Content-Type-Options"] == "nosniff"


def test_a_failure_names_the_execution_and_not_the_cause(worker: None, answering: Callable[..., Trigger]) -> None:
    yaml = "organism: {name: bad}\nlisteners:\n  - {name: stop, handler: blox.fail, config: {message: password is hunter2}}\n"
    owner = User.objects.get()
    flow = start_flow(flow=create_flow(owner=owner, name="Bad", organism_yaml=yaml), by=owner)
    webhook = create_trigger(flow=flow, type="webhook", name="Ask", config={"respond": "result"}, now=timezone.now())
    answer = ask(webhook)
    assert (answer.status_code, answer.json()["code"]) == (502, "execution_failed")
    assert answer.json()["details"] == {"executionId": str(Execution.objects.get().pk), "status": "error"}
    assert b"hunter2" not in answer.content


def test_what_was_said_before_a_failure_is_still_the_answer(worker: None, answering: Callable[..., Trigger]) -> None:
    answer = ask(answering("{status: 202, body: {got: it}}", after="fail", after_config="{message: later}"))
    assert (answer.status_code, answer.json()) == (202, {"got": "it"})


def test_a_flow_that_takes_longer_is_answered_with_202(answering: Callable[..., Trigger]) -> None:
    answer = ask(answering("{body: late}", wait=0.1))  # nobody works
    assert answer.status_code == 202
    assert answer.json()["status"] == "accepted"
    assert answer.json()["executionId"] == str(Execution.objects.get().pk)


def test_a_repeat_is_answered_with_the_first_result(worker: None, make_trigger: Callable[..., Trigger]) -> None:
    webhook = make_trigger("webhook", respond="result")
    first, again = (ask(webhook, **{"Idempotency-Key": "k"}) for _ in range(2))
    assert (first.json(), again.json(), again["Idempotent-Replayed"]) == ({"n": 1}, {"n": 1}, "true")
    assert Execution.objects.count() == 1


def test_without_a_free_slot_nobody_waits(make_trigger: Callable[..., Trigger], settings: Any) -> None:
    settings.BLOX_STREAM_LIMIT = 0
    answer = ask(make_trigger("webhook", respond="result", wait=60))
    assert answer.status_code == 202
    assert "Too many" in answer.json()["message"]
