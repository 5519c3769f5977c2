"""A worker that is killed takes nothing with it: what had finished stays finished, what had not goes on elsewhere."""

from collections.abc import Callable

import pytest
from rest_framework.test import APIClient

from executions.dispatch import ring_bell
from executions.engine.sweeper import sweep
from executions.models import Approval, Execution, State
from executions.notices import work_off_failures
from tests.executions.flows import result, run, start, trace
from tests.faults.processes import worker
from tests.waiting import wait_until
from tests.witness import Witness

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.faults]

LISTENERS = """\
  - {{name: one, handler: blox.http, config: {{method: POST, url: "{url}/echo?one"}}, peers: [two]}}
  - {{name: two, handler: blox.http, config: {{url: "{url}/slow?s=2"}}, peers: [three]}}
  - {{name: three, handler: blox.http, config: {{method: POST, url: "{url}/echo?three"}}}}
"""


def sweep_until(true: Callable[[], bool]) -> None:
    def look() -> bool:
        sweep()
        return true()

    wait_until(look, seconds=60)


def all_ended() -> bool:
    return not Execution.objects.exclude(state=State.ENDED).exists()


def test_sigterm_lets_steps_end_and_hands_the_rest_back(api: APIClient, world: Witness) -> None:
    flow = start(api, LISTENERS.format(url=world.url))
    with worker() as leaving:
        run(api, flow)
        wait_until(lambda: any("slow" in path for path in world.paths()))
        assert leaving.terminate(seconds=20) == 0, leaving.output()
    execution = Execution.objects.get()
    assert (execution.state, execution.crashes, execution.claim_alone) == (State.QUEUED, 0, False), leaving.output()
    assert [step.status for step in execution.steps.all()] == ["success", "success"]
    with worker():
        ring_bell()
        sweep_until(all_ended)
    assert max(world.by_key().values()) == 1


def test_a_killed_workers_step_waits_for_a_decision_where_its_listener_says_ask(api: APIClient, world: Witness) -> None:
    pay = '  - {{name: pay, handler: blox.http, config: {{method: POST, url: "{url}/slow?s=2"}}, on_crash: ask}}\n'
    flow = start(api, pay.format(url=world.url))
    with worker() as doomed:
        execution = run(api, flow)
        wait_until(lambda: any("slow" in path for path in world.paths()))
        doomed.kill()
    with worker():
        sweep_until(lambda: Approval.objects.open().exists() and not Execution.objects.exclude(state="parked").exists())
        url = f"/api/v1/flows/{flow}/executions/{execution.pk}/resolve"
        answer = api.post(url, {"decision": "succeed", "output": {"paid": True}}, format="json")
        assert answer.status_code == 200, answer.json()
        sweep_until(all_ended)
    assert result(execution) == ("success", {"paid": True})
    assert len(world.paths()) == 1


def test_what_a_killed_worker_had_called_ends_with_its_canceled_caller(api: APIClient, world: Witness) -> None:
    called = start(api, "  - {name: wait, handler: blox.delay, config: {seconds: 600}}\n")
    calls = """\
  - {{name: split, handler: blox.transform, config: {{value: 1}}, peers: [call, slow]}}
  - {{name: call, handler: blox.call_flow, config: {{flow: {flow}}}}}
  - {{name: slow, handler: blox.http, config: {{url: "{url}/slow?s=30"}}}}
"""
    flow = start(api, calls.format(flow=called, url=world.url))

    def is_under_way(execution: Execution) -> bool:
        call = trace(api, execution).get("call")
        return call is not None and call[0]["status"] == "waiting" and len(world.paths()) == 1

    with worker() as doomed:
        execution = run(api, flow)
        wait_until(lambda: is_under_way(execution))
        doomed.kill()
    answer = api.post(f"/api/v1/flows/{flow}/executions/{execution.pk}/cancel")
    assert answer.status_code == 200, answer.json()
    assert answer.json()["status"] == "running"  # its worker would have to see to it

    def all_seen_to() -> bool:
        work_off_failures()  # a clock's work, of which there is none here
        return all_ended()

    sweep_until(all_seen_to)
    assert result(execution) == result(Execution.objects.get(parent_id=execution.pk)) == ("error", "canceled")
