"""What a webhook's URL takes, and what it answers."""

import gzip
import json
import logging
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connection
from django.test import Client
from django.utils import timezone

from accounts.models import Tier, User
from bloxserver.core.deferred import CAN_DEFER
from executions.models import Execution
from flows.models import Flow
from flows.services import stop_flow
from tests.triggers.conftest import path_of, payload_of, post
from triggers import ingress
from triggers.logs import MaskTokens
from triggers.models import Delivery, Trigger
from triggers.services import release_deliveries, update_trigger

FORM = "application/x-www-form-urlencoded"
NOT_FOUND = b'{"code":"not_found","message":"Not found.","details":null}'


def test_a_call_is_accepted_as_one_execution(caller: Client, flow: Flow, webhook: Trigger) -> None:
    answer = post(caller, webhook, '{"order": 7}')
    assert answer.status_code == 202
    execution = Execution.objects.get()
    assert answer.json() == {
        "status": "accepted",
        "executionId": str(execution.pk),
        "message": "The execution is accepted and will run.",
    }
    assert (execution.flow_id, execution.trigger_id, execution.trigger_type) == (flow.pk, webhook.pk, "webhook")


@pytest.mark.parametrize(
    ("type", "body", "payload"),
    [
        ("application/json", b'{"userID": 1.0, "snake_key": 12345678901234567890}', None),  # to the letter
        ("application/vnd.api+json; charset=utf-8", b"[1, 2]", None),
        ("application/json", b'\xef\xbb\xbf{"a": 1}', '{"a": 1}'),  # a byte order mark
        ("application/json", b"", "null"),
        (FORM, b"a=1&b=x+y%C3%A9&a=2&empty=", '{"a":["1","2"],"b":"x yé","empty":""}'),
        ("text/plain", "grüße".encode(), '"grüße"'),
        ("text/plain; charset=iso-8859-1", "grüße".encode("latin-1"), '"grüße"'),
        ("application/xml", b"<a>1</a>", '"<a>1</a>"'),
        ("image/svg+xml", b"<svg/>", '"<svg/>"'),
        ("image/png", b"\x89PNG", '{"base64":"iVBORw==","contentType":"image/png","size":4}'),
        ("", b"raw", '{"base64":"cmF3","contentType":"application/octet-stream","size":3}'),
    ],
)
def test_a_body_becomes_a_payload_by_its_content_type(
    caller: Client, webhook: Trigger, type: str, body: bytes, payload: str | None
) -> None:
    answer = post(caller, webhook, body, type)
    assert answer.status_code == 202, answer.content
    assert payload_of(answer.json()["executionId"]) == (body.decode() if payload is None else payload)


def test_multipart_becomes_fields_and_files(caller: Client, webhook: Trigger) -> None:
    upload = SimpleUploadedFile("r.bin", b"\x00\x01", content_type="application/octet-stream")
    answer = caller.post(path_of(webhook), {"name": "Ada", "tag": ["a", "b"], "file": upload})
    assert json.loads(payload_of(answer.json()["executionId"])) == {
        "name": "Ada",
        "tag": ["a", "b"],
        "file": {"filename": "r.bin", "base64": "AAE=", "contentType": "application/octet-stream", "size": 2},
    }


@pytest.mark.parametrize(
    ("type", "body", "code"),
    [
        ("application/json", b"{", "invalid_json"),
        ("application/json", b'{"a": NaN}', "invalid_json"),
        ("application/json", b'{"a": 1, "a": 2}', "invalid_json"),
        ("application/json", b'"\\ud800"', "invalid_json"),
        ("application/json", b'"\\u0000"', "invalid_json"),
        ("application/json", b"\xff", "invalid_json"),
        ("application/json", b"[" * 100_000 + b"]" * 100_000, "invalid_json"),
        ("application/json", b"9" * 5000, "invalid_json"),
        (FORM, b"a=%FF", "invalid_body"),
        (FORM, b"a=%00", "invalid_body"),
        (FORM, b"&".join(b"a=1" for _ in range(1001)), "invalid_body"),
        ("text/plain", b"\xff\xfe", "invalid_body"),
        ("text/plain", b"a\x00b", "invalid_body"),
        ("multipart/form-data", b"--x", "invalid_body"),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Dispo", "invalid_body"),
    ],
)
def test_a_body_that_is_not_what_it_says_is_refused(
    caller: Client, webhook: Trigger, type: str, body: bytes, code: str
) -> None:
    answer = post(caller, webhook, body, type)
    assert (answer.status_code, answer.json()["code"]) == (400, code)
    assert not Execution.objects.exists()


def test_a_megabyte_is_taken_and_a_byte_more_is_not(caller: Client, webhook: Trigger, settings: Any) -> None:
    settings.WEBHOOK_MAX_BYTES = 1000
    assert post(caller, webhook, b"x" * 1000, "text/plain").status_code == 202
    answer = post(caller, webhook, b"x" * 1001, "text/plain")
    assert (answer.status_code, answer.json()["code"]) == (413, "payload_too_large")


@pytest.mark.parametrize("type", ["text/plain", "application/octet-stream", FORM])
def test_a_whole_megabyte_of_any_type_is_accepted(caller: Client, webhook: Trigger, settings: Any, type: str) -> None:
    assert post(caller, webhook, b"x" * settings.WEBHOOK_MAX_BYTES, type).status_code == 202


def test_an_encoded_body_is_refused(caller: Client, webhook: Trigger) -> None:
    answer = post(caller, webhook, gzip.compress(b"{}"), content_encoding="gzip")
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_content_encoding")
    assert post(caller, webhook, b"{}", content_encoding="identity").status_code == 202


def test_the_flow_sees_the_call_but_no_credentials(caller: Client, webhook: Trigger) -> None:
    caller.cookies["sessionid"] = "cookie-secret"
    answer = caller.post(
        f"{path_of(webhook)}?a=1&a=2&b=%C3%A9",
        "{}",
        content_type="application/json",
        headers={"Authorization": "Bearer token-secret", "X-Request-Id": "r-1"},
    )
    text = Execution.objects.get(pk=answer.json()["executionId"]).payload.trigger
    trigger = json.loads(text)
    assert (trigger["type"], trigger["name"], trigger["method"]) == ("webhook", webhook.name, "POST")
    assert trigger["query"] == {"a": ["1", "2"], "b": "é"}
    assert (trigger["headers"]["x-request-id"], trigger["headers"]["content-type"]) == ("r-1", "application/json")
    assert trigger["firedAt"].endswith("Z")
    assert "secret" not in text


def test_other_methods_are_taken_where_the_config_names_them(
    caller: Client, make_trigger: Callable[..., Trigger]
) -> None:
    webhook = make_trigger("webhook", methods=["GET", "PUT"])
    got = caller.get(f"{path_of(webhook)}?id=7")
    assert payload_of(got.json()["executionId"]) == "null"
    put = caller.put(path_of(webhook), "[1]", content_type="application/json")
    assert payload_of(put.json()["executionId"]) == "[1]"


@pytest.mark.parametrize("method", ["get", "put", "patch", "delete", "head", "options"])
def test_a_method_that_is_not_taken_is_told_which_are(caller: Client, webhook: Trigger, method: str) -> None:
    answer = getattr(caller, method)(path_of(webhook))
    assert (answer.status_code, answer["Allow"]) == (405, "POST")
    assert not Execution.objects.exists()


@pytest.mark.parametrize("reason", ["unknown", "disabled", "closed account", "malformed"])
def test_every_reason_for_not_finding_a_webhook_looks_the_same(
    caller: Client, webhook: Trigger, alice: User, reason: str
) -> None:
    path = path_of(webhook)
    if reason == "disabled":
        update_trigger(trigger=webhook, changes={"enabled": False}, now=timezone.now())
    elif reason == "closed account":
        User.objects.filter(pk=alice.pk).update(is_active=False)
    else:
        path = "/webhooks/" + ("x" * 43 if reason == "unknown" else "%F0%9F%98%80")
    for answer in (caller.post(path, "{}", content_type="application/json"), caller.get(f"{path}/test")):
        assert (answer.status_code, answer.content) == (404, NOT_FOUND)
    assert not Execution.objects.exists()


def test_a_stopped_flow_is_a_conflict(caller: Client, flow: Flow, webhook: Trigger) -> None:
    stop_flow(flow=flow)
    answer = post(caller, webhook, "{}", idempotency_key="k")
    assert (answer.status_code, answer.json()["code"]) == (409, "flow_not_running")
    assert not Delivery.objects.receipts().exists()  # the same key works once the flow runs


def test_a_used_up_tier_is_payment_required(
    caller: Client, webhook: Trigger, alice: User, django_assert_num_queries: Any
) -> None:
    from billing.models import RunBudget

    User.objects.filter(pk=alice.pk).update(tier=Tier.FREE)
    assert post(caller, webhook).status_code == 202
    RunBudget.objects.update(runs=1000)
    answer = post(caller, webhook, idempotency_key="k")
    assert (answer.status_code, answer.json()["code"]) == (402, "usage_limit_exceeded")
    assert Execution.objects.count() == 1


def test_calls_are_limited_by_tier_apart_from_api_requests(caller: Client, webhook: Trigger, alice: User) -> None:
    User.objects.filter(pk=alice.pk).update(tier=Tier.FREE)
    answers = [post(caller, webhook) for _ in range(120)]
    assert {answer.status_code for answer in answers} == {202}
    # The window slides: where a minute ends meanwhile, another call or two are let through.
    answer = next(filter(lambda answer: answer.status_code != 202, (post(caller, webhook) for _ in range(5))))
    assert (answer.status_code, answer.json()["code"]) == (429, "rate_limit_exceeded")
    assert int(answer["Retry-After"]) >= 1
    assert answer["X-RateLimit-Limit"] == "120"


def test_the_test_path_tells_of_the_flow_and_fires_nothing(caller: Client, flow: Flow, webhook: Trigger) -> None:
    answer = caller.get(f"{path_of(webhook)}/test")
    assert answer.json() == {"valid": True, "triggerName": webhook.name, "flowName": flow.name, "flowStatus": "running"}
    assert caller.post(f"{path_of(webhook)}/test").status_code == 405
    assert not Execution.objects.exists()


def test_the_token_stays_out_of_the_log(
    caller: Client, webhook: Trigger, capsys: pytest.CaptureFixture[str], settings: Any
) -> None:
    settings.DEBUG = True  # Django has a console of its own for development
    console = next(handler for handler in logging.getLogger().handlers if MaskTokens in map(type, handler.filters))
    assert isinstance(console, logging.StreamHandler)
    stream = console.setStream(sys.stderr)
    try:
        caller.get(path_of(webhook))  # 405, which Django logs with the path
    finally:
        console.setStream(stream)
    written = capsys.readouterr().err
    assert "Method Not Allowed: /webhooks/***" in written
    assert str(webhook.webhook_token) not in written
    handlers = [handler for name in ("django", "django.request") for handler in logging.getLogger(name).handlers]
    assert handlers == []  # so all goes through the one console


def test_accepting_a_call_costs_a_handful_of_queries(
    caller: Client, webhook: Trigger, django_assert_max_num_queries: Any
) -> None:
    post(caller, webhook)
    with django_assert_max_num_queries(
        8
    ):  # the webhook, a savepoint, the flow, variables, execution, payload, delivery
        post(caller, webhook)


# Repeats. --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "header", ["Idempotency-Key", "X-GitHub-Delivery", "webhook-id", "svix-id", "X-Shopify-Webhook-Id"]
)
def test_a_repeat_is_answered_with_the_first_execution(caller: Client, webhook: Trigger, header: str) -> None:
    first = post(caller, webhook, '{"a": 1}', **{header: "d-1"})
    again = post(caller, webhook, '{"a": 1}', **{header: "d-1"})
    other = post(caller, webhook, '{"a": 1}', **{header: "d-2"})
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json() == again.json()
    assert again["Idempotent-Replayed"] == "true"
    assert "Idempotent-Replayed" not in first
    assert other.json()["executionId"] != first.json()["executionId"]
    assert Execution.objects.count() == 2


def test_stripe_repeats_an_event_with_another_count_in_its_body(caller: Client, webhook: Trigger) -> None:
    headers = {"Stripe-Signature": "t=1,v1=x"}
    first = post(caller, webhook, '{"id": "evt_1", "pending_webhooks": 2}', **headers)
    again = post(caller, webhook, '{"id": "evt_1", "pending_webhooks": 1}', **headers)
    assert first.json()["executionId"] == again.json()["executionId"]
    assert post(caller, webhook, '{"id": "evt_1"}').json()["executionId"] != first.json()["executionId"]


def test_another_body_under_the_same_key_is_refused(caller: Client, webhook: Trigger) -> None:
    first = post(caller, webhook, '{"a": 1}', idempotency_key="k")
    answer = post(caller, webhook, '{"a": 2}', idempotency_key="k")
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")
    assert answer.json()["details"] == {"executionId": first.json()["executionId"]}
    assert Execution.objects.count() == 1


def test_a_key_is_one_webhooks_own(caller: Client, webhook: Trigger, make_trigger: Callable[..., Trigger]) -> None:
    first, second = (post(caller, hook, idempotency_key="k").json() for hook in (webhook, make_trigger("webhook")))
    assert first["executionId"] != second["executionId"]


def test_a_key_too_long_is_refused(caller: Client, webhook: Trigger) -> None:
    assert post(caller, webhook, idempotency_key="k" * 255).status_code == 202
    answer = post(caller, webhook, idempotency_key="k" * 256)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_idempotency_key")


def test_a_key_is_forgotten_after_72_hours(caller: Client, webhook: Trigger) -> None:
    post(caller, webhook, "1", idempotency_key="k")
    old = timezone.now() - timedelta(hours=73)
    Delivery.objects.update(received_at=old)
    again = post(caller, webhook, "2", idempotency_key="k")
    assert again.status_code == 202
    assert "Idempotent-Replayed" not in again
    Delivery.objects.update(received_at=old)
    assert release_deliveries(now=timezone.now()) == 1
    assert not Delivery.objects.receipts().exists()
    assert Delivery.objects.count() == 2  # the ledger outlives the keys


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("left", [50, 1])
def test_fifty_deliveries_at_once_are_one_execution(webhook: Trigger, alice: User, left: int) -> None:
    """Also where it is the month's last run: those that lost the race get the winner's answer, not a 402."""
    from billing.models import RunBudget

    User.objects.filter(pk=alice.pk).update(tier=Tier.FREE)
    post(Client(), webhook)
    RunBudget.objects.update(runs=1000 - left)
    Execution.objects.all().delete()
    answers: list[Any] = []
    gate = threading.Barrier(10)

    def deliver() -> None:
        gate.wait()
        for _ in range(5):
            answers.append(post(Client(), webhook, '{"a": 1}', x_github_delivery="d-1"))
        connection.close()

    threads = [threading.Thread(target=deliver) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers] == [202] * 50
    assert {answer.json()["executionId"] for answer in answers} == {str(Execution.objects.get().pk)}
    assert sum(1 for answer in answers if "Idempotent-Replayed" not in answer) == 1
    assert RunBudget.objects.get().runs == 1000 - left + 1


def test_a_database_that_is_away_is_told_to_come_back_later(
    caller: Client, django_db_blocker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with django_db_blocker.unblock():
        connection.close()
        monkeypatch.setitem(connection.settings_dict, "NAME", "/nowhere/to/be/found")
        answer = caller.post("/webhooks/" + "x" * 43)
        connection.close()
    assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
    assert int(answer["Retry-After"]) >= 1


def test_a_call_too_many_is_told_to_come_again(webhook: Trigger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where calls are accepted in batches, and as many wait as memory is meant for."""
    monkeypatch.setattr(ingress, "MAX_WAITING", 0)
    environ: dict[str, Any] = {CAN_DEFER: True}
    answer: Any = Client(**environ).post(path_of(webhook), "1", content_type="application/json")
    assert (answer.status_code, answer.json()["code"], answer["Retry-After"]) == (503, "server_busy", "1")
    assert Execution.objects.count() == 0
