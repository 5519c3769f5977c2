"""Who holds an execution, and what becomes of it when its holder is gone."""

import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import timedelta

import pytest
from django.db import connection
from django.db.models.functions import Now
from django.test import override_settings
from django.utils import timezone
from rest_framework.test import APIClient

from executions.endings import Ending
from executions.engine.leases import claim, let_others_in
from executions.engine.store import Change, LeaseLost, write
from executions.engine.sweeper import sweep
from executions.engine.worker import Worker
from executions.models import Execution, ExecutionStatus, State, Step, StepStatus
from tests.executions.flows import result, run, start
from tests.waiting import wait_until
from tests.witness import Witness

pytestmark = pytest.mark.django_db(transaction=True)
Drain = Callable[[], None]
TRANSFORM = "  - {name: a, handler: blox.transform, config: {value: 1}}\n"


def expire(execution: Execution) -> None:
    Execution.objects.filter(pk=execution.pk).update(lease_until=Now() - timedelta(seconds=1))


def lose(execution: Execution) -> Execution:
    """Its worker has died; what the row says then."""
    expire(execution)
    sweep()
    execution.refresh_from_db()
    return execution


def wait(execution: Execution, *, seconds: float) -> None:
    """It has been due for so long."""
    Execution.objects.filter(pk=execution.pk).update(due_at=Now() - timedelta(seconds=seconds))


def lost(*executions: Execution) -> list[Execution]:
    """One worker had claimed them all, and has died."""
    claim("dying", limit=10, holding=0)
    return [lose(execution) for execution in executions]


def test_what_a_vanished_worker_held_is_run_by_another(api: APIClient, drain: Drain) -> None:
    execution = run(api, start(api, TRANSFORM))
    claim("vanished", limit=10, holding=0)
    drain()
    execution.refresh_from_db()
    assert execution.state == State.WORKING  # its lease still holds: nobody else may touch it
    expire(execution)
    sweep()
    drain()
    execution.refresh_from_db()
    assert (execution.state, execution.status) == (State.ENDED, "success")


def test_a_worker_that_lost_its_lease_writes_nothing(api: APIClient) -> None:
    execution = run(api, start(api, TRANSFORM))
    [claimed] = claim("slow", limit=10, holding=0)
    expire(execution)
    sweep()
    late = Change(execution.pk, claimed.lease, ending=Ending(ExecutionStatus.SUCCESS, output="1"))
    assert isinstance(write([late])[0], LeaseLost)
    execution.refresh_from_db()
    assert execution.state == State.QUEUED


def test_a_worker_whose_claim_a_crash_of_the_database_has_forgotten_writes_nothing(api: APIClient) -> None:
    execution = run(api, start(api, TRANSFORM))
    [forgotten] = claim("first", limit=1, holding=0)
    queued = {"state": State.QUEUED, "due_at": timezone.now() - timedelta(seconds=1), "claimed_at": None}
    Execution.objects.update(fence=0, lease_owner="", lease_until=None, deadline_at=None, **queued)
    [anew] = claim("first", limit=1, holding=0)
    assert anew.fence == forgotten.fence
    late, good = write([Change(execution.pk, forgotten.lease), Change(execution.pk, anew.lease)])
    assert isinstance(late, LeaseLost) and good is None


def test_an_execution_that_takes_its_worker_down_again_and_again_is_ended(api: APIClient) -> None:
    execution = run(api, start(api, TRANSFORM))
    for _ in range(4):
        claim("dying", limit=10, holding=0)
        expire(execution)
        sweep()
    execution.refresh_from_db()
    assert (execution.status, execution.error_code, execution.crashes) == ("error", "worker_lost", 3)


def test_after_one_expiry_an_execution_is_claimed_alone(api: APIClient) -> None:
    flow = start(api, TRANSFORM)
    suspect, other = run(api, flow), run(api, flow)
    claim("dying", limit=1, holding=0)
    Execution.objects.filter(state=State.WORKING).update(lease_until=Now() - timedelta(seconds=1))
    sweep()
    Execution.objects.filter(pk=suspect.pk).update(due_at=Now() - timedelta(hours=1))  # first in line
    assert [each.pk for each in claim("careful", limit=10, holding=0)] == [suspect.pk]
    assert [each.pk for each in claim("other", limit=10, holding=1)] == [other.pk]


def test_on_probation_it_waits_some_seconds_for_a_worker_that_holds_nothing(api: APIClient) -> None:
    flow = start(api, TRANSFORM)
    [suspect] = lost(run(api, flow))
    fresh = run(api, flow)
    assert [each.pk for each in claim("busy", limit=10, holding=1)] == [fresh.pk]
    wait(suspect, seconds=6)
    assert [each.pk for each in claim("busy", limit=10, holding=2)] == [suspect.pk]


def test_on_probation_each_is_let_in_by_itself(api: APIClient) -> None:
    flow = start(api, TRANSFORM)
    first, second = lost(run(api, flow), run(api, flow))
    wait(first, seconds=7)
    wait(second, seconds=6)
    fresh = run(api, flow)
    assert [each.pk for each in claim("busy", limit=10, holding=1)] == [first.pk]
    assert [each.pk for each in claim("busy", limit=10, holding=2)] == [second.pk]
    assert [each.pk for each in claim("busy", limit=10, holding=3)] == [fresh.pk]


def test_a_death_that_something_beside_it_may_have_caused_is_not_counted_as_its_own(api: APIClient) -> None:
    [execution] = lost(run(api, start(api, TRANSFORM)))
    wait(execution, seconds=6)
    claim("busy", limit=10, holding=1)
    lose(execution)
    assert (execution.crashes, execution.claim_alone) == (0, True)
    wait(execution, seconds=60)
    assert claim("busy", limit=10, holding=1) == []
    for crashes in (1, 2, 3):
        claim("idle", limit=10, holding=0)
        lose(execution)
        assert execution.crashes == crashes
    assert (execution.status, execution.error_code) == ("error", "worker_lost")


def test_what_is_to_be_alone_does_not_wait_for_ever_for_a_worker_that_holds_nothing(api: APIClient) -> None:
    [execution] = lost(run(api, start(api, TRANSFORM)))
    Execution.objects.update(claim_alone=True)
    wait(execution, seconds=121)
    assert [each.pk for each in claim("busy", limit=10, holding=1)] == [execution.pk]


def test_others_are_let_in_once_it_has_worked_for_some_time(api: APIClient, drain: Drain, world: Witness) -> None:
    slow = start(api, f'  - {{name: get, handler: blox.http, config: {{url: "{world.url}/slow?s=3"}}}}\n')
    suspects = lost(*(run(api, slow) for _ in range(4)))
    Execution.objects.update(due_at=Now() - timedelta(seconds=6))
    fresh = run(api, start(api, TRANSFORM))
    drain()
    ends = [Execution.objects.get(pk=each.pk).completed_at for each in suspects]
    began = sorted(call.began for call in world.calls)
    assert 0.5 < began[-1] - began[0] < 3  # one at a time, a quarter of a second each, but not one after another's end
    fresh.refresh_from_db()
    assert fresh.completed_at is not None and all(end is not None and fresh.completed_at < end for end in ends)


@override_settings(BLOX_WORKER_CONCURRENCY=1)  # full, it does so too
def test_a_worker_ends_the_probation_of_what_it_runs_so_a_later_death_is_not_counted(
    api: APIClient, drain: Drain, world: Witness
) -> None:
    flow = start(api, f'  - {{name: get, handler: blox.http, config: {{url: "{world.url}/slow?s=1"}}}}\n')
    [execution] = lost(run(api, flow))
    worker = threading.Thread(target=drain)
    worker.start()
    try:
        wait_until(lambda: not Execution.objects.get().on_probation, seconds=5)
        lose(execution)
        assert (execution.crashes, execution.claim_alone, execution.expiries) == (0, False, 2)
    finally:
        worker.join()
    execution.refresh_from_db()
    assert execution.status == "success"


def test_what_has_parked_has_passed_its_probation(api: APIClient, drain: Drain) -> None:
    [execution] = lost(run(api, start(api, "  - {name: wait, handler: blox.delay, config: {seconds: 600}}\n")))
    drain()
    execution.refresh_from_db()
    assert (execution.state, execution.on_probation, execution.claim_alone) == (State.PARKED, False, False)
    assert execution.expiries == 0


def test_a_death_after_probation_is_not_counted_and_the_next_probation_is_longer(api: APIClient) -> None:
    execution = run(api, start(api, TRANSFORM))
    seconds = []
    for _ in range(4):
        [claimed] = claim("worker", limit=10, holding=0)
        seconds.append(claimed.probation_seconds)
        let_others_in(claimed)
        lose(execution)
        assert (execution.crashes, execution.claim_alone, execution.on_probation) == (0, False, True)
    assert seconds == [0.0, 0.25, 2.0, 16.0]


def test_a_lease_that_is_gone_ends_no_probation(api: APIClient) -> None:
    [execution] = lost(run(api, start(api, TRANSFORM)))
    [late] = claim("slow", limit=10, holding=0)
    lose(execution)
    let_others_in(late)
    [anew] = claim("worker", limit=10, holding=0)
    let_others_in(late)
    forgotten = replace(anew, deadline_at=anew.deadline_at - timedelta(seconds=1))  # by a crash of the database
    let_others_in(forgotten)
    execution.refresh_from_db()
    assert (execution.on_probation, execution.claim_alone, anew.probation_seconds) == (True, True, 2.0)


def test_what_an_older_clock_has_put_back_is_on_probation_too(api: APIClient) -> None:
    first, second = (run(api, start(api, TRANSFORM)) for _ in range(2))
    Execution.objects.filter(pk=first.pk).update(claim_alone=True)
    [claimed] = claim("worker", limit=10, holding=0)
    assert (claimed.pk, claimed.probation_seconds) == (first.pk, 0.25)
    assert [each.pk for each in claim("other", limit=10, holding=1)] == [second.pk]


def test_an_effect_under_way_when_its_worker_died_is_not_repeated_when_it_must_not_be(
    api: APIClient, drain: Drain, world: Witness
) -> None:
    flow = start(api, f'  - {{name: pay, handler: blox.http, config: {{method: POST, url: "{world.url}/echo"}}}}\n')
    execution = run(api, flow)
    _dies_during_step(execution, "pay")
    drain()
    execution.refresh_from_db()
    assert (execution.status, execution.error_code) == ("error", "worker_lost")
    assert world.calls == []


def test_an_effect_under_way_is_repeated_when_it_may_be(api: APIClient, drain: Drain, world: Witness) -> None:
    flow = start(api, f'  - {{name: fetch, handler: blox.http, config: {{url: "{world.url}/echo"}}}}\n')
    execution = run(api, flow)
    _dies_during_step(execution, "fetch")
    drain()
    execution.refresh_from_db()
    assert execution.status == "success"
    assert [call.key for call in world.calls] == [f"{execution.pk}:{execution.steps.get().key}"]


def test_no_effect_begins_under_a_lease_that_has_run_out(api: APIClient, drain: Drain, world: Witness) -> None:
    one = f'  - {{name: one, handler: blox.http, config: {{url: "{world.url}/slow?s=0.5"}}, peers: [two]}}\n'
    two = f'  - {{name: two, handler: blox.http, config: {{url: "{world.url}/slow?s=0.6"}}}}\n'
    execution = run(api, start(api, one + two))
    worker = threading.Thread(target=drain)
    worker.start()
    wait_until(lambda: len(world.calls) == 1)
    expire(execution)  # as it has when the database was away for so long
    wait_until(lambda: len(world.calls) == 2)
    sweep()
    worker.join()
    execution.refresh_from_db()
    assert (execution.status, execution.claim_alone, len(world.calls)) == ("success", False, 2)


def test_a_hung_execution_is_ended_though_its_worker_renews_the_lease(api: APIClient) -> None:
    execution = run(api, start(api, TRANSFORM))
    claim("hung", limit=10, holding=0)
    Execution.objects.filter(pk=execution.pk).update(deadline_at=Now() - timedelta(minutes=1))
    sweep()
    execution.refresh_from_db()
    assert (execution.state, execution.status) == (State.ENDED, "timeout")


def test_two_workers_never_claim_the_same_execution(api: APIClient) -> None:
    flow = start(api, TRANSFORM)
    for _ in range(20):
        run(api, flow)
    taken: list[str] = []

    def work(owner: str) -> None:
        while claimed := claim(owner, limit=3, holding=0):
            taken.extend(str(each.pk) for each in claimed)
        connection.close()

    threads = [threading.Thread(target=work, args=(f"worker {number}",)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    left = Execution.objects.claimable().count()
    assert len(taken) == len(set(taken)) == 20 - left


@pytest.mark.skipif(connection.vendor != "postgresql", reason="no server that could end a connection")
def test_a_worker_whose_connections_the_database_has_ended_goes_on(api: APIClient) -> None:
    flow = start(api, TRANSFORM)
    with closing(Worker()) as worker:
        executions = [run(api, flow)]
        worker.drain()
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        executions.append(run(api, flow))
        worker.drain()  # finds out
        worker.drain()
    assert [result(execution) for execution in executions] == [("success", 1)] * 2


def _dies_during_step(execution: Execution, listener: str) -> None:
    """Leave what a worker leaves that is killed while the only step's effect is under way."""
    from executions.engine.planner import derive_key

    [claimed] = claim("dying", limit=10, holding=0)
    step = Step(
        execution=execution,
        key=derive_key("", "", listener),
        number=1,
        listener=listener,
        block="blox.http",
        status=StepStatus.RUNNING,
        started_at=timezone.now(),
    )
    write([Change(execution.pk, claimed.lease, steps=[step])])
    expire(execution)
    sweep()
