"""What happens inside `ctx.call`: failures, effects under way, retries, waits, and what is on record of them."""

import json
from collections.abc import Callable
from threading import Thread

import pytest
from rest_framework.test import APIClient

from executions.models import Execution, State, Step
from flows.models import KeyValue
from tests.executions.flows import result, retry_from_failed, run, start, trace, wake
from tests.executions.odd_blocks import Odd
from tests.waiting import wait_until
from tests.witness import Witness

pytestmark = pytest.mark.django_db(transaction=True)
Drain = Callable[[], None]

# Each item: one branch that fails at once, and one with an effect that takes its time.
FAILS_BESIDE_AN_EFFECT = """\
  - name: every
    handler: blox.for_each
    config: {{items: [1], each: split, on_item_error: skip}}
    peers: [split, {after}]
  - {{name: split, handler: blox.transform, config: {{value: 1}}, peers: [pay, wait]}}
  - {{name: pay, handler: blox.http, config: {{method: POST, url: "{url}/slow?s=1"}}}}
  - {{name: wait, handler: blox.delay, config: {{seconds: 0.3}}, peers: [fail]}}
  - {{name: fail, handler: blox.fail, config: {{message: no}}}}
  - {{name: done, handler: blox.output}}
  - {{name: later, handler: blox.delay, config: {{seconds: 60}}}}
"""


def statuses(execution: Execution) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for step in Step.objects.filter(execution=execution):
        found.setdefault(step.listener, set()).add(step.status)
    return found


@pytest.mark.parametrize("after", ["done", "later"])
def test_an_effect_under_way_in_a_scope_that_fails_is_awaited_and_recorded(
    api: APIClient, drain: Drain, world: Witness, after: str
) -> None:
    execution = run(api, start(api, FAILS_BESIDE_AN_EFFECT.format(url=world.url, after=after)))
    drain()
    assert statuses(execution)["pay"] == {"success"}
    wake(execution)
    drain()
    assert result(execution)[0] == "success"
    assert len(world.calls) == 1


def test_what_a_failed_scope_drops_does_not_stay_unfinished(api: APIClient, drain: Drain) -> None:
    flow = start(
        api,
        """\
  - {name: every, handler: blox.for_each, config: {items: [1, 2], each: split, on_item_error: skip}, peers: [split, later]}
  - {name: split, handler: blox.transform, config: {value: 1}, peers: [inner, wait]}
  - {name: inner, handler: blox.for_each, config: {items: [1], each: long}, peers: [long]}
  - {name: long, handler: blox.delay, config: {seconds: 600}}
  - {name: wait, handler: blox.delay, config: {seconds: 0.7}, peers: [fail]}
  - {name: fail, handler: blox.fail, config: {message: no}}
  - {name: later, handler: blox.delay, config: {seconds: 60}}
""",
    )
    execution = run(api, flow)
    drain()
    assert statuses(execution)["long"] == statuses(execution)["inner"] == {"error"}
    wake(execution)
    drain()
    assert result(execution) == ("success", [None, None])
    assert "waiting" not in set().union(*statuses(execution).values())


def test_a_for_each_with_a_retry_tries_its_failed_items_again(api: APIClient, drain: Drain, world: Witness) -> None:
    flow = start(
        api,
        f"""\
  - name: every
    handler: blox.for_each
    config: {{items: "{{{{ payload }}}}", each: fetch}}
    peers: [fetch]
    retry: {{max_attempts: 3, backoff: 1, max_delay: 0.1}}
  - name: fetch
    handler: blox.http
    config: {{url: "{world.url}/{{{{ payload }}}}"}}
    retry: {{max_attempts: 1}}
    peers: [big]
  - {{name: big, handler: blox.transform, config: {{value: "{{{{ payload.status }}}}"}}}}
""",
    )
    execution = run(api, flow, ["flaky/2", "echo"])
    drain()
    assert result(execution) == ("success", [200, 200])
    assert sorted(world.by_key().values()) == [1, 2]


def test_a_for_each_that_parks_before_its_retry_tries_its_failed_items_again_too(
    api: APIClient, drain: Drain, world: Witness
) -> None:
    flow = start(
        api,
        f"""\
  - name: every
    handler: blox.for_each
    config: {{items: [1], each: fetch}}
    peers: [fetch]
    retry: {{max_attempts: 3, backoff: 10}}
  - name: fetch
    handler: blox.http
    config: {{url: "{world.url}/flaky/3"}}
    retry: {{max_attempts: 1}}
    peers: [status]
  - {{name: status, handler: blox.transform, config: {{value: "{{{{ payload.status }}}}"}}}}
""",
    )
    execution = run(api, flow)
    drain()
    assert len(world.calls) == 2
    wake(execution)
    drain()
    assert result(execution) == ("success", [200])
    assert len(world.calls) == 3


def test_a_step_that_is_tried_again_may_give_a_large_output(api: APIClient, drain: Drain, world: Witness) -> None:
    flow = start(
        api,
        f"""\
  - name: every
    handler: blox.for_each
    config: {{items: [1], each: fetch}}
    peers: [fetch, done]
    retry: {{max_attempts: 3, backoff: 1, max_delay: 0.1}}
  - name: fetch
    handler: blox.http
    config: {{method: PUT, url: "{world.url}/flaky/2", json: "{"x" * 80_000}"}}
    retry: {{max_attempts: 1}}
  - {{name: done, handler: blox.transform, config: {{value: "{{{{ size(payload[0].body.body) }}}}"}}}}
""",
    )
    execution = run(api, flow)
    drain()
    assert result(execution) == ("success", 80_000)
    assert Step.objects.get(execution=execution, listener="fetch").is_output_apart


def test_an_endless_loop_inside_an_item_ends_the_execution_though_items_may_fail(api: APIClient, drain: Drain) -> None:
    flow = start(
        api,
        """\
  - {name: every, handler: blox.for_each, config: {items: [1, 2], each: a, on_item_error: skip}, peers: [a]}
  - {name: a, handler: blox.transform, config: {value: 1}, peers: [b]}
  - {name: b, handler: blox.transform, config: {value: 2}, peers: [a]}
""",
        head="  max_messages: 50\n",
    )
    execution = run(api, flow)
    drain()
    assert result(execution) == ("error", "too_many_messages")


def test_items_within_items_park_and_go_on_with_their_own_results(api: APIClient, drain: Drain, world: Witness) -> None:
    flow = start(
        api,
        f"""\
  - {{name: outer, handler: blox.for_each, config: {{items: "{{{{ payload }}}}", each: inner}}, peers: [inner, done]}}
  - name: inner
    handler: blox.for_each
    config: {{items: "{{{{ payload }}}}", each: fetch, max_parallel: 1}}
    peers: [fetch]
  - {{name: fetch, handler: blox.http, config: {{method: POST, url: "{world.url}/{{{{ payload }}}}"}}, peers: [wait]}}
  - {{name: wait, handler: blox.delay, config: {{seconds: 60}}, peers: [pick]}}
  - {{name: pick, handler: blox.transform, config: {{value: "{{{{ payload.body.path }}}}"}}}}
  - {{name: done, handler: blox.output}}
""",
    )
    execution = run(api, flow, [["a", "b"], ["c"], []])
    for _ in range(3):
        drain()
        wake(execution)
    drain()
    assert result(execution) == ("success", [["/a", "/b"], ["/c"], []])
    assert max(world.by_key().values()) == 1 and len(world.calls) == 3


def test_a_retry_from_the_failed_item_keeps_the_others(api: APIClient, drain: Drain, world: Witness) -> None:
    flow = start(
        api,
        f"""\
  - {{name: every, handler: blox.for_each, config: {{items: [200, 404, 201], each: fetch}}, peers: [fetch]}}
  - {{name: fetch, handler: blox.http, config: {{method: POST, url: "{world.url}/status/{{{{ payload }}}}"}}, on_error: note}}
  - {{name: note, handler: blox.key_value, config: {{op: increment, key: failures}}, peers: [no]}}
  - {{name: no, handler: blox.fail, config: {{message: no}}}}
""",
    )
    execution = run(api, flow)
    drain()
    assert result(execution) == ("error", "failed_by_flow")
    retry = retry_from_failed(api, execution)
    drain()
    assert result(retry) == ("error", "failed_by_flow")
    assert len(world.calls) == 3  # the failure of the second was handled, and so is on record
    assert [step["output"] for step in trace(api, retry)["note"]] == [1]


def test_a_retry_from_the_failed_step_repeats_no_transaction_of_it(
    api: APIClient, drain: Drain, odd: type[Odd]
) -> None:
    flow = start(
        api,
        """\
  - {name: count, handler: acme.odd, config: {do: count}}
""",
    )
    execution = run(api, flow)
    drain()
    assert result(execution)[0] == "error"
    retry = retry_from_failed(api, execution)
    drain()
    assert json.loads(KeyValue.objects.get(flow_id=flow).value) == 2
    assert retry.journal.count() == 2


def test_cancelling_awaits_the_effect_of_an_item_and_starts_no_other(
    api: APIClient, drain: Drain, world: Witness
) -> None:
    flow = start(
        api,
        f"""\
  - {{name: outer, handler: blox.for_each, config: {{items: [1], each: inner}}, peers: [inner]}}
  - {{name: inner, handler: blox.for_each, config: {{items: [1, 2], each: pay, max_parallel: 1}}, peers: [pay]}}
  - {{name: pay, handler: blox.http, config: {{method: POST, url: "{world.url}/slow?s=2"}}}}
""",
    )
    execution = run(api, flow)
    worker = Thread(target=drain)
    worker.start()
    wait_until(lambda: bool(world.calls))
    api.post(f"/api/v1/flows/{flow}/executions/{execution.pk}/cancel")
    worker.join()
    assert result(execution) == ("error", "canceled")
    assert statuses(execution) == {"outer": {"error"}, "inner": {"error"}, "pay": {"success"}}
    assert len(world.calls) == 1


def test_an_effect_that_calls_a_peer_parks_with_it_and_is_not_left_running(
    api: APIClient, drain: Drain, odd: type[Odd], world: Witness
) -> None:
    flow = start(
        api,
        f"""\
  - {{name: agent, handler: acme.odd, config: {{do: call, effects: once, peer: tool}}, peers: [tool]}}
  - {{name: tool, handler: blox.delay, config: {{seconds: 3}}, peers: [act]}}
  - {{name: act, handler: blox.http, config: {{method: POST, url: "{world.url}/echo"}}}}
""",
    )
    execution = run(api, flow)
    other = run(api, start(api, "  - {name: a, handler: acme.odd, config: {do: sleep, seconds: 4}}\n"))
    drain()
    assert result(other)[0] == "success"
    wake(execution)
    drain()
    assert Execution.objects.get(pk=execution.pk).state == State.ENDED
    assert result(execution)[0] == "success"
    assert len(world.calls) == 1
