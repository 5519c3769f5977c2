"""A worker dies during a step with `on_crash: ask`: a person decides what becomes of it."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db.models.functions import Now
from django.test import Client
from django.utils import timezone
from rest_framework.test import APIClient

from executions.engine.leases import claim
from executions.engine.planner import derive_key
from executions.engine.store import Change, write
from executions.engine.sweeper import sweep
from executions.models import Approval, Execution, State, Step, StepStatus
from tests.executions.flows import result, run, start, trace
from tests.witness import Witness

pytestmark = pytest.mark.django_db(transaction=True)
Drain = Callable[[], None]

PAYING = """\
  - name: pay
    handler: blox.http
    config: {method: POST, url: "%s/echo"}
    on_crash: ask
    peers: [done]
  - {name: done, handler: blox.output}
"""


def die_during(execution: Execution, listener: str = "pay") -> None:
    """Leave what a worker leaves that is killed while the first step's effect is under way."""
    [claimed] = claim("dying", limit=10, holding=0)
    step = claimed.steps[0] if claimed.steps else Step(execution=execution, key=derive_key("", "", listener), number=1)
    step.listener, step.block, step.status, step.started_at = listener, "blox.http", StepStatus.RUNNING, timezone.now()
    write([Change(execution.pk, claimed.lease, steps=[step])])
    Execution.objects.filter(pk=execution.pk).update(lease_until=Now() - timedelta(seconds=1))
    sweep()


@pytest.fixture
def crashed(api: APIClient, drain: Drain, world: Witness) -> Execution:
    execution = run(api, start(api, PAYING % world.url))
    die_during(execution)
    drain()
    execution.refresh_from_db()
    assert (execution.state, execution.due_at) == (State.PARKED, None)
    return execution


def post(api: APIClient, execution: Execution, verb: str, body: dict[str, Any]) -> Any:
    return api.post(f"/api/v1/flows/{execution.flow_id}/executions/{execution.pk}/{verb}", body, format="json")


def test_it_waits_for_a_decision_and_does_nothing_meanwhile(
    api: APIClient, crashed: Execution, drain: Drain, world: Witness
) -> None:
    [step] = trace(api, crashed)["pay"]
    assert (step["status"], step["attempt"]) == ("waiting", 1)
    Execution.objects.update(due_at=Now() - timedelta(seconds=1))  # woken by chance: it waits on
    drain()
    crashed.refresh_from_db()
    assert crashed.state == State.PARKED
    assert world.calls == []
    assert Approval.objects.get().kind == "crash"


def test_retry_runs_the_step_again(api: APIClient, crashed: Execution, drain: Drain, world: Witness) -> None:
    assert post(api, crashed, "resolve", {"decision": "retry", "comment": "not booked"}).status_code == 200
    drain()
    assert result(crashed)[0] == "success"
    assert len(world.calls) == 1
    [step] = trace(api, crashed)["pay"]
    assert step["attempt"] == 2
    assert "alice@shop.example decided: retry. not booked" in step["failures"][0]["error"]


def test_fail_ends_it_with_who_said_so(api: APIClient, crashed: Execution, drain: Drain, world: Witness) -> None:
    assert post(api, crashed, "resolve", {"decision": "fail"}).status_code == 200
    drain()
    assert result(crashed) == ("error", "worker_lost")
    assert "alice@shop.example decided: fail." in trace(api, crashed)["pay"][0]["error"]
    assert world.calls == []


def test_succeed_goes_on_with_the_output_that_is_given(
    api: APIClient, crashed: Execution, drain: Drain, world: Witness
) -> None:
    [question] = Approval.objects.with_step()
    body = {"decision": "succeed", "output": {"bookedAs": 12}, "step": str(question.step_id)}  # type: ignore[attr-defined]
    assert post(api, crashed, "resolve", body).json()["output"] == {"bookedAs": 12}
    drain()
    assert result(crashed) == ("success", {"bookedAs": 12})
    assert world.calls == []
    assert "decided: succeed." in trace(api, crashed)["pay"][0]["notes"][0]


def test_a_second_crash_asks_a_second_time(api: APIClient, crashed: Execution, drain: Drain, world: Witness) -> None:
    post(api, crashed, "resolve", {"decision": "retry"})
    Step.objects.update(attempt=2)  # as the worker had written it before the effect
    die_during(crashed)
    drain()
    crashed.refresh_from_db()
    assert crashed.state == State.PARKED
    assert [question.answer for question in Approval.objects.all()] == ["retry", ""]
    assert world.calls == []


def test_strangers_and_late_decisions_are_refused(
    api: APIClient, bobs_api: APIClient, crashed: Execution, drain: Drain
) -> None:
    assert post(bobs_api, crashed, "resolve", {"decision": "fail"}).status_code == 404
    assert post(api, crashed, "resolve", {"decision": "perhaps"}).status_code == 400
    assert post(api, crashed, "resolve", {"decision": "retry", "output": 1}).status_code == 400
    assert post(api, crashed, "approve", {"approved": True}).status_code == 409
    post(api, crashed, "resolve", {"decision": "fail"})
    drain()
    late = post(api, crashed, "resolve", {"decision": "retry"})
    assert (late.status_code, late.json()["code"]) == (409, "approval_answered")


def test_an_operator_decides_in_the_admin(crashed: Execution, drain: Drain, admin_client: Client) -> None:
    question = Approval.objects.get()
    page = admin_client.get(f"/admin/executions/approval/{question.pk}/change/").content.decode()
    assert "run the step again" in page
    path = "/admin/executions/approval/"
    admin_client.post(path, {"action": "approve", "_selected_action": [str(question.pk)]})  # not of that kind
    assert Approval.objects.get().answer == ""
    admin_client.post(path, {"action": "take_as_done", "_selected_action": [str(question.pk)]})
    drain()
    assert result(crashed) == ("success", None)
    question.refresh_from_db()
    assert question.by == "operator@blox.example"
