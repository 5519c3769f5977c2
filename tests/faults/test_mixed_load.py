"""Flows of every kind, two workers, and workers that are killed again and again: all that was accepted ends, once."""

import json
from collections import Counter
from contextlib import ExitStack
from threading import Event, Thread

import pytest
from django.db import connection
from rest_framework.test import APIClient

from accounts.models import Tier, User
from executions.engine.sweeper import sweep
from executions.models import Execution, State, Step, StepStatus
from executions.querysets import StepQuerySet
from flows.models import KeyValue
from tests.executions.flows import run, start
from tests.faults.processes import worker
from tests.waiting import wait_until
from tests.witness import Witness

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.faults]
EXECUTIONS = 300
KILLS = 3

ITEMS = """\
  - {{name: every, handler: blox.for_each, config: {{items: [1, 2, 3], each: post}}, peers: [post, done]}}
  - {{name: post, handler: blox.http, config: {{method: POST, url: "{url}/slow?s=0.2"}}, peers: [pick]}}
  - {{name: pick, handler: blox.transform, config: {{value: "{{{{ payload.status }}}}"}}}}
  - {{name: done, handler: blox.output}}
"""
MERGES = """\
  - {{name: split, handler: blox.transform, config: {{value: 1}}, peers: [left, right, wait]}}
  - {{name: left, handler: blox.http, config: {{url: "{url}/slow?s=0.3"}}, peers: [small]}}
  - {{name: small, handler: blox.transform, config: {{value: left}}, peers: [both]}}
  - {{name: right, handler: blox.key_value, config: {{op: increment, key: n}}, peers: [both]}}
  - {{name: wait, handler: blox.delay, config: {{seconds: 3}}, peers: [both]}}
  - {{name: both, handler: blox.merge, config: {{as: object}}}}
"""
RETRIES = """\
  - name: get
    handler: blox.http
    config: {{url: "{url}/flaky/2"}}
    retry: {{max_attempts: 4, backoff: 1, max_delay: 0.5}}
    peers: [fail]
  - {{name: fail, handler: blox.fail, config: {{message: no}}, on_error: rescue}}
  - {{name: rescue, handler: blox.key_value, config: {{op: increment, key: n}}}}
"""
FAILS = """\
  - {{name: get, handler: blox.http, config: {{url: "{url}/status/500"}}, retry: {{max_attempts: 2, backoff: 1, max_delay: 0.5}}}}
"""
CALLS = """\
  - {{name: call, handler: blox.call_flow, config: {{flow: {child}}}, peers: [count]}}
  - {{name: count, handler: blox.key_value, config: {{op: increment, key: n}}}}
"""


def test_all_that_was_accepted_ends_and_nothing_recorded_is_repeated(
    alice: User, api: APIClient, world: Witness
) -> None:
    User.objects.filter(pk=alice.pk).update(tier=Tier.HIGH_FREQUENCY)  # for its request limit
    texts = [text.format(url=world.url) for text in (ITEMS, MERGES, RETRIES, FAILS)]
    flows = [start(api, text) for text in texts]
    flows.append(start(api, CALLS.format(child=flows[0])))
    for number in range(EXECUTIONS):
        run(api, flows[number % len(flows)])
    over = Event()
    sweeper = Thread(target=_sweep, args=(over,))
    sweeper.start()
    recorded: dict[str, int] = {}
    try:
        with ExitStack() as stack:
            workers = [stack.enter_context(worker()) for _ in range(2)]
            for doomed in range(KILLS):
                _let_work(world)
                workers[doomed].kill()
                recorded |= _done(world)
                workers.append(stack.enter_context(worker()))
            wait_until(lambda: not Execution.objects.alive().exists(), seconds=120)
    finally:
        over.set()
        sweeper.join()

    each = EXECUTIONS // len(flows)
    items, merges, retries, fails, calls = _by_flow(flows)
    assert (merges, retries, fails) == ({"success": each}, {"success": each}, {"unexpected_status": each})
    assert items.total() == 2 * each and set(items) <= {"success", "worker_lost"}
    assert calls.total() == each and set(calls) <= {"success", "called_flow_failed"}
    after = _calls(world)
    assert {key: after[key] for key in recorded} == recorded
    assert max(after[key] for key in _keys(Step.objects.filter(listener="post"))) == 1
    for flow in (flows[1], flows[2], flows[4]):
        counted = Step.objects.filter(
            execution__flow__id=flow, block="blox.key_value", status=StepStatus.SUCCESS
        ).count()
        assert json.loads(KeyValue.objects.get(flow_id=flow).value) == counted
    assert not Step.objects.unfinished().exists()


def _let_work(world: Witness) -> None:
    before = len(world.calls)
    wait_until(lambda: len(world.calls) > before + 30)
    assert not Execution.objects.filter(state=State.WORKING, lease_until=None).exists()


def _done(world: Witness) -> dict[str, int]:
    """The HTTP steps that have ended, and how often each was called for until then."""
    ended = _keys(Step.objects.filter(block="blox.http", status__in=[StepStatus.SUCCESS, StepStatus.ERROR]))
    calls = _calls(world)
    return {key: calls[key] for key in ended}


def _keys(steps: StepQuerySet) -> list[str]:
    return [f"{execution}:{key}" for execution, key in steps.values_list("execution", "key")]


def _calls(world: Witness) -> Counter[str]:
    with world.lock:
        return world.by_key()


def _by_flow(flows: list[str]) -> list[Counter[str]]:
    return [Counter(e.error_code or e.status for e in Execution.objects.filter(flow_id=flow_id)) for flow_id in flows]


def _sweep(over: Event) -> None:
    while not over.wait(1.0):
        sweep()
    connection.close()
