"""Two things at one moment: a cancellation and a park, a claim and the end before it, a replay and what is new."""

import asyncio
import json
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from threading import Thread
from time import sleep
from typing import Any

import pytest
from django.db import connection
from django.db.models.functions import Now
from django.utils import timezone
from rest_framework.test import APIClient

from executions.endings import Ending
from executions.engine.drain import organism_of
from executions.engine.leases import Holder, Lease, LeaseKeeper, claim
from executions.engine.record import Record
from executions.engine.run import ExecutionRun
from executions.engine.store import Change, Store, Transaction, Unwritable, write, write_patiently
from executions.engine.sweeper import sweep
from executions.engine.worker import Worker
from executions.models import Execution, ExecutionPayload, ExecutionStatus, JournalEntry, State, Step, StepStatus
from flows.blocks.base import BlockError
from flows.services import load_organism
from tests.executions.flows import result, run, start, wake
from tests.witness import Witness

pytestmark = pytest.mark.django_db(transaction=True)
Drain = Callable[[], None]
TRANSFORM = "  - {name: a, handler: blox.transform, config: {value: 1}}\n"
WAIT = "  - {name: wait, handler: blox.delay, config: {seconds: 600}}\n"


def test_a_cancellation_that_comes_while_a_run_parks_is_not_forgotten(api: APIClient) -> None:
    execution = run(api, start(api, WAIT))
    [claimed] = claim("worker", limit=1, holding=0)
    api.post(f"/api/v1/flows/{execution.flow_id}/executions/{execution.pk}/cancel")
    step = Step(
        execution=execution,
        key="k",
        number=1,
        listener="wait",
        block="blox.delay",
        status=StepStatus.WAITING,
        started_at=timezone.now(),
    )
    release = {"state": State.PARKED, "due_at": Now() + timedelta(hours=1)}
    write([Change(execution.pk, claimed.lease, steps=[step], release=release)])
    assert result(execution) == ("error", "canceled")
    assert execution.steps.get().status == StepStatus.ERROR


def test_a_cancellation_that_comes_before_the_run_begins_is_heard(api: APIClient) -> None:
    execution = run(api, start(api, TRANSFORM))
    [claimed] = claim("worker", limit=1, holding=0)

    async def work() -> None:
        store = Store()
        running = ExecutionRun(claimed, load_organism(execution.version_id), store)
        running.cancel("Canceled by a test.")
        await running.run()
        store.close()

    load_organism(execution.version_id)
    asyncio.run(work())
    assert result(execution) == ("error", "canceled")


def test_a_run_is_told_of_the_next_claim_of_its_execution_and_its_end_does_not_let_go_of_that_lease() -> None:
    keeper = LeaseKeeper("worker")
    execution_id, now, lost = Execution().pk, timezone.now(), list[str]()
    first, second = Lease(1, now), Lease(1, now + timedelta(seconds=1))
    later = Holder(second, lost=lambda: lost.append("second"), cancel=lambda reason: None)
    keeper.hold(execution_id, Holder(first, lost=lambda: lost.append("first"), cancel=lambda reason: None))
    keeper.hold(execution_id, later)
    keeper.release(execution_id, first)
    assert keeper._held == {execution_id: later} and lost == ["first"]
    keeper.release(execution_id, second)
    assert keeper._held == {}


def test_a_change_that_cannot_be_written_ends_its_execution_and_no_other(api: APIClient) -> None:
    flow = start(api, TRANSFORM)
    executions = [run(api, flow) for _ in range(3)]
    changes = [
        Change(each.pk, each.lease, ending=Ending(ExecutionStatus.SUCCESS, output="1"))
        for each in claim("worker", limit=3, holding=0)
    ]
    refused = Step(execution_id=changes[1].execution_id, key="k", number=-1, started_at=timezone.now())
    refused.listener = None  # type: ignore[assignment]
    changes[1].steps.append(refused)
    outcomes = write_patiently(changes)
    assert [type(outcome) for outcome in outcomes] == [type(None), Unwritable, type(None)]
    assert sum(result(each) == ("success", 1) for each in executions if each.pk != changes[1].execution_id) == 2


def test_a_batch_with_more_output_than_a_statement_takes_is_written_whole(api: APIClient) -> None:
    flow = start(api, TRANSFORM)
    for _ in range(6):
        run(api, flow)
    output = json.dumps("x" * 5_000_000)
    changes = [
        Change(each.pk, each.lease, ending=Ending(ExecutionStatus.SUCCESS, output=output))
        for each in claim("worker", limit=6, holding=0)
    ]
    assert write(changes) == [None] * 6
    assert [len(text or "") for text in ExecutionPayload.objects.values_list("output", flat=True)] == [len(output)] * 6


def test_a_run_whose_record_is_refused_ends_with_an_error(
    api: APIClient, drain: Drain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of the server's own, put in by hand: no known input leads to one."""
    execution = run(api, start(api, TRANSFORM))
    put = Record.put

    def put_badly(self: Record, step: Step) -> None:
        put(self, step)
        step.listener = None  # type: ignore[assignment]

    monkeypatch.setattr(Record, "put", put_badly)
    drain()
    assert result(execution) == ("error", "internal_error")


def test_a_transaction_that_fails_leaves_what_the_run_has_done_on_record(api: APIClient) -> None:
    execution = run(api, start(api, TRANSFORM))
    [claimed] = claim("worker", limit=1, holding=0)
    step = Step(
        execution=execution,
        key="k",
        number=1,
        listener="a",
        block="b",
        status=StepStatus.SUCCESS,
        started_at=timezone.now(),
    )
    entry = JournalEntry(execution=execution, step_key="k", position="1", kind="transact", value="null")

    def refuse() -> Any:
        raise BlockError("no")

    outcomes = write(
        [
            Change(execution.pk, claimed.lease, steps=[step]),
            Change(execution.pk, claimed.lease, transaction=Transaction(entry, refuse)),
        ]
    )
    assert outcomes[0] is None and isinstance(outcomes[1], BlockError)
    assert execution.steps.count() == 1 and execution.journal.count() == 0


def test_a_flow_that_is_deleted_takes_its_executions_out_of_a_worker_without_harm(api: APIClient, drain: Drain) -> None:
    doomed, other = start(api, TRANSFORM), start(api, TRANSFORM)
    run(api, doomed)
    [claimed] = claim("worker", limit=1, holding=0)
    survivor = run(api, other)
    load_organism.cache_clear()
    api.delete(f"/api/v1/flows/{doomed}")

    assert organism_of(claimed) is None
    drain()
    assert not Execution.objects.filter(flow_id=doomed).exists()
    assert result(survivor) == ("success", 1)


def test_an_execution_whose_called_flow_is_deleted_fails_with_that(api: APIClient, drain: Drain) -> None:
    child = start(api, WAIT)
    parent = start(api, f"  - {{name: call, handler: blox.call_flow, config: {{flow: {child}}}}}\n")
    execution = run(api, parent)
    drain()
    api.delete(f"/api/v1/flows/{child}")
    wake(execution)
    drain()
    assert result(execution) == ("error", "called_flow_failed")


def test_a_called_flow_wakes_its_caller_once(api: APIClient, drain: Drain) -> None:
    child = start(api, "  - {name: wait, handler: blox.delay, config: {seconds: 1.9}}\n")
    parent = start(
        api,
        f"  - {{name: call, handler: blox.call_flow, config: {{flow: {child}}}, peers: [wait]}}\n{WAIT}",
    )
    execution = run(api, parent)
    drain()
    execution.refresh_from_db()
    assert (execution.state, execution.fence) == (State.PARKED, 2)  # for the child, and then for the delay


ARRIVALS = """\
  - {{name: split, handler: blox.transform, config: {{value: 1}}, peers: [a, c, late]}}
  - {{name: a, handler: blox.transform, config: {{value: a}}, peers: [b]}}
  - {{name: b, handler: blox.transform, config: {{value: b}}, peers: [all]}}
  - {{name: c, handler: blox.http, config: {{url: "{url}/slow?s=0.3"}}, peers: [c2]}}
  - {{name: c2, handler: blox.transform, config: {{value: c}}, peers: [all]}}
  - {{name: late, handler: blox.delay, config: {{seconds: 60}}, peers: [all]}}
  - {{name: all, handler: blox.merge}}
"""


def test_a_merge_has_what_arrived_in_the_order_of_arrival_also_after_a_park(
    api: APIClient, drain: Drain, world: Witness
) -> None:
    """`b` lies deeper than `c`, and ended before it."""
    execution = run(api, start(api, ARRIVALS.format(url=world.url).replace("peers: [c2]", "peers: [all]")))
    drain()
    wake(execution)
    drain()
    status, output = result(execution)
    assert status == "success"
    assert [value if isinstance(value, (str, int)) else "c" for value in output] == ["b", "c", 1]


def test_a_worker_goes_on_with_others_while_a_step_takes_longer_than_a_drain(api: APIClient, world: Witness) -> None:
    long = run(api, start(api, f'  - {{name: slow, handler: blox.http, config: {{url: "{world.url}/slow?s=9"}}}}\n'))
    flow = start(api, TRANSFORM)

    with closing(Worker()) as worker:
        draining = Thread(target=worker.drain, args=[0.5])
        draining.start()
        sleep(1.5)  # its time is over, and it hands back
        short = run(api, flow)
        draining.join()
    assert result(long)[0] == result(short)[0] == "success"
    long.refresh_from_db()
    short.refresh_from_db()
    assert short.completed_at is not None and long.completed_at is not None
    assert short.completed_at < long.completed_at


def test_sweepers_at_once_count_an_expiry_once(api: APIClient) -> None:
    execution = run(api, start(api, TRANSFORM))
    Execution.objects.filter(pk=execution.pk).update(claim_alone=True)
    claim("dying", limit=1, holding=0)
    Execution.objects.filter(pk=execution.pk).update(lease_until=Now() - timedelta(seconds=1))

    def work() -> None:
        sweep()
        connection.close()

    threads = [Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    execution.refresh_from_db()
    assert (execution.state, execution.crashes, execution.fence) == (State.QUEUED, 1, 2)


def test_a_thousand_items_run_in_one_execution(api: APIClient, drain: Drain) -> None:
    flow = start(
        api,
        """\
  - {name: every, handler: blox.for_each, config: {items: "{{ payload }}", each: a, max_parallel: 100}, peers: [a]}
  - {name: a, handler: blox.transform, config: {value: "{{ payload + 1 }}"}, peers: [b]}
  - {name: b, handler: blox.transform, config: {value: "{{ payload + 1 }}"}}
""",
        head="  max_messages: 3000\n",
    )
    execution = run(api, flow, list(range(1000)))
    drain()
    assert result(execution) == ("success", [n + 2 for n in range(1000)])
    assert execution.steps.count() == 2001
    assert json.loads(execution.steps.get(listener="every").output or "") == [n + 2 for n in range(1000)]


def test_items_within_items_without_an_end_are_stopped(api: APIClient, drain: Drain) -> None:
    flow = start(
        api,
        """\
  - {name: outer, handler: blox.for_each, config: {items: [1], each: inner}, peers: [inner]}
  - {name: inner, handler: blox.for_each, config: {items: [1], each: outer}, peers: [outer]}
""",
    )
    execution = run(api, flow)
    drain()
    assert result(execution) == ("error", "too_many_messages")
