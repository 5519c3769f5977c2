"""Retrying and cancelling many executions by filter, over HTTP and the task."""

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.db import OperationalError
from django.test import Client
from django.utils import timezone
from rest_framework.test import APIClient

from accounts.models import User
from executions import tasks
from executions.bulk import services
from executions.bulk.models import BulkOperation
from executions.models import Execution, State
from flows.models import Flow, FlowStatus
from tests.executions.factories import NOON, make_execution, make_flow

RETRY, CANCEL = "/api/v1/executions/retry", "/api/v1/executions/cancel"


@pytest.fixture
def flow(alice: User) -> Flow:
    return make_flow(alice)


def operation(api: APIClient, accepted: Any) -> dict[str, Any]:
    assert accepted.status_code == 202, accepted.content
    return api.get(f"/api/v1/executions/operations/{accepted.json()['id']}").json()


def test_failed_executions_are_retried_by_filter_with_progress(api: APIClient, alice: User, flow: Flow) -> None:
    failed = [make_execution(flow, status=status, input=1) for status in ("error", "timeout")]
    make_execution(flow)
    make_execution(make_flow(alice, name="Other"), status="error")
    make_execution(flow, status="error", started_at=NOON - timedelta(days=1))

    accepted = api.post(RETRY, {"flow": str(flow.pk), "since": "2026-03-01T00:00:00Z"})

    assert {name: accepted.json()[name] for name in ("verb", "status", "total", "done", "failed", "errors")} == {
        "verb": "retry",
        "status": "running",
        "total": 2,
        "done": 0,
        "failed": 0,
        "errors": [],
    }
    tasks.work_operations()
    tasks.work_operations()  # a bell that is heard twice changes nothing
    told = operation(api, accepted)
    assert (told["status"], told["done"], told["failed"]) == ("done", 2, 0)
    retries = Execution.objects.filter(retry_of__isnull=False)
    assert {row.retry_of for row in retries} == {row.pk for row in failed}
    assert len(retries) == 2


def test_what_waits_is_canceled_by_filter(api: APIClient, alice: User, flow: Flow) -> None:
    waiting = [make_execution(flow, status="running") for _ in range(3)]
    ended = make_execution(flow)
    other = make_execution(make_flow(alice, name="Other"), status="running")

    accepted = api.post(CANCEL, {"flow": str(flow.pk)})
    tasks.work_operations()

    assert operation(api, accepted)["done"] == 3
    assert {Execution.objects.get(pk=row.pk).error_code for row in waiting} == {"canceled"}
    assert Execution.objects.get(pk=ended.pk).status == "success"
    assert Execution.objects.get(pk=other.pk).state == State.QUEUED


def test_ids_name_them_and_another_tenants_are_not_touched(
    api: APIClient, bobs_api: APIClient, alice: User, bob: User, flow: Flow
) -> None:
    mine, bobs = make_execution(flow, status="running"), make_execution(make_flow(bob), status="running")

    accepted = api.post(CANCEL, {"ids": [str(mine.pk), str(bobs.pk), str(uuid4())]})
    tasks.work_operations()

    assert operation(api, accepted)["total"] == 1
    assert Execution.objects.get(pk=bobs.pk).state == State.QUEUED
    assert bobs_api.get(f"/api/v1/executions/operations/{accepted.json()['id']}").status_code == 404


def test_each_refusal_is_told_and_the_others_go_on(api: APIClient, alice: User, flow: Flow) -> None:
    stopped = make_flow(alice, name="Stopped")
    refused, fine = make_execution(stopped, status="error"), make_execution(flow, status="error")
    Flow.objects.filter(pk=stopped.pk).update(status=FlowStatus.STOPPED, container_id=None)

    accepted = api.post(RETRY, {"status": ["error"]})
    tasks.work_operations()

    told = operation(api, accepted)
    assert (told["total"], told["done"], told["failed"]) == (2, 1, 1)
    assert [(error["executionId"], error["code"]) for error in told["errors"]] == [
        (str(refused.pk), "flow_not_running")
    ]
    assert Execution.objects.get(retry_of__isnull=False).retry_of == fine.pk


def test_a_worker_that_dies_leaves_the_rest_to_the_next(
    api: APIClient, flow: Flow, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        make_execution(flow, status="error")
    accepted = api.post(RETRY, {"flow": str(flow.pk)})
    real, calls = services.retry_execution, []

    def dies_after_the_second(**arguments: Any) -> Execution:
        retry = real(**arguments)
        calls.append(retry)
        if len(calls) == 2:
            raise OperationalError("the connection is gone")
        return retry

    monkeypatch.setattr(services, "retry_execution", dies_after_the_second)
    with pytest.raises(OperationalError):
        tasks.work_operations()
    assert operation(api, accepted)["done"] == 1

    tasks.work_operations()

    assert operation(api, accepted)["done"] == 3
    assert Execution.objects.filter(retry_of__isnull=False).count() == 3


def test_one_that_nobody_foresaw_does_not_hold_up_the_others(api: APIClient, flow: Flow) -> None:
    broken, fine = make_execution(flow, status="error"), make_execution(flow, status="error")
    broken.payload.delete()

    accepted = api.post(RETRY, {"ids": [str(broken.pk), str(fine.pk)]})
    tasks.work_operations()

    told = operation(api, accepted)
    assert (told["status"], told["done"], told["failed"]) == ("done", 1, 1)
    assert [error["code"] for error in told["errors"]] == ["internal_error"]


def test_a_retry_from_the_failed_step_is_one_of_each(api: APIClient, flow: Flow) -> None:
    execution = make_execution(flow, status="error")
    api.post(RETRY, {"ids": [str(execution.pk)], "from": "failed"})
    tasks.work_operations()
    assert Execution.objects.get(retry_of=execution.pk).version_id == execution.version_id


def test_nothing_to_do_is_done_at_once(api: APIClient, flow: Flow) -> None:
    told = operation(api, api.post(CANCEL, {"flow": str(flow.pk)}))
    assert (told["status"], told["total"]) == ("done", 0)


@pytest.mark.parametrize(
    "body", [{}, {"ids": []}, {"status": ["lost"]}, {"since": "yesterday"}, {"flow": 5}, {"search": 5}, {"ids": ["x"]}]
)
def test_a_body_that_names_nothing_or_cannot_be_is_refused(api: APIClient, body: dict[str, Any]) -> None:
    answer = api.post(CANCEL, body)
    assert (answer.status_code, answer.json()["code"]) == (400, "validation_error")
    assert not BulkOperation.objects.exists()


def test_too_many_are_refused_whole(api: APIClient, flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "MAX_EXECUTIONS", 2)
    for _ in range(3):
        make_execution(flow, status="error")
    answer = api.post(RETRY, {"status": ["error"]})
    assert (answer.status_code, answer.json()["code"]) == (409, "filter_too_broad")
    assert api.post(RETRY, {"status": ["error"], "until": "2026-02-01T00:00:00Z"}).status_code == 202


def test_old_operations_go(api: APIClient, flow: Flow) -> None:
    make_execution(flow, status="running")
    api.post(CANCEL, {"flow": str(flow.pk)})
    tasks.work_operations()
    BulkOperation.objects.update(completed_at=timezone.now() - timedelta(days=31))
    tasks.prune_history()
    assert not BulkOperation.objects.exists()


def test_operators_see_them(api: APIClient, admin_client: Client, alice: User, flow: Flow) -> None:
    make_execution(flow, status="error")
    Flow.objects.filter(pk=flow.pk).update(status=FlowStatus.STOPPED, container_id=None)
    made = api.post(RETRY, {"flow": str(flow.pk)}).json()["id"]
    tasks.work_operations()
    assert alice.email in admin_client.get("/admin/executions/bulkoperation/").content.decode()
    page = admin_client.get(f"/admin/executions/bulkoperation/{made}/change/").content.decode()
    assert "flow_not_running" in page
