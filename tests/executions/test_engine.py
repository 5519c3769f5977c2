"""What running a flow means, seen through the API: deliveries, retries, waits, time limits, ends."""

import json
from collections.abc import Callable
from datetime import timedelta
from threading import Thread
from typing import Any

import pytest
from django.utils import timezone
from rest_framework.test import APIClient

from executions.models import Execution, State
from flows.models import FlowVersion
from flows.services import load_organism
from tests.executions.flows import run, start, trace
from tests.waiting import wait_until
from tests.witness import Witness

pytestmark = pytest.mark.django_db(transaction=True)
Drain = Callable[[], None]


def outcome(execution: Execution) -> tuple[str, Any]:
    """(status, output) of an execution that has ended."""
    execution.refresh_from_db()
    assert execution.state == State.ENDED, (execution.state, execution.due_at)
    return execution.status, json.loads(execution.payload.output or "null")


def until_due(execution: Execution) -> timedelta:
    assert execution.due_at is not None
    return execution.due_at - timezone.now()


def failure(execution: Execution) -> tuple[str, str, str]:
    execution.refresh_from_db()
    return execution.status, execution.error_code, execution.error_message or ""


def test_a_flow_runs_to_its_output_with_every_step_on_record(api: APIClient, drain: Drain) -> None:
    flow = start(
        api,
        """\
  - name: greet
    handler: blox.transform
    config: {value: {text: "Hello {{ payload.name }}", n: "{{ payload.n + 1 }}"}}
    peers: [done]
  - name: done
    handler: blox.output
""",
    )
    execution = run(api, flow, {"name": "Ada", "n": 41})
    drain()
    assert outcome(execution) == ("success", {"text": "Hello Ada", "n": 42})
    steps = trace(api, execution)
    assert steps["greet"][0]["input"] == {"name": "Ada", "n": 41}
    assert steps["done"][0]["input"] == steps["greet"][0]["output"] == {"text": "Hello Ada", "n": 42}
    assert steps["done"][0]["fromListener"] == "greet"


def test_branches_run_and_a_merge_collects_what_was_taken(api: APIClient, drain: Drain) -> None:
    flow = start(
        api,
        """\
  - name: split
    handler: blox.transform
    config: {value: "{{ payload }}"}
    peers: [left, right]
  - {name: left, handler: blox.transform, config: {value: "L{{ payload }}"}, peers: [both]}
  - {name: right, handler: blox.transform, config: {value: "R{{ payload }}"}, peers: [both]}
  - {name: both, handler: blox.merge, config: {as: object}}
""",
    )
    execution = run(api, flow, 1)
    drain()
    assert outcome(execution) == ("success", {"left": "L1", "right": "R1"})


def test_for_each_runs_what_lies_behind_its_peer_and_keeps_the_order(
    api: APIClient, drain: Drain, world: Witness
) -> None:
    flow = start(
        api,
        f"""\
  - name: every
    handler: blox.for_each
    config: {{items: "{{{{ payload }}}}", each: fetch, max_parallel: 3}}
    peers: [fetch, done]
  - name: fetch
    handler: blox.http
    config: {{url: "{world.url}/slow?s={{{{ payload }}}}"}}
    peers: [pick]
  - {{name: pick, handler: blox.transform, config: {{value: "{{{{ payload.body.path }}}}"}}}}
  - {{name: done, handler: blox.output}}
""",
    )
    execution = run(api, flow, [0.3, 0.2, 0.1])
    drain()
    assert outcome(execution) == ("success", ["/slow?s=0.3", "/slow?s=0.2", "/slow?s=0.1"])
    assert len(trace(api, execution)["pick"]) == 3


def test_a_failure_names_the_listener_and_the_cause(api: APIClient, drain: Drain, world: Witness) -> None:
    flow = start(api, f'  - {{name: fetch, handler: blox.http, config: {{url: "{world.url}/status/404"}}}}\n')
    execution = run(api, flow)
    drain()
    status, _, message = failure(execution)
    assert status == "error"
    assert message.startswith("fetch: ") and "404" in message
    assert len(world.calls) == 1


def test_a_failed_attempt_is_made_again_with_the_same_idempotency_key(
    api: APIClient, drain: Drain, world: Witness
) -> None:
    flow = start(
        api,
        f"""\
  - name: fetch
    handler: blox.http
    config: {{url: "{world.url}/flaky/3"}}
    retry: {{max_attempts: 3, backoff: 1, max_delay: 0.1}}
""",
    )
    execution = run(api, flow)
    drain()
    assert outcome(execution)[0] == "success"
    assert list(world.by_key().values()) == [3]
    step = trace(api, execution)["fetch"][0]
    assert (step["attempt"], len(step["failures"])) == (3, 2)


def test_a_post_whose_outcome_is_unknown_is_not_made_again(api: APIClient, drain: Drain, world: Witness) -> None:
    flow = start(
        api,
        f'  - {{name: pay, handler: blox.http, timeout: 0.3, config: {{method: POST, url: "{world.url}/slow?s=1"}}}}\n',
    )
    execution = run(api, flow)
    drain()
    assert failure(execution)[:2] == ("error", "step_timeout")
    assert len(world.calls) == 1


def test_an_error_goes_to_on_error_and_the_execution_may_still_succeed(api: APIClient, drain: Drain) -> None:
    flow = start(
        api,
        """\
  - {name: work, handler: blox.fail, config: {message: "no {{ payload }}"}, on_error: rescue, peers: [never]}
  - {name: never, handler: blox.output}
  - {name: rescue, handler: blox.output}
""",
    )
    execution = run(api, flow, "luck")
    drain()
    status, output = outcome(execution)
    assert status == "success"
    assert (output["listener"], output["payload"]) == ("work", "luck")
    assert "no luck" in output["error"]


def test_a_long_delay_parks_without_a_worker_and_goes_on_where_it_was(
    api: APIClient, drain: Drain, world: Witness
) -> None:
    flow = start(
        api,
        f"""\
  - {{name: before, handler: blox.http, config: {{url: "{world.url}/echo"}}, peers: [wait]}}
  - {{name: wait, handler: blox.delay, config: {{seconds: 3600}}, peers: [after]}}
  - {{name: after, handler: blox.transform, config: {{value: done}}}}
""",
    )
    execution = run(api, flow)
    drain()
    execution.refresh_from_db()
    assert execution.state == State.PARKED
    assert execution.lease_until is None
    assert timedelta(minutes=59) < until_due(execution) < timedelta(minutes=61)
    assert trace(api, execution)["wait"][0]["status"] == "waiting"
    past = timezone.now() - timedelta(seconds=1)
    Execution.objects.filter(pk=execution.pk).update(due_at=past)
    execution.journal.filter(kind="sleep").update(value=json.dumps(past.isoformat()))
    drain()
    assert outcome(execution) == ("success", "done")
    assert len(world.calls) == 1


def test_a_short_delay_does_not_park(api: APIClient, drain: Drain) -> None:
    flow = start(api, "  - {name: wait, handler: blox.delay, config: {seconds: 0.2}}\n")
    execution = run(api, flow, "x")
    drain()
    assert outcome(execution) == ("success", "x")
    assert execution.fence == 2  # one claim, one end


def test_while_one_branch_waits_the_other_goes_on(api: APIClient, drain: Drain, world: Witness) -> None:
    flow = start(
        api,
        f"""\
  - {{name: split, handler: blox.transform, config: {{value: 1}}, peers: [wait, fetch]}}
  - {{name: wait, handler: blox.delay, config: {{seconds: 600}}, peers: [both]}}
  - {{name: fetch, handler: blox.http, config: {{url: "{world.url}/slow?s=0.3"}}, peers: [both]}}
  - {{name: both, handler: blox.merge, config: {{as: list}}}}
""",
    )
    execution = run(api, flow)
    drain()
    execution.refresh_from_db()
    assert execution.state == State.PARKED
    assert trace(api, execution)["fetch"][0]["status"] == "success"


def test_called_flows_run_and_give_their_output(api: APIClient, drain: Drain) -> None:
    child = start(api, '  - {name: double, handler: blox.transform, config: {value: "{{ payload * 2 }}"}}\n')
    parent = start(
        api,
        f"  - {{name: call, handler: blox.call_flow, config: {{flow: {child}}}, peers: [done]}}\n"
        "  - {name: done, handler: blox.output}\n",
    )
    execution = run(api, parent, 21)
    drain()
    drain()
    assert outcome(execution) == ("success", 42)
    assert Execution.objects.get(flow_id=child).parent_id == execution.pk


def test_the_time_limit_ends_an_execution(api: APIClient, drain: Drain, world: Witness) -> None:
    flow = start(
        api,
        f'  - {{name: slow, handler: blox.http, config: {{url: "{world.url}/slow?s=5"}}}}\n',
        head="  timeout: 1\n",
    )
    execution = run(api, flow)
    drain()
    assert failure(execution)[:2] == ("timeout", "timeout")
    assert trace(api, execution)["slow"][0]["status"] == "error"


def test_a_loop_without_an_end_is_stopped(api: APIClient, drain: Drain) -> None:
    flow = start(
        api,
        """\
  - {name: a, handler: blox.transform, config: {value: 1}, peers: [b]}
  - {name: b, handler: blox.transform, config: {value: 2}, peers: [a]}
""",
        head="  max_messages: 50\n",
    )
    execution = run(api, flow)
    drain()
    assert failure(execution)[:2] == ("error", "too_many_messages")
    assert execution.steps.count() == 50


def test_cancel_ends_a_queued_execution_at_once_and_says_by_whom(api: APIClient, drain: Drain) -> None:
    flow = start(api, "  - {name: a, handler: blox.transform, config: {value: 1}}\n")
    execution = run(api, flow)
    url = f"/api/v1/flows/{flow}/executions/{execution.pk}/cancel"
    assert api.post(url).status_code == 200
    assert failure(execution)[:2] == ("error", "canceled")
    assert "alice@shop.example" in (execution.error_message or "")
    drain()
    assert execution.steps.count() == 0
    assert api.post(url).status_code == 409


def test_retry_from_the_failed_step_keeps_what_had_finished(api: APIClient, drain: Drain, world: Witness) -> None:
    flow = start(
        api,
        f"""\
  - {{name: first, handler: blox.http, config: {{url: "{world.url}/echo"}}, peers: [second]}}
  - {{name: second, handler: blox.transform, config: {{value: "{{{{ vars.missing }}}}"}}}}
""",
    )
    execution = run(api, flow)
    drain()
    assert failure(execution)[0] == "error"
    answer = api.post(f"/api/v1/flows/{flow}/executions/{execution.pk}/retry", {"from": "failed"}, format="json")
    retry = Execution.objects.get(pk=answer.json()["id"])
    drain()
    assert failure(retry)[0] == "error"
    assert len(world.calls) == 1
    assert retry.retry_of == execution.pk
    assert set(trace(api, retry)) == {"first", "second"}


def test_key_values_are_counted_once_a_step(api: APIClient, drain: Drain) -> None:
    flow = start(api, "  - {name: count, handler: blox.key_value, config: {op: increment, key: runs}}\n")
    executions = [run(api, flow) for _ in range(5)]
    drain()
    assert sorted(outcome(execution)[1] for execution in executions) == [1, 2, 3, 4, 5]


def test_a_secret_reaches_the_call_and_no_record(api: APIClient, drain: Drain, world: Witness) -> None:
    api.put("/api/v1/secrets/TOKEN", {"value": "hunter2-canary"}, format="json")
    flow = start(
        api,
        f"""\
  - name: fetch
    handler: blox.http
    config: {{url: "{world.url}/echo", headers: {{X-Token: "t {{{{ secrets.TOKEN }}}}"}}}}
""",
    )
    execution = run(api, flow)
    drain()
    status, output = outcome(execution)
    assert status == "success"
    assert output["body"]["headers"]["X-Token"] == "t ***"  # the server got it, and echoed it
    assert "hunter2" not in json.dumps(trace(api, execution))


def test_a_large_output_is_stored_apart_and_read_back(api: APIClient, drain: Drain) -> None:
    flow = start(
        api,
        """\
  - {name: big, handler: blox.transform, config: {value: "{{ payload }}"}, peers: [size]}
  - {name: size, handler: blox.transform, config: {value: "{{ size(payload) }}"}}
""",
    )
    execution = run(api, flow, "x" * 100_000)
    drain()
    assert outcome(execution) == ("success", 100_000)
    assert execution.steps.get(listener="big").is_output_apart
    assert len(trace(api, execution)["big"][0]["output"]) == 100_000


def test_one_listener_of_the_draft_can_be_tried_alone(api: APIClient, drain: Drain) -> None:
    flow = start(
        api,
        """\
  - {name: a, handler: blox.transform, config: {value: 1}, peers: [b]}
  - {name: b, handler: blox.transform, config: {value: "{{ payload + 1 }}"}, peers: [c]}
  - {name: c, handler: blox.transform, config: {value: 3}}
""",
    )
    body = {"draft": True, "listener": "b", "inputPayload": 41}
    answer = api.post(f"/api/v1/flows/{flow}/executions/run", body, format="json")
    execution = Execution.objects.get(pk=answer.json()["id"])
    drain()
    assert outcome(execution) == ("success", 42)
    assert set(trace(api, execution)) == {"b"}


def test_a_for_each_over_delays_parks_and_waits_for_the_earliest(api: APIClient, drain: Drain) -> None:
    flow = start(
        api,
        """\
  - {name: every, handler: blox.for_each, config: {items: "{{ payload }}", each: wait, max_parallel: 3}, peers: [wait]}
  - {name: wait, handler: blox.delay, config: {seconds: "{{ payload }}"}}
""",
    )
    execution = run(api, flow, [500, 100, 300])
    drain()
    execution.refresh_from_db()
    assert execution.state == State.PARKED
    assert timedelta(seconds=90) < until_due(execution) < timedelta(seconds=101)
    assert [step["status"] for step in trace(api, execution)["wait"]] == ["waiting"] * 3


def test_what_a_step_waits_for_does_not_count_against_its_time_limit(
    api: APIClient, drain: Drain, world: Witness
) -> None:
    flow = start(
        api,
        f"""\
  - name: every
    handler: blox.for_each
    timeout: 0.5
    config: {{items: "{{{{ payload }}}}", each: fetch}}
    peers: [fetch]
  - {{name: fetch, handler: blox.http, config: {{url: "{world.url}/slow?s={{{{ payload }}}}"}}, peers: [pick]}}
  - {{name: pick, handler: blox.transform, config: {{value: "{{{{ payload.status }}}}"}}}}
""",
    )
    execution = run(api, flow, [0.1, 1.2])
    drain()
    assert outcome(execution) == ("success", [200, 200])


def test_a_failed_item_can_be_skipped(api: APIClient, drain: Drain, world: Witness) -> None:
    flow = start(
        api,
        f"""\
  - name: every
    handler: blox.for_each
    config: {{items: "{{{{ payload }}}}", each: fetch, on_item_error: skip}}
    peers: [fetch]
  - {{name: fetch, handler: blox.http, config: {{url: "{world.url}/status/{{{{ payload }}}}"}}, peers: [pick]}}
  - {{name: pick, handler: blox.transform, config: {{value: "{{{{ payload.status }}}}"}}}}
""",
    )
    execution = run(api, flow, [200, 404, 201])
    drain()
    assert outcome(execution) == ("success", [200, None, 201])


def test_a_version_that_no_longer_loads_ends_the_execution_and_puts_the_flow_out_of_order(
    api: APIClient, drain: Drain
) -> None:
    flow = start(api, "  - {name: a, handler: blox.transform, config: {value: 1}}\n")
    FlowVersion.objects.filter(flow_id=flow).update(organism_yaml="organism: {name: x}\nlisteners: []\n")
    load_organism.cache_clear()
    execution = run(api, flow)
    drain()
    assert failure(execution)[:2] == ("error", "invalid_organism")
    answer = api.get(f"/api/v1/flows/{flow}").json()
    assert answer["status"] == "error" and "no longer loads" in answer["errorMessage"]
    refused = api.post(f"/api/v1/flows/{flow}/executions/run", {}, format="json")
    assert (refused.status_code, refused.json()["code"]) == (409, "flow_not_running")


def test_what_was_done_before_a_wait_can_be_seen_while_it_waits(api: APIClient, drain: Drain) -> None:
    flow = start(
        api,
        """\
  - {name: before, handler: blox.transform, config: {value: 1}, peers: [wait]}
  - {name: wait, handler: blox.delay, config: {seconds: 1.5}}
""",
    )
    execution = run(api, flow)
    worker = Thread(target=drain)
    worker.start()
    wait_until(lambda: execution.steps.count() == 2)
    seen = {step.listener: step.status for step in execution.steps.all()}
    worker.join()
    assert seen == {"before": "success", "wait": "waiting"}
    assert outcome(execution) == ("success", 1)


def test_cancelling_a_running_execution_awaits_and_records_the_effect_under_way(
    api: APIClient, drain: Drain, world: Witness
) -> None:
    flow = start(
        api,
        f"""\
  - {{name: slow, handler: blox.http, config: {{url: "{world.url}/slow?s=3"}}, peers: [never]}}
  - {{name: never, handler: blox.output}}
""",
    )
    execution = run(api, flow)
    worker = Thread(target=drain)
    worker.start()
    wait_until(lambda: bool(world.calls))
    api.post(f"/api/v1/flows/{flow}/executions/{execution.pk}/cancel")
    worker.join()
    assert failure(execution)[:2] == ("error", "canceled")
    steps = trace(api, execution)
    assert steps["slow"][0]["status"] == "success"
    assert "never" not in steps


def test_a_cancelled_wait_is_seen_by_a_stream_that_has_seen_the_wait(api: APIClient, drain: Drain) -> None:
    flow = start(api, "  - {name: wait, handler: blox.delay, config: {seconds: 600}}\n")
    execution = run(api, flow)
    drain()
    seen = execution.steps.get().number
    api.post(f"/api/v1/flows/{flow}/executions/{execution.pk}/cancel")
    step = execution.steps.get()
    assert (step.status, step.error_code) == ("error", "canceled")
    assert step.number > seen


def test_a_retry_of_call_flow_calls_the_flow_anew(api: APIClient, drain: Drain, world: Witness) -> None:
    child = start(api, f'  - {{name: fetch, handler: blox.http, config: {{url: "{world.url}/status/404"}}}}\n')
    parent = start(
        api,
        f"  - {{name: call, handler: blox.call_flow, config: {{flow: {child}}}, "
        "retry: {max_attempts: 2, backoff: 1, max_delay: 0.1}}\n",
    )
    execution = run(api, parent)
    drain()
    drain()
    assert failure(execution)[:2] == ("error", "called_flow_failed")
    assert Execution.objects.filter(flow_id=child).count() == 2
