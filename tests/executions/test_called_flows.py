"""What an execution had called and waits for ends with it: nobody wants its result any more."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from django.core import mail
from django.db import connection
from django.utils import timezone
from rest_framework.test import APIClient

from executions.engine.leases import claim
from executions.models import Execution, FailureNotice, State
from executions.notices import work_off_failures
from tests.executions.flows import result, run, start, trace, wake
from tests.witness import Witness

pytestmark = pytest.mark.django_db(transaction=True)
Drain = Callable[[], None]

WAIT = "  - {name: wait, handler: blox.delay, config: {seconds: 600}}\n"


def calls(flow: str, **more: Any) -> str:
    config = ", ".join(f"{key}: {value}" for key, value in {"flow": flow, **more}.items())
    return f"  - {{name: call, handler: blox.call_flow, config: {{{config}}}}}\n"


def beside(listener: str, flow: str) -> str:
    """A flow that calls `flow` and does `listener` (named `other`) at the same time."""
    return f"  - {{name: split, handler: blox.transform, config: {{value: 1}}, peers: [call, other]}}\n{calls(flow)}{listener}"


def only_child(execution: Execution) -> Execution:
    return Execution.objects.get(parent_id=execution.pk)


def cancel(api: APIClient, execution: Execution) -> None:
    answer = api.post(f"/api/v1/flows/{execution.flow_id}/executions/{execution.pk}/cancel")
    assert answer.status_code == 200, answer.json()


def parked(drain: Drain, execution: Execution) -> Execution:
    """The execution that it called, once both wait."""
    drain()
    drain()
    child = only_child(execution)
    states = Execution.objects.filter(pk__in=[execution.pk, child.pk]).values_list("state", flat=True)
    assert set(states) == {State.PARKED}
    return child


def test_a_cancel_ends_what_was_called_and_what_that_had_called(api: APIClient, drain: Drain) -> None:
    leaf = start(api, WAIT, "  on_failure: {email: ops@shop.example}\n")
    top = run(api, start(api, calls(start(api, calls(leaf)))))
    middle = parked(drain, top)
    bottom = parked(drain, middle)

    cancel(api, top)
    work_off_failures()

    assert [result(each) for each in (top, middle, bottom)] == [("error", "canceled")] * 3
    bottom.refresh_from_db()
    assert bottom.error_message == f"Canceled by the end of execution {middle.pk}, which had called it."
    [step] = trace(api, bottom)["wait"]
    assert step["status"] == "error"
    assert mail.outbox == []  # it is nobody's failure
    assert not FailureNotice.objects.exists()


def test_what_is_not_waited_for_runs_on(api: APIClient, drain: Drain) -> None:
    child = start(api, WAIT)
    parent = calls(child, wait="false").replace("}}", "}, peers: [after]}") + WAIT.replace("name: wait", "name: after")
    execution = run(api, start(api, parent))
    called = parked(drain, execution)
    cancel(api, execution)
    work_off_failures()
    called.refresh_from_db()
    assert (called.state, called.cancel_requested_at) == (State.PARKED, None)


def test_what_a_worker_is_at_is_asked_to_end(api: APIClient, drain: Drain) -> None:
    execution = run(api, start(api, calls(start(api, WAIT))))
    called = parked(drain, execution)
    wake(called)
    [held] = claim("worker", limit=1, holding=0)
    assert held.pk == called.pk
    cancel(api, execution)
    work_off_failures()
    called.refresh_from_db()
    assert called.state == State.WORKING
    assert called.cancel_requested_at is not None


def test_a_failure_beside_the_call_ends_what_was_called(api: APIClient, drain: Drain) -> None:
    other = "  - {name: other, handler: blox.delay, config: {seconds: 60}, peers: [no]}\n"
    fails = "  - {name: no, handler: blox.fail, config: {message: no}}\n"
    execution = run(api, start(api, beside(other + fails, start(api, WAIT))))
    called = parked(drain, execution)
    wake(execution)
    drain()
    work_off_failures()
    assert result(execution) == ("error", "failed_by_flow")
    assert result(called) == ("error", "canceled")


def items(flow: str, *, seconds: float = 0.3, **more: str) -> str:
    """A flow that calls `flow` for an item, fails that item so many seconds later, and goes on."""
    settings = "".join(f", {key}: {value}" for key, value in more.items())
    return f"""\
  - {{name: every, handler: blox.for_each, config: {{items: [1], each: split}}, peers: [split], on_error: after{settings}}}
{beside(f"  - {{name: other, handler: blox.delay, config: {{seconds: {seconds}}}, peers: [no]}}", flow)}
  - {{name: no, handler: blox.fail, config: {{message: no}}}}
  - {{name: after, handler: blox.delay, config: {{seconds: 600}}}}
"""


@pytest.mark.parametrize("seconds", [0.3, 0])
def test_a_failure_beside_the_call_ends_what_was_called_though_the_execution_goes_on(
    api: APIClient, drain: Drain, seconds: float
) -> None:
    """Also where it comes while the flow is being called."""
    execution = run(api, start(api, items(start(api, WAIT), seconds=seconds)))
    drain()
    called = only_child(execution)
    assert result(called) == ("error", "canceled")
    called.refresh_from_db()
    assert called.error_message == (
        f"Canceled by a failure in execution {execution.pk}, beside the step that had called it."
    )
    execution.refresh_from_db()
    assert execution.state == State.PARKED
    [step] = trace(api, execution)["call"]
    assert (step["status"], step["errorCode"]) == ("error", "dropped")


def test_an_item_that_is_tried_again_calls_its_flow_again(api: APIClient, drain: Drain) -> None:
    retry = "{max_attempts: 2, backoff: 1, max_delay: 0.1}"
    execution = run(api, start(api, items(start(api, WAIT), retry=retry)))
    drain()
    called = Execution.objects.filter(parent_id=execution.pk)
    assert [result(each) for each in called] == [("error", "canceled")] * 2
    [step] = trace(api, execution)["every"]
    assert step["error"] == "Item 0: no: no"


def test_a_time_out_ends_what_was_called(api: APIClient, drain: Drain, world: Witness) -> None:
    other = f'  - {{name: other, handler: blox.http, config: {{url: "{world.url}/slow?s=5"}}}}\n'
    execution = run(api, start(api, beside(other, start(api, WAIT)), "  timeout: 2\n"))
    drain()
    work_off_failures()
    assert result(execution) == ("timeout", "timeout")
    assert result(only_child(execution)) == ("error", "canceled")


@pytest.mark.parametrize(("minutes", "seconds"), [(0, 30), (5, 300), (600, 900)])
def test_who_waits_for_a_called_flow_sleeps_the_longer_the_longer_that_takes(
    api: APIClient, drain: Drain, minutes: int, seconds: int
) -> None:
    """The end of what it called wakes it (`test_a_called_flow_wakes_its_caller_once`), so this is for one that was lost."""
    execution = run(api, start(api, calls(start(api, WAIT))))
    called = parked(drain, execution)
    Execution.objects.filter(pk=called.pk).update(started_at=timezone.now() - timedelta(minutes=minutes))
    wake(execution)
    drain()
    execution.refresh_from_db()
    assert execution.due_at is not None
    assert (execution.due_at - timezone.now()).total_seconds() == pytest.approx(seconds, abs=10)


def test_the_end_of_a_called_flow_is_seen_while_something_else_keeps_the_worker(
    api: APIClient, drain: Drain, world: Witness
) -> None:
    child = start(api, WAIT.replace("600", "1.9"))
    other = f'  - {{name: other, handler: blox.http, config: {{url: "{world.url}/slow?s=6"}}}}\n'
    execution = run(api, start(api, beside(other, child)))
    drain()
    [call], [slow] = (trace(api, execution)[listener] for listener in ("call", "other"))
    assert (call["status"], slow["status"]) == ("success", "success")
    assert call["completedAt"] < slow["completedAt"]


def test_cancels_from_all_sides_at_once_get_in_nobodys_way(api: APIClient, drain: Drain) -> None:
    top = run(api, start(api, calls(start(api, calls(start(api, WAIT))))))
    middle = parked(drain, top)
    bottom = parked(drain, middle)

    def closing(act: Callable[[], Any]) -> Any:
        try:
            return act()
        finally:
            connection.close()

    def cancel_it(execution: Execution) -> Any:
        return api.post(f"/api/v1/flows/{execution.flow_id}/executions/{execution.pk}/cancel")

    acts: list[Callable[[], Any]] = [partial(cancel_it, each) for each in (bottom, middle, top)]
    with ThreadPoolExecutor(5) as pool:
        answers = [pool.submit(closing, act) for act in (*acts, work_off_failures, work_off_failures)]
    statuses = {answer.result().status_code for answer in answers[:3]}
    assert statuses <= {200, 409}
    assert [answer.exception() for answer in answers] == [None] * 5
    work_off_failures()
    assert [result(each)[0] for each in (top, middle, bottom)] == ["error"] * 3
