"""An explanation names the row of the ledger that made the execution: the webhook's call, or the schedule's moment."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from asgiref.sync import async_to_sync
from django.db import connection
from django.test import Client, RequestFactory
from rest_framework.test import APIClient

from accounts.models import User
from bloxserver.api.throttling import limiter
from bloxserver.core.batching import Batcher
from bloxserver.core.deferred import CAN_DEFER, finished
from bloxserver.core.ids import new_id
from executions.models import Execution
from flows.models import Flow
from flows.services import start_flow, stop_flow
from tests.executions.flows import retry_from_failed
from tests.triggers.conftest import path_of, post
from triggers import ingress
from triggers.models import Delivery, Moment, Trigger
from triggers.services import delete_trigger, tick


@pytest.fixture(autouse=True)
def _uncounted() -> None:
    limiter().reset()


def of_flow(api: APIClient, flow_id: UUID, path: str) -> Any:
    answer = api.get(f"/api/v1/flows/{flow_id}/{path}")
    assert answer.status_code == 200, answer.content
    return answer.json()


def why(api: APIClient, trigger: Trigger, execution_id: str | UUID) -> dict[str, Any]:
    told: dict[str, Any] = of_flow(api, trigger.flow_id, f"executions/{execution_id}/explain")["why"]
    return told


def row_of(api: APIClient, trigger: Trigger, ledger: str, row_id: str) -> dict[str, Any]:
    row: dict[str, Any] = of_flow(api, trigger.flow_id, f"triggers/{trigger.pk}/{ledger}/{row_id}")
    return row


def test_a_call_without_any_key_is_named(caller: Client, api: APIClient, webhook: Trigger) -> None:
    execution_id = post(caller, webhook, '{"order": 7}').json()["executionId"]
    told = why(api, webhook, execution_id)
    assert (told["address"], told["deliveryKey"], told["momentId"]) == ("127.0.0.1", None, None)
    assert told["text"] == (
        f'A POST request came from 127.0.0.1 to the webhook "A webhook", delivery {told["deliveryId"]}.'
    )
    row = row_of(api, webhook, "deliveries", told["deliveryId"])
    assert (row["executionId"], row["verdict"]) == (execution_id, "accepted")
    assert row["receivedAt"] == told["receivedAt"] == told["firedAt"]


def test_of_repeated_calls_the_first_is_named(caller: Client, api: APIClient, webhook: Trigger) -> None:
    first = post(caller, webhook, "1", x_github_delivery="d-1").json()["executionId"]
    assert post(caller, webhook, "1", x_github_delivery="d-1").json()["executionId"] == first
    told = why(api, webhook, first)
    assert told["deliveryKey"] == "github:d-1"
    assert row_of(api, webhook, "deliveries", told["deliveryId"])["verdict"] == "accepted"
    assert Delivery.objects.filter(execution_id=first).count() == 2


@pytest.mark.django_db(transaction=True)
def test_of_calls_that_are_accepted_together_each_has_its_own(
    api: APIClient, webhook: Trigger, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle = ingress._settle

    def settle_and_close(calls: Any) -> Any:  # the thread's connection would outlive the test's database
        try:
            return settle(calls)
        finally:
            connection.close()

    monkeypatch.setattr(ingress, "_batcher", Batcher(settle_and_close, most=100, name="tested"))

    def call(number: int) -> Any:
        request = RequestFactory().post(path_of(webhook), str(number), "application/json")
        request.META[CAN_DEFER] = True  # as the server says that can wait for several
        answer: Any = ingress.receive(request, webhook.webhook_token or "")
        return answer.future

    async def call_at_once() -> list[Any]:
        return await asyncio.gather(*[call(number) for number in range(8)])

    answers = [finished(each) for each in async_to_sync(call_at_once)()]
    assert [answer.status_code for answer in answers] == [202] * 8
    assert Execution.objects.values("started_at").distinct().count() < 8  # or they were no batch
    made_by = {str(row.execution_id): str(row.pk) for row in Delivery.objects.all()}
    assert len(made_by) == 8
    assert {execution: why(api, webhook, execution)["deliveryId"] for execution in made_by} == made_by


def test_a_replay_names_the_delivery_that_had_been_refused(
    caller: Client, api: APIClient, flow: Flow, webhook: Trigger, alice: User
) -> None:
    stop_flow(flow=flow)
    post(caller, webhook, "1", idempotency_key="k")
    refused = Delivery.objects.get()
    start_flow(flow=Flow.objects.get(), by=alice)
    url = f"/api/v1/flows/{flow.pk}/triggers/{webhook.pk}/deliveries/{refused.pk}/replay"
    execution_id = api.post(url).json()["id"]
    assert post(caller, webhook, "1", idempotency_key="k").json()["executionId"] == execution_id  # a duplicate

    told = why(api, webhook, execution_id)

    assert (told["deliveryId"], told["deliveryKey"]) == (str(refused.pk), "k")
    assert told["receivedAt"] < told["firedAt"]
    assert told["text"].startswith(f'Somebody replayed the delivery {refused.pk} of the webhook "A webhook", which had')


def test_a_moment_of_a_schedule_is_named(api: APIClient, make_trigger: Callable[..., Trigger]) -> None:
    schedule = make_trigger("schedule", cron="* * * * *", catchUp="all")
    assert schedule.next_fire_at is not None
    tick(now=schedule.next_fire_at)
    execution = Execution.objects.get()
    told = why(api, schedule, execution.pk)
    assert told["deliveryId"] is None
    row = row_of(api, schedule, "moments", told["momentId"])
    assert (row["executionId"], row["moment"]) == (str(execution.pk), told["scheduledFor"])


@pytest.mark.parametrize("type", ["webhook", "manual", "schedule"])
def test_what_a_person_fired_has_no_row(api: APIClient, make_trigger: Callable[..., Trigger], type: str) -> None:
    trigger = make_trigger(type, **({"cron": "* * * * *"} if type == "schedule" else {}))
    fired = api.post(f"/api/v1/flows/{trigger.flow_id}/triggers/{trigger.pk}/fire", {}, format="json").json()["id"]
    told = why(api, trigger, fired)
    assert (told["deliveryId"], told["momentId"], told["receivedAt"], told["address"]) == (None, None, None, None)
    assert "by hand" in told["text"]


@pytest.mark.django_db(transaction=True)
def test_a_retry_names_what_made_the_first(
    caller: Client, api: APIClient, webhook: Trigger, drain: Callable[[], None]
) -> None:
    first = post(caller, webhook, "1").json()["executionId"]
    api.post(f"/api/v1/flows/{webhook.flow_id}/executions/{first}/cancel")
    retried = retry_from_failed(api, Execution.objects.get(pk=first))
    api.post(f"/api/v1/flows/{webhook.flow_id}/executions/{retried.pk}/cancel")
    again = retry_from_failed(api, retried)
    told = why(api, webhook, again.pk)
    assert told["text"] == f"It repeats the execution {retried.pk}."
    assert told["deliveryId"] == why(api, webhook, first)["deliveryId"] == str(Delivery.objects.get().pk)


def test_what_is_gone_from_the_ledger_is_not_named(caller: Client, api: APIClient, webhook: Trigger) -> None:
    pruned = post(caller, webhook, "1").json()["executionId"]
    Delivery.objects.all().delete()
    assert why(api, webhook, pruned)["deliveryId"] is None
    kept = post(caller, webhook, "1").json()["executionId"]
    delete_trigger(trigger=webhook, now=webhook.created_at)
    assert why(api, webhook, kept)["deliveryId"] is None


def test_the_admin_leads_to_the_row_and_its_trigger(
    caller: Client, admin_client: Client, webhook: Trigger, make_trigger: Callable[..., Trigger]
) -> None:
    schedule = make_trigger("schedule", cron="* * * * *")
    assert schedule.next_fire_at is not None
    post(caller, webhook, "1")
    tick(now=schedule.next_fire_at)
    for trigger, row in ((webhook, Delivery.objects.get()), (schedule, Moment.objects.get())):
        page = admin_client.get(f"/admin/executions/execution/{row.execution_id}/change/").content.decode()
        for url in (
            f"/admin/triggers/{row._meta.model_name}/{row.pk}/change/",
            f"/admin/triggers/trigger/{trigger.pk}/change/",
        ):
            assert f'href="{url}"' in page
            assert admin_client.get(url).status_code == 200


def test_a_row_is_found_by_indexes_alone(caller: Client, api: APIClient, webhook: Trigger) -> None:
    if connection.vendor != "postgresql":
        pytest.skip("SQLite's planner needs statistics for it")
    post(caller, webhook, "1")
    delivery = Delivery.objects.get()
    Delivery.objects.bulk_create(  # among few, any index will do
        Delivery(
            trigger=webhook,
            received_at=delivery.received_at + timedelta(seconds=number),
            verdict="accepted",
            execution_id=new_id(),
            size=1,
        )
        for number in range(1, 1_000)
    )
    rows = Delivery.objects.filter(trigger=webhook, execution_id=delivery.execution_id)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE triggers_delivery")
    assert "delivery_list" in rows.filter(received_at=delivery.received_at, verdict="accepted").explain()
    assert "delivery_replayed" in rows.filter(replayed_at__isnull=False).order_by().explain()
