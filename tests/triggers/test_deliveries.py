"""The ledger of webhook calls: each leaves a row, and what was refused can be replayed."""

import json
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from django.db import IntegrityError, connection
from django.test import Client
from django.utils import timezone
from rest_framework.test import APIClient

from accounts.models import Tier, User
from bloxserver.api.throttling import limiter
from executions.models import Execution
from flows.models import Flow
from flows.services import start_flow, stop_flow
from tests.triggers.conftest import path_of, payload_of, post
from triggers.errors import NotReplayable
from triggers.models import Delivery, Trigger
from triggers.services import (
    delete_trigger,
    prune_ledgers,
    release_deliveries,
    replay_delivery,
    update_trigger,
    webhooks,
)
from triggers.services import deliveries as ledger


@pytest.fixture(autouse=True)
def _uncounted() -> None:
    limiter().reset()


def list_of(api: APIClient, webhook: Trigger, **query: str) -> list[dict[str, Any]]:
    answer = api.get(f"/api/v1/flows/{webhook.flow_id}/triggers/{webhook.pk}/deliveries", query)
    assert answer.status_code == 200, answer.content
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


def replay(api: APIClient, webhook: Trigger, delivery_id: str | UUID) -> Any:
    return api.post(f"/api/v1/flows/{webhook.flow_id}/triggers/{webhook.pk}/deliveries/{delivery_id}/replay")


def test_an_accepted_call_is_on_record_with_its_execution(caller: Client, api: APIClient, webhook: Trigger) -> None:
    answer = post(caller, webhook, '{"order": 7}', idempotency_key="k-1")
    (row,) = list_of(api, webhook)
    assert (row["verdict"], row["code"], row["executionId"]) == ("accepted", "", answer.json()["executionId"])
    assert (row["address"], row["method"], row["size"], row["key"]) == ("127.0.0.1", "POST", 12, "k-1")
    assert (row["replayable"], row["times"], row["minute"]) == (False, 1, None)


@pytest.mark.parametrize(("proxies", "address"), [(0, "127.0.0.1"), (1, "203.0.113.9")])
def test_of_forwarded_addresses_only_what_our_own_proxies_say_is_believed(
    caller: Client, webhook: Trigger, settings: Any, proxies: int, address: str
) -> None:
    settings.REST_FRAMEWORK = {**settings.REST_FRAMEWORK, "NUM_PROXIES": proxies}
    post(caller, webhook, x_forwarded_for="198.51.100.1, 203.0.113.9")
    assert Delivery.objects.get().address == address


def test_a_repeat_and_another_body_under_its_key_are_on_record(caller: Client, webhook: Trigger) -> None:
    first = post(caller, webhook, "1", idempotency_key="k").json()["executionId"]
    post(caller, webhook, "1", idempotency_key="k")
    post(caller, webhook, "2", idempotency_key="k")
    rows = list(Delivery.objects.order_by("received_at", "id").values_list("verdict", "code", "execution_id"))
    assert rows == [
        ("accepted", "", UUID(first)),
        ("duplicate", "", UUID(first)),
        ("key_reused", "idempotency_key_reused", None),
    ]


@pytest.mark.parametrize(
    ("body", "headers", "verdict", "code"),
    [
        ("{", {}, "invalid", "invalid_json"),
        ("{}", {"idempotency_key": "k" * 256}, "invalid", "invalid_idempotency_key"),
        ("{}", {"content_encoding": "gzip"}, "invalid", "unsupported_content_encoding"),
        ("x" * 101, {}, "too_large", "payload_too_large"),
    ],
)
def test_what_cannot_be_read_is_on_record_without_its_content(
    caller: Client, api: APIClient, webhook: Trigger, settings: Any, body: str, headers: Any, verdict: str, code: str
) -> None:
    settings.WEBHOOK_MAX_BYTES = 100
    answer = post(caller, webhook, body, **headers)
    assert answer.json()["code"] == code
    (row,) = list_of(api, webhook)
    assert (row["verdict"], row["code"], row["reason"]) == (verdict, code, answer.json()["message"])
    assert (row["size"], row["executionId"], row["replayable"]) == (len(body), None, False)
    assert Delivery.objects.get().request == ""
    refused = replay(api, webhook, row["id"])
    assert (refused.status_code, refused.json()["code"]) == (409, "not_replayable")


def test_another_method_is_on_record(caller: Client, webhook: Trigger) -> None:
    caller.put(path_of(webhook), "{}", content_type="application/json")
    row = Delivery.objects.get()
    assert (row.verdict, row.code, row.method) == ("method_not_allowed", "method_not_allowed", "PUT")


def test_what_a_claimed_size_says_is_never_an_error(caller: Client, webhook: Trigger) -> None:
    for size, status in (("9" * 5000, 413), ("-1", 400), ("\u0665", 400)):
        answer = caller.generic("POST", path_of(webhook), b"", content_type="text/plain", CONTENT_LENGTH=size)
        assert answer.status_code == status
    assert sorted(Delivery.objects.values_list("size", flat=True)) == [0, 0, 2**63 - 1]


def test_an_unknown_token_leaves_nothing(caller: Client, webhook: Trigger) -> None:
    caller.post("/webhooks/" + "x" * 43)
    caller.get(f"{path_of(webhook)}/test")  # and is no delivery
    assert not Delivery.objects.exists()


def test_a_refused_call_can_be_replayed_once_the_flow_runs(
    caller: Client, api: APIClient, flow: Flow, webhook: Trigger, alice: User
) -> None:
    stop_flow(flow=flow)
    caller.cookies["sessionid"] = "cookie-secret"
    answer = caller.post(
        f"{path_of(webhook)}?a=1",
        '{"order": 1.0}',
        content_type="application/json",
        headers={"Authorization": "Bearer token-secret", "X-Request-Id": "r-1", "Idempotency-Key": "k"},
    )
    assert answer.status_code == 409
    (row,) = list_of(api, webhook)
    assert (row["verdict"], row["code"], row["replayable"]) == ("flow_stopped", "flow_not_running", True)
    assert "secret" not in Delivery.objects.get().request
    assert replay(api, webhook, row["id"]).json()["code"] == "flow_not_running"

    start_flow(flow=Flow.objects.get(), by=alice)
    replayed = replay(api, webhook, row["id"])
    assert replayed.status_code == 201
    execution_id = replayed.json()["id"]
    assert payload_of(execution_id) == '{"order": 1.0}'
    seen = json.loads(Execution.objects.get(pk=execution_id).payload.trigger)
    assert (seen["method"], seen["query"], seen["headers"]["x-request-id"]) == ("POST", {"a": "1"}, "r-1")
    (row,) = list_of(api, webhook)
    assert (row["verdict"], row["executionId"], row["replayable"]) == ("flow_stopped", execution_id, False)
    assert row["replayedAt"] is not None

    again = replay(api, webhook, row["id"])
    assert (again.status_code, again.json()["details"]) == (409, {"executionId": execution_id})
    assert Execution.objects.count() == 1
    # Its sender, who was told that it was refused, sends it again: the key is the replayed one's.
    repeat = caller.post(
        f"{path_of(webhook)}?a=1", '{"order": 1.0}', content_type="application/json", headers={"Idempotency-Key": "k"}
    )
    assert (repeat.status_code, repeat["Idempotent-Replayed"]) == (202, "true")
    assert repeat.json()["executionId"] == execution_id


def test_what_its_sender_has_sent_again_is_not_replayed(
    caller: Client, api: APIClient, flow: Flow, webhook: Trigger, alice: User
) -> None:
    stop_flow(flow=flow)
    post(caller, webhook, "1", idempotency_key="k")
    refused = Delivery.objects.get()
    start_flow(flow=Flow.objects.get(), by=alice)
    assert post(caller, webhook, "1", idempotency_key="k").status_code == 202
    answer = replay(api, webhook, refused.pk)
    assert answer.status_code == 409
    assert "sent it again" in answer.json()["message"]
    assert Execution.objects.count() == 1


def test_an_accepted_call_is_not_replayed(caller: Client, api: APIClient, webhook: Trigger) -> None:
    execution_id = post(caller, webhook).json()["executionId"]
    answer = replay(api, webhook, Delivery.objects.get().pk)
    assert (answer.status_code, answer.json()["code"]) == (409, "not_replayable")
    assert answer.json()["details"] == {"executionId": execution_id}


def test_a_disabled_webhook_keeps_its_calls_and_looks_unknown(caller: Client, api: APIClient, webhook: Trigger) -> None:
    update_trigger(trigger=webhook, changes={"enabled": False}, now=timezone.now())
    assert post(caller, webhook, "[1]").status_code == 404
    (row,) = list_of(api, webhook)
    assert (row["verdict"], row["reason"], row["replayable"]) == ("disabled", "The trigger is disabled.", True)
    answer = replay(api, webhook, row["id"])
    assert (answer.status_code, answer.json()["code"]) == (409, "trigger_disabled")
    update_trigger(trigger=webhook, changes={"enabled": True}, now=timezone.now())
    assert replay(api, webhook, row["id"]).status_code == 201


def test_what_a_limit_refused_is_kept(caller: Client, api: APIClient, webhook: Trigger, alice: User) -> None:
    from billing.models import RunBudget

    User.objects.filter(pk=alice.pk).update(tier=Tier.FREE)
    post(caller, webhook)
    RunBudget.objects.update(runs=1000)
    assert post(caller, webhook, "[1]").status_code == 402
    (row,) = list_of(api, webhook, verdict="over_limit")
    assert row["code"] == "usage_limit_exceeded"
    assert replay(api, webhook, row["id"]).status_code == 402
    User.objects.filter(pk=alice.pk).update(tier=Tier.PRO)
    assert replay(api, webhook, row["id"]).status_code == 201


def test_a_throttled_call_is_kept(caller: Client, webhook: Trigger, alice: User) -> None:
    User.objects.filter(pk=alice.pk).update(tier=Tier.FREE)
    statuses = [post(caller, webhook, "[1]").status_code for _ in range(122)]
    assert statuses == [202] * 120 + [429] * 2
    rows = Delivery.objects.filter(verdict="throttled")
    assert [(row.code, json.loads(row.request)["payload"]) for row in rows] == [("rate_limit_exceeded", "[1]")] * 2


def test_a_flood_of_refusals_is_counted_in_one_row(
    caller: Client, api: APIClient, webhook: Trigger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "ROWS_A_MINUTE", 3)
    for _ in range(10):
        assert post(caller, webhook, "{").status_code == 400
    rows = Delivery.objects.filter(minute=None)
    assert rows.count() == 3
    flood = list(Delivery.objects.exclude(minute=None))
    assert sum(row.times for row in flood) == 7
    assert len(flood) <= 2  # the minute may have changed
    answer = replay(api, webhook, flood[0].pk)
    assert answer.status_code == 409
    assert "many calls" in answer.json()["message"]


def test_a_flood_does_not_fill_the_disk_with_what_it_sent(
    caller: Client, flow: Flow, webhook: Trigger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "KEPT_KIB_A_MINUTE", 10)
    stop_flow(flow=flow)
    for _ in range(4):
        post(caller, webhook, "x" * 4000, "text/plain")
    assert Delivery.objects.filter(held=True).count() == 2
    assert Delivery.objects.filter(held=False, request="", verdict="flow_stopped").count() == 2


@pytest.mark.django_db(transaction=True)
def test_a_flood_from_many_threads_loses_no_count(webhook: Trigger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "ROWS_A_MINUTE", 1)
    gate = threading.Barrier(6)

    def call() -> None:
        gate.wait()
        for _ in range(10):
            post(Client(), webhook, "{")
        connection.close()

    threads = [threading.Thread(target=call) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(Delivery.objects.values_list("times", flat=True)) == 60
    assert Delivery.objects.count() <= 5


def test_a_ledger_that_cannot_be_written_changes_no_answer(
    caller: Client, webhook: Trigger, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ledger, "_row", lambda *args, **kwargs: Delivery(trigger=webhook, verdict="nonsense" * 9))
    monkeypatch.setattr(Delivery, "save", lambda *args, **kwargs: 1 / 0)
    assert post(caller, webhook, "{").status_code == 400
    assert "not on record" in caplog.text


def test_keys_and_contents_go_after_72_hours_and_rows_with_the_history(
    caller: Client, api: APIClient, flow: Flow, webhook: Trigger, alice: User
) -> None:
    stop_flow(flow=flow)
    post(caller, webhook, "[1]")
    start_flow(flow=Flow.objects.get(), by=alice)
    post(caller, webhook, "1", idempotency_key="k")
    now = timezone.now()
    assert release_deliveries(now=now + timedelta(hours=71)) == 0
    assert release_deliveries(now=now + timedelta(hours=73)) == 2
    assert set(Delivery.objects.values_list("held", "request")) == {(False, "")}
    answer = replay(api, webhook, Delivery.objects.get(verdict="flow_stopped").pk)
    assert "72 hours" in answer.json()["message"]
    assert prune_ledgers(now + timedelta(days=29)) == 0
    assert prune_ledgers(now + timedelta(days=29, minutes=30)) == 0  # not yet its turn
    assert prune_ledgers(now + timedelta(days=31)) == 2
    assert not Delivery.objects.exists()
    assert Execution.objects.count() == 1


def test_pruning_goes_by_tier_and_in_batches(webhook: Trigger, alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    from triggers.services import ledgers

    monkeypatch.setattr(ledgers, "PRUNED_ROWS", 2)
    now = timezone.now()
    old = now - timedelta(days=40)
    Delivery.objects.bulk_create(
        Delivery(trigger=webhook, verdict="invalid", method="POST", size=0, received_at=old) for _ in range(5)
    )
    User.objects.filter(pk=alice.pk).update(tier=Tier.ENTERPRISE)
    assert prune_ledgers(now) == 0
    User.objects.filter(pk=alice.pk).update(tier=Tier.PRO)
    Trigger.objects.update(ledgers_pruned_at=None)
    assert [prune_ledgers(now) for _ in range(4)] == [2, 2, 1, 0]


def test_the_list_is_newest_first_and_filtered(caller: Client, api: APIClient, webhook: Trigger) -> None:
    for body in ("1", "{", "2"):
        post(caller, webhook, body)
    assert [row["verdict"] for row in list_of(api, webhook)] == ["accepted", "invalid", "accepted"]
    assert [row["verdict"] for row in list_of(api, webhook, verdict="invalid")] == ["invalid"]
    middle = list_of(api, webhook, verdict="invalid")[0]["receivedAt"]
    assert [row["size"] for row in list_of(api, webhook, until=middle)] == [1]
    assert len(list_of(api, webhook, since=middle)) == 2
    assert len(list_of(api, webhook, pageSize="1", page="2")) == 1
    url = f"/api/v1/flows/{webhook.flow_id}/triggers/{webhook.pk}/deliveries"
    assert api.get(url, {"verdict": "nonsense"}).status_code == 400
    assert api.get(url, {"since": "yesterday"}).status_code == 400


def test_a_delivery_is_found_under_its_own_trigger_alone(
    caller: Client, api: APIClient, flow: Flow, webhook: Trigger, make_trigger: Callable[..., Trigger]
) -> None:
    other = make_trigger("webhook")
    stop_flow(flow=flow)
    post(caller, webhook)
    assert list_of(api, other) == []
    assert replay(api, other, Delivery.objects.get().pk).status_code == 404


@pytest.mark.django_db(transaction=True)
def test_a_replay_pressed_twice_at_once_is_one_execution(
    caller: Client, flow: Flow, webhook: Trigger, alice: User
) -> None:
    stop_flow(flow=flow)
    post(caller, webhook, "[1]")
    start_flow(flow=Flow.objects.get(), by=alice)
    gate, refused = threading.Barrier(4), []

    def press() -> None:
        delivery = Delivery.objects.select_related("trigger__flow__user").get()
        gate.wait()
        try:
            replay_delivery(delivery=delivery, now=timezone.now())
        except NotReplayable as error:
            refused.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=press) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 3
    assert Execution.objects.count() == 1


@pytest.mark.django_db(transaction=True)  # whose constraints are looked at as they really are
def test_a_call_whose_trigger_goes_while_it_looks_for_the_call_before_it_is_not_found(
    caller: Client, webhook: Trigger, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = webhooks._receipts

    def collide(*_: Any, **__: Any) -> None:
        raise IntegrityError(
            "as the ledger's unique constraint says when another call with this key is committed first"
        )

    def look_after_the_trigger_has_gone(arrivals: Any) -> Any:
        delete_trigger(trigger=webhook, now=timezone.now())
        return look(arrivals)

    monkeypatch.setattr(webhooks, "_accept_together", collide)
    monkeypatch.setattr(webhooks, "_receipts", look_after_the_trigger_has_gone)
    assert post(caller, webhook, "1", idempotency_key="k").status_code == 404


@pytest.mark.django_db(transaction=True)
def test_calls_while_their_trigger_is_deleted_are_accepted_or_not_found(
    webhook: Trigger, make_trigger: Callable[..., Trigger]
) -> None:
    statuses: list[int] = []
    for _ in range(5):
        hook = make_trigger("webhook")
        gate = threading.Barrier(5)

        def call(hook: Trigger = hook, gate: threading.Barrier = gate) -> None:
            gate.wait()
            for number in range(6):
                statuses.append(post(Client(), hook, "1", idempotency_key=f"{number}").status_code)
            connection.close()

        def delete(hook: Trigger = hook, gate: threading.Barrier = gate) -> None:
            gate.wait()
            delete_trigger(trigger=hook, now=timezone.now())
            connection.close()

        threads = [threading.Thread(target=call) for _ in range(4)] + [threading.Thread(target=delete)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not Trigger.objects.filter(pk=hook.pk).exists()
    assert set(statuses) <= {202, 404}
