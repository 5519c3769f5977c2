"""Blocks of other packages that misbehave: their own step fails with a clear error, and nothing else does."""

from collections.abc import Callable
from threading import Thread
from typing import Any

import pytest
from rest_framework.test import APIClient

from executions.models import Execution, State
from tests.executions.flows import result, run, start, trace, wake
from tests.executions.odd_blocks import Odd
from tests.waiting import wait_until

pytestmark = pytest.mark.django_db(transaction=True)
Drain = Callable[[], None]


def odd_flow(api: APIClient, do: str, more: str = "", **config: Any) -> str:
    settings = "".join(f", {name}: {value}" for name, value in config.items())
    return start(api, f"  - {{name: odd, handler: acme.odd, config: {{do: {do}{settings}}}{more}}}\n")


@pytest.mark.parametrize(
    ("do", "code"),
    [
        ("nan", "output_not_json"),
        ("a_set", "output_not_json"),
        ("a_circle", "output_not_json"),
        ("great_depth", "output_not_json"),
        ("number_as_peer", "unknown_peer"),
        ("text_missing", "block_failed"),
        ("cancel_itself", "block_crashed"),
        ("exit", "block_crashed"),
        ("stop_iteration_in_transaction", "block_crashed"),
        ("long_position", "invalid_position"),
    ],
)
def test_what_it_does_wrong_fails_its_step_and_spares_the_others(
    api: APIClient, drain: Drain, odd: type[Odd], do: str, code: str
) -> None:
    flow, other = odd_flow(api, do), start(api, "  - {name: a, handler: blox.transform, config: {value: 1}}\n")
    execution, healthy = run(api, flow), run(api, other)
    drain()
    assert result(healthy) == ("success", 1)
    assert result(execution) == ("error", code)
    assert [step["status"] for step in trace(api, execution)["odd"]] == ["error"]
    assert odd.runs == [(do, 1)]


def test_what_gives_back_runs_to_its_end_after_the_last_step(api: APIClient, drain: Drain, odd: type[Odd]) -> None:
    run(api, odd_flow(api, "give_back_later"))
    drain()
    assert odd.runs == [("give_back_later", 1), ("given back", 1)]


def test_an_error_that_no_column_holds_is_recorded_as_far_as_it_can_be(
    api: APIClient, drain: Drain, odd: type[Odd]
) -> None:
    execution = run(api, odd_flow(api, "long_code", ", retry: {max_attempts: 2, backoff: 1, max_delay: 0.1}"))
    drain()
    status, code = result(execution)
    assert status == "error" and code.startswith("c") and len(code) <= 50
    assert len(odd.runs) == 2
    assert trace(api, execution)["odd"][0]["error"] == "nul \ufffd and surrogate ?"


def test_an_output_is_the_same_before_and_after_it_went_on_record(api: APIClient, drain: Drain, odd: type[Odd]) -> None:
    flow = start(
        api,
        """\
  - {name: odd, handler: acme.odd, config: {do: tuples}, peers: [next]}
  - {name: next, handler: blox.transform, config: {value: "{{ payload }}"}}
""",
    )
    execution = run(api, flow)
    drain()
    assert result(execution) == ("success", {"pair": [1, 2], "3": "three"})


def test_a_recorded_result_is_the_same_the_first_time(api: APIClient, drain: Drain, odd: type[Odd]) -> None:
    execution = run(api, odd_flow(api, "record_a_tuple"))
    drain()
    assert result(execution) == ("success", True)


def test_a_payload_that_it_changes_is_its_own(api: APIClient, drain: Drain, odd: type[Odd]) -> None:
    flow = start(
        api,
        """\
  - {name: first, handler: blox.transform, config: {value: {a: 1}}, peers: [odd, wait]}
  - {name: odd, handler: acme.odd, config: {do: change_payload}}
  - {name: wait, handler: blox.delay, config: {seconds: 0.1}, peers: [see]}
  - {name: see, handler: blox.transform, config: {value: ["{{ payload }}", "{{ steps.first }}"]}}
""",
    )
    execution = run(api, flow)
    drain()
    assert result(execution) == ("success", {"odd": {"a": 1, "changed": True}, "see": [{"a": 1}, {"a": 1}]})


def test_a_block_that_ignores_its_cancellation_delays_only_itself(api: APIClient, drain: Drain, odd: type[Odd]) -> None:
    execution = run(api, odd_flow(api, "ignore_cancellation", ", timeout: 0.2", seconds=2))
    other = run(api, start(api, "  - {name: a, handler: blox.transform, config: {value: 1}}\n"))
    worker = Thread(target=drain)
    worker.start()
    wait_until(lambda: Execution.objects.get(pk=other.pk).state == State.ENDED)
    assert Execution.objects.get(pk=execution.pk).state == State.WORKING
    worker.join()
    assert Execution.objects.get(pk=execution.pk).state == State.ENDED


@pytest.mark.parametrize("effects", ["none", "repeatable", "once"])
def test_a_block_with_an_outside_effect_may_wait_and_acts_once_when_it_goes_on(
    api: APIClient, drain: Drain, odd: type[Odd], effects: str
) -> None:
    execution = run(api, odd_flow(api, "wait", seconds=3, effects=effects))
    other = run(api, start(api, "  - {name: a, handler: acme.odd, config: {do: sleep, seconds: 4}}\n"))
    drain()  # the first parks, while the second keeps the worker beyond its moment
    assert result(other)[0] == "success"
    wake(execution)
    drain()
    assert result(execution) == ("success", None)
    assert odd.runs.count(("waited", 1)) == 1


def test_calls_within_calls_go_as_deep_as_the_messages_allow(api: APIClient, drain: Drain, odd: type[Odd]) -> None:
    flow = start(api, "  - {name: again, handler: acme.odd, config: {do: call, peer: again}, peers: [again]}\n")
    execution = run(api, flow)
    drain()
    assert result(execution) == ("error", "too_many_messages")
