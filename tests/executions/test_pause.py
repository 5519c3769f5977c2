"""A flow that does nothing but fail is paused after ten failures in a row, and its owner is told why."""

from collections.abc import Callable
from datetime import timedelta
from threading import Barrier, Thread
from typing import Any
from uuid import UUID

import pytest
from django.core import mail
from django.db import connection
from django.test import Client
from django.utils import timezone
from rest_framework.test import APIClient

from executions.endings import Ending
from executions.engine.leases import Claimed, claim
from executions.engine.planner import derive_key
from executions.engine.store import Change, write
from executions.engine.sweeper import sweep
from executions.failures import FAILURES_IN_A_ROW, pause_if_failing
from executions.models import Execution, ExecutionStatus, FailureNotice, State, Step, StepStatus
from executions.notices import work_off_failures
from flows.models import Flow
from flows.services import start_flow
from tests.executions.flows import retry_from_failed, run, start
from tests.flows.test_races import while_uncommitted
from tests.witness import Witness

pytestmark = pytest.mark.django_db(transaction=True)
Drain = Callable[[], None]
POSTS = """\
  - {{name: post, handler: blox.http, config: {{method: POST, url: "{url}/status/404", json: "{{{{ payload }}}}"}}}}
"""
FAILS = '  - {name: a, handler: blox.transform, config: {value: "{{ payload.ok }}"}}\n'  # without an `ok`


def status_of(api: APIClient, flow: str) -> tuple[str, str | None]:
    answer = api.get(f"/api/v1/flows/{flow}").json()
    return answer["status"], answer["errorMessage"]


def runs(api: APIClient, drain: Drain, flow: str, *payloads: Any, draft: bool = False) -> list[Execution]:
    """Run them one after the other, each with what follows from it."""
    for payload in payloads:
        sent = {"inputPayload": payload, "draft": draft}
        answer = api.post(f"/api/v1/flows/{flow}/executions/run", sent, format="json")
        assert answer.status_code == 201, answer.json()
        drain()
        work_off_failures()
    return list(Execution.objects.filter(flow_id=flow).order_by("pk"))


def test_the_tenth_failure_in_a_row_pauses_the_flow_and_mails_its_owner(api: APIClient, drain: Drain) -> None:
    flow = start(api, FAILS)
    runs(api, drain, flow, *[{}] * 9)
    assert status_of(api, flow) == ("running", None)
    last = runs(api, drain, flow, {})[-1]
    status, message = status_of(api, flow)
    assert status == "error"
    assert message is not None
    assert message.startswith(f"Paused after 10 failures in a row. The last execution, {last.pk}, failed: ")
    assert last.error_message is not None
    assert last.error_message in message
    assert "start the flow again" in message
    refused = api.post(f"/api/v1/flows/{flow}/executions/run", {}, format="json")
    assert (refused.status_code, refused.json()["code"]) == (409, "flow_not_running")
    [told] = mail.outbox
    assert told.to == ["alice@shop.example"]
    assert told.subject == 'The flow "tested" was paused after 10 failures in a row'
    assert last.error_message in told.body


def test_a_success_between_them_begins_the_count_anew(api: APIClient, drain: Drain) -> None:
    flow = start(api, FAILS)
    runs(api, drain, flow, *[{}] * 9, {"ok": 1}, {})
    assert status_of(api, flow) == ("running", None)
    runs(api, drain, flow, *[{}] * 8)
    assert status_of(api, flow) == ("running", None)
    runs(api, drain, flow, {})
    assert status_of(api, flow)[0] == "error"


def test_a_restart_begins_the_count_anew(api: APIClient, drain: Drain) -> None:
    flow = start(api, FAILS)
    runs(api, drain, flow, *[{}] * 10)
    assert status_of(api, flow)[0] == "error"
    assert api.post(f"/api/v1/flows/{flow}/start").status_code == 200
    runs(api, drain, flow, *[{}] * 9)
    assert status_of(api, flow) == ("running", None)
    runs(api, drain, flow, {})
    assert status_of(api, flow)[0] == "error"
    assert len(mail.outbox) == 2


def test_what_an_earlier_deployment_accepted_does_not_count(api: APIClient, drain: Drain) -> None:
    flow = start(api, FAILS)
    for _ in range(10):
        run(api, flow, {})
    api.post(f"/api/v1/flows/{flow}/start")
    drain()
    work_off_failures()
    assert Execution.objects.filter(status="error").count() == 10
    assert status_of(api, flow) == ("running", None)


def test_a_retry_of_an_old_version_does_not_count(api: APIClient, drain: Drain) -> None:
    flow = start(api, FAILS)
    [old] = runs(api, drain, flow, {})
    text = api.get(f"/api/v1/flows/{flow}").json()["organismYaml"].replace("payload.ok", "payload.good")
    api.patch(f"/api/v1/flows/{flow}", {"organismYaml": text}, format="json")
    api.post(f"/api/v1/flows/{flow}/start")
    for _ in range(10):
        retry_from_failed(api, old)
    drain()
    work_off_failures()
    assert Execution.objects.filter(status="error").count() == 11
    assert status_of(api, flow) == ("running", None)


def test_test_runs_of_the_draft_do_not_count(api: APIClient, drain: Drain) -> None:
    flow = start(api, FAILS)
    runs(api, drain, flow, *[{}] * 10, draft=True)
    runs(api, drain, flow, *[{}] * 9)
    assert status_of(api, flow) == ("running", None)


def test_cancellations_neither_count_nor_begin_the_count_anew(api: APIClient, drain: Drain) -> None:
    flow = start(api, FAILS)
    for _ in range(11):
        canceled = run(api, flow, {})
        api.post(f"/api/v1/flows/{flow}/executions/{canceled.pk}/cancel")
    work_off_failures()
    runs(api, drain, flow, *[{}] * 9)
    canceled = run(api, flow, {})
    api.post(f"/api/v1/flows/{flow}/executions/{canceled.pk}/cancel")
    work_off_failures()
    assert status_of(api, flow) == ("running", None)
    runs(api, drain, flow, {})
    assert status_of(api, flow)[0] == "error"


def test_one_death_of_a_worker_counts_once_whatever_it_cut_off(api: APIClient, drain: Drain, world: Witness) -> None:
    flow = start(api, POSTS.format(url=world.url))
    for _ in range(10):
        run(api, flow, {})
    die_during_all(flow, worker="one")
    for _ in range(10):  # each is alone now
        drain()
    work_off_failures()
    assert Execution.objects.filter(error_code="worker_lost", crashes=0).count() == 10
    assert status_of(api, flow) == ("running", None)
    runs(api, drain, flow, *[{}] * 8)
    assert status_of(api, flow) == ("running", None)
    runs(api, drain, flow, {})
    assert status_of(api, flow)[0] == "error"


def test_an_effect_that_kills_ten_workers_pauses_its_flow(api: APIClient, drain: Drain, world: Witness) -> None:
    flow = start(api, POSTS.format(url=world.url))
    for number in range(10):
        assert status_of(api, flow) == ("running", None)
        run(api, flow, {})
        die_during_all(flow, worker=f"worker {number}")
        drain()
        work_off_failures()
    status, message = status_of(api, flow)
    assert status == "error"
    assert message is not None
    assert "10 failures in a row" in message


def test_a_success_between_deaths_begins_the_count_anew(api: APIClient, drain: Drain, world: Witness) -> None:
    flow = start(api, POSTS.format(url=world.url).replace("404", "{{ payload.status }}"))
    for number in range(10):
        if number == 5:
            runs(api, drain, flow, {"status": 200})
        run(api, flow, {"status": 404})
        die_during_all(flow, worker=f"worker {number}")
        drain()
        work_off_failures()
    assert status_of(api, flow) == ("running", None)


def test_executions_that_take_down_three_workers_each_count(api: APIClient, drain: Drain) -> None:
    flow = start(api, FAILS)
    runs(api, drain, flow, *[{}] * 8)
    for _ in range(2):  # of one name the workers, and yet each of the two counts
        poison = run(api, flow, {"ok": 1})
        for _ in range(4):  # the first death may be another's fault
            claim("dying", limit=1, holding=0)
            expire(flow)
        poison.refresh_from_db()
        assert (poison.error_code, poison.crashes) == ("worker_lost", 3)
    work_off_failures()
    assert status_of(api, flow)[0] == "error"


def die_during_all(flow: str, worker: str) -> None:
    """Leave what a worker leaves that is killed while it POSTs for all that the flow has queued."""
    for claimed in claim(worker, limit=100, holding=0):
        key = derive_key("", "", "post")
        step = Step(execution_id=claimed.pk, key=key, number=1, listener="post", block="blox.http")
        step.status, step.started_at = StepStatus.RUNNING, timezone.now()
        write([Change(claimed.pk, claimed.lease, steps=[step])])
    expire(flow)


def expire(flow: str) -> None:
    Execution.objects.filter(flow_id=flow, state=State.WORKING).update(lease_until=timezone.now() - timedelta(hours=1))
    sweep()


def test_the_tenth_failure_is_told_of_by_on_failure_too(api: APIClient, drain: Drain) -> None:
    flow = start(api, FAILS, "  on_failure: {email: ops@shop.example}\n")
    runs(api, drain, flow, *[{}] * 10)
    assert [message.to[0] for message in mail.outbox].count("ops@shop.example") == 10
    assert [message.to[0] for message in mail.outbox].count("alice@shop.example") == 1


def test_two_that_end_the_ninth_and_the_tenth_at_once_pause_it_once(api: APIClient, drain: Drain) -> None:
    flow = start(api, FAILS)
    runs(api, drain, flow, *[{}] * 8)
    for _ in range(2):
        run(api, flow, {})
    claimed = claim("worker", limit=2, holding=0)
    together = Barrier(2)

    def end(execution: Claimed) -> None:
        try:
            together.wait(timeout=20)
            write([Change(execution.pk, execution.lease, ending=Ending(ExecutionStatus.ERROR, "failed", "No."))])
            together.wait(timeout=20)
            work_off_failures()
        finally:
            connection.close()

    threads = [Thread(target=end, args=[each]) for each in claimed]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=40)
    work_off_failures()
    assert status_of(api, flow)[0] == "error"
    assert len(mail.outbox) == 1
    assert FailureNotice.objects.get().kind == "paused"


def test_whoever_counted_before_the_pause_was_committed_does_not_pause_again(api: APIClient, drain: Drain) -> None:
    flow = start(api, FAILS)
    for _ in range(11):
        run(api, flow, {})
    drain()
    second = while_uncommitted(lambda: pause_if_failing(UUID(flow)), lambda: pause_if_failing(UUID(flow)))
    assert second is False
    assert status_of(api, flow)[0] == "error"
    assert FailureNotice.objects.count() == 1


def test_a_start_at_the_same_moment_wins_over_the_pause(api: APIClient, drain: Drain) -> None:
    flow = start(api, FAILS)
    for _ in range(10):
        run(api, flow, {})
    drain()
    row = Flow.objects.get()
    paused = while_uncommitted(lambda: start_flow(flow=row, by=row.user), lambda: pause_if_failing(UUID(flow)))
    assert paused is False
    assert status_of(api, flow) == ("running", None)


def test_the_count_reads_the_index_that_was_made_for_it(api: APIClient, drain: Drain) -> None:
    if connection.vendor != "postgresql":
        pytest.skip("SQLite's planner needs statistics for it")
    flow = start(api, FAILS)
    ends = Execution.objects.last_ended().filter(flow_id=flow, completed_at__gte=timezone.now() - timedelta(days=1))
    with connection.cursor() as cursor:
        cursor.execute("SET enable_seqscan = off")
        plan = ends[:FAILURES_IN_A_ROW].explain()
        cursor.execute("RESET enable_seqscan")
    assert "execution_last_ended" in plan
    assert "Sort" not in plan


def test_an_operator_sees_why_a_flow_was_paused(api: APIClient, drain: Drain, admin_client: Client) -> None:
    flow = start(api, FAILS)
    runs(api, drain, flow, *[{}] * 10)
    page = admin_client.get(f"/admin/flows/flow/{flow}/change/").content.decode()
    assert "Paused after 10 failures in a row." in page
