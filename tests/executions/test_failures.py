"""Who is told when an execution fails: a mail, another flow, a signed POST."""

import json
import smtplib
import socket
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from celery import current_app
from django.core import mail
from django.db.models.functions import Now
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from pytest_django import Settings
from rest_framework.test import APIClient
from standardwebhooks import Webhook, WebhookVerificationError

from accounts.models import User
from bloxserver.core.outbox import MAX_ATTEMPTS
from executions import tasks
from executions.dispatch import FAILURES_REST_SECONDS
from executions.engine.sweeper import sweep
from executions.failures import see_to_failures
from executions.models import Execution, FailureNotice, State
from executions.notices import claim, deliver, work_off_failures
from flows.models import Flow
from tests.executions.flows import result, run, start
from tests.local_server import LocalServer, answer, serving
from tests.waiting import wait_until

pytestmark = pytest.mark.django_db(transaction=True)
Drain = Callable[[], None]
FAILS = '  - {name: a, handler: blox.transform, config: {value: "{{ payload.ok }}"}}\n'  # without an `ok`
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def told(kind: str, target: str) -> str:
    return f"  on_failure: {{{kind}: {json.dumps(target)}}}\n"


def fail(api: APIClient, drain: Drain, flow_id: str, payload: Any = None) -> Execution:
    """An execution that fails, with all that follows from it."""
    execution = run(api, flow_id, payload or {})
    drain()
    assert result(execution)[0] == "error"
    work_off_failures()
    return execution


def a_wait_later() -> None:
    FailureNotice.objects.filter(due_at__isnull=False).update(due_at=timezone.now() - timedelta(seconds=1))
    work_off_failures()


@pytest.fixture
def receiver(settings: Settings) -> Any:
    """Answers 204, or what `status` says, which a test may change."""
    with serving(lambda request: answer(server.status)) as server:  # type: ignore[attr-defined]
        server.status = 204  # type: ignore[attr-defined]
        settings.BLOX_HTTP_ALLOW = [f"127.0.0.1:{server.port}"]
        yield server


def test_a_mail_says_what_failed_and_is_sent_once(api: APIClient, drain: Drain) -> None:
    flow = start(api, FAILS, told("email", "ops@shop.example, Eve <eve@shop.example>"))
    execution = fail(api, drain, flow)
    work_off_failures()
    a_wait_later()
    [message] = mail.outbox
    assert message.to == ["ops@shop.example", "eve@shop.example"]
    assert message.subject == 'The flow "tested" failed'
    assert "Listener: a" in message.body
    assert str(execution.pk) in message.body
    execution.refresh_from_db()
    assert execution.error_message
    assert execution.error_message in message.body
    assert FailureNotice.objects.get().state == "done"


def test_a_success_tells_nobody(api: APIClient, drain: Drain) -> None:
    run(api, start(api, FAILS, told("email", "ops@shop.example")), {"ok": 1})
    drain()
    work_off_failures()
    assert (mail.outbox, FailureNotice.objects.count()) == ([], 0)


def test_a_cancellation_tells_nobody(api: APIClient, drain: Drain) -> None:
    execution = run(api, start(api, FAILS, told("email", "ops@shop.example")))
    api.post(f"/api/v1/flows/{execution.flow_id}/executions/{execution.pk}/cancel")
    assert result(execution) == ("error", "canceled")
    work_off_failures()
    assert (mail.outbox, FailureNotice.objects.count()) == ([], 0)
    assert not Execution.objects.filter(follow_up_due=True).exists()


def test_a_test_run_of_the_draft_tells_nobody(api: APIClient, drain: Drain) -> None:
    flow = start(api, FAILS, told("email", "ops@shop.example"))
    api.post(f"/api/v1/flows/{flow}/executions/run", {"draft": True, "inputPayload": {}}, format="json")
    drain()
    work_off_failures()
    assert Execution.objects.get().status == "error"
    assert (mail.outbox, FailureNotice.objects.count()) == ([], 0)


def test_what_ends_without_a_worker_is_told_too(api: APIClient) -> None:
    execution = run(api, start(api, FAILS, told("email", "ops@shop.example")))
    long_ago = timezone.now() - timedelta(hours=1)
    Execution.objects.filter(pk=execution.pk).update(
        state=State.WORKING, lease_until=Now() + timedelta(hours=1), deadline_at=long_ago, due_at=None
    )
    sweep()
    work_off_failures()
    assert result(execution) == ("timeout", "timeout")
    assert [message.subject for message in mail.outbox] == ['The flow "tested" timed out']


def test_a_post_is_signed_with_the_stored_secret(api: APIClient, drain: Drain, receiver: LocalServer) -> None:
    api.put("/api/v1/secrets/ON_FAILURE_SIGNING_SECRET", {"value": SECRET}, format="json")
    execution = fail(api, drain, start(api, FAILS, told("url", f"{receiver.url}/failed")))
    [request] = receiver.received
    assert (request.method, request.target) == ("POST", "/failed")
    body = Webhook(SECRET).verify(request.body, request.headers)
    execution.refresh_from_db()
    assert body["type"] == "execution.failed"
    assert body["flow"] == {"id": str(execution.flow_id), "name": "tested"}
    assert body["execution"] == {"id": str(execution.pk), "version": 1}
    assert (body["status"], body["listener"], body["triggerType"]) == ("error", "a", "manual")
    assert (body["errorCode"], body["errorMessage"]) == (execution.error_code, execution.error_message)
    assert request.headers["webhook-id"] == request.headers["idempotency-key"] == str(FailureNotice.objects.get().pk)
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(request.body.replace(b"error", b"erroR"), request.headers)


def test_the_flows_own_secret_may_be_any_text(api: APIClient, drain: Drain, receiver: LocalServer) -> None:
    flow = start(api, FAILS, told("url", receiver.url))
    api.put("/api/v1/secrets/ON_FAILURE_SIGNING_SECRET", {"value": SECRET}, format="json")
    api.put(f"/api/v1/secrets/ON_FAILURE_SIGNING_SECRET?flow={flow}", {"value": "not base64!"}, format="json")
    fail(api, drain, flow)
    Webhook(b"not base64!").verify(receiver.received[0].body, receiver.received[0].headers)


def test_without_a_secret_a_post_is_unsigned(api: APIClient, drain: Drain, receiver: LocalServer) -> None:
    fail(api, drain, start(api, FAILS, told("url", receiver.url)))
    assert "webhook-id" in receiver.received[0].headers
    assert "webhook-signature" not in receiver.received[0].headers


def test_a_secret_that_cannot_sign_sends_nothing(api: APIClient, drain: Drain, receiver: LocalServer) -> None:
    api.put("/api/v1/secrets/ON_FAILURE_SIGNING_SECRET", {"value": "whsec_a"}, format="json")
    fail(api, drain, start(api, FAILS, told("url", receiver.url)))
    assert receiver.received == []
    assert "must be base64 after whsec_" in FailureNotice.objects.get().error


def test_a_receiver_that_was_down_is_told_later_with_the_same_id(
    api: APIClient, drain: Drain, receiver: LocalServer
) -> None:
    receiver.status = 503  # type: ignore[attr-defined]
    fail(api, drain, start(api, FAILS, told("url", receiver.url)))
    notice = FailureNotice.objects.get()
    assert (notice.state, notice.attempts, notice.error) == ("due", 1, "The receiver answered 503.")
    assert notice.due_at is not None
    assert notice.due_at > timezone.now() + timedelta(seconds=50)
    work_off_failures()
    assert len(receiver.received) == 1  # it is not due yet

    receiver.status = 200  # type: ignore[attr-defined]
    a_wait_later()
    a_wait_later()
    notice.refresh_from_db()
    assert (notice.state, notice.attempts, notice.error) == ("done", 2, "")
    assert [request.headers["webhook-id"] for request in receiver.received] == [str(notice.pk)] * 2
    assert receiver.received[0].body == receiver.received[1].body


def test_it_is_given_up_after_six_attempts_and_an_operator_may_send_it_again(
    api: APIClient, drain: Drain, receiver: LocalServer, admin_client: Client
) -> None:
    receiver.status = 500  # type: ignore[attr-defined]
    execution = fail(api, drain, start(api, FAILS, told("url", receiver.url)))
    for _ in range(MAX_ATTEMPTS + 2):
        a_wait_later()
    notice = FailureNotice.objects.get()
    assert (notice.state, notice.attempts) == ("given up", MAX_ATTEMPTS)
    assert len(receiver.received) == MAX_ATTEMPTS

    page = admin_client.get(reverse("admin:executions_execution_change", args=[execution.pk])).content.decode()
    assert "given up The receiver answered 500." in page
    receiver.status = 200  # type: ignore[attr-defined]
    chosen = {"action": "send_again", "_selected_action": [str(notice.pk)]}
    pages = [
        admin_client.post(reverse("admin:executions_failurenotice_changelist"), chosen, follow=True).content.decode()
        for _ in range(2)
    ]
    assert "will be tried again" in pages[0]
    assert "it is due; only what was given up is sent again" in pages[1]
    work_off_failures()
    notice.refresh_from_db()
    assert (notice.state, len(receiver.received)) == ("done", MAX_ATTEMPTS + 1)


@pytest.mark.parametrize(
    ("status", "target", "error"),
    [(410, "", "The receiver answered 410."), (204, "http://10.0.0.1/", "10.0.0.1"), (302, "", None)],
)
def test_what_can_never_arrive_is_not_tried_again(
    api: APIClient, drain: Drain, receiver: LocalServer, status: int, target: str, error: str | None
) -> None:
    receiver.status = status  # type: ignore[attr-defined]
    fail(api, drain, start(api, FAILS, told("url", target or receiver.url)))
    notice = FailureNotice.objects.get()
    assert notice.state == ("given up" if error else "due")
    assert (error or "The receiver answered 302.") in notice.error


@pytest.mark.parametrize("kind", ["email", "url"])
def test_a_worker_that_dies_between_sending_and_marking_sends_twice_at_most_under_one_id(
    api: APIClient, drain: Drain, receiver: LocalServer, kind: str
) -> None:
    run(api, start(api, FAILS, told(kind, receiver.url if kind == "url" else "ops@shop.example")), {})
    drain()
    see_to_failures()
    deliver(claim(now=timezone.now()))  # and here it dies: nothing is marked
    assert FailureNotice.objects.get().state == "due"
    work_off_failures()
    assert claim(now=timezone.now()) == []  # nobody may repeat it before its wait is over
    a_wait_later()
    a_wait_later()
    ids = (
        [request.headers["webhook-id"] for request in receiver.received]
        if kind == "url"
        else [message.extra_headers["Message-ID"] for message in mail.outbox]
    )
    assert len(ids) == 2
    assert len(set(ids)) == 1
    assert FailureNotice.objects.get().state == "done"


def test_a_worker_that_always_dies_with_it_gives_it_up(api: APIClient, drain: Drain) -> None:
    execution = run(api, start(api, FAILS))
    notice = FailureNotice.objects.create(execution=execution, kind="email", target="ops@shop.example")
    for attempt in range(1, MAX_ATTEMPTS + 1):
        assert [claimed.attempts for claimed in claim(now=timezone.now() + attempt * timedelta(days=1))] == [attempt]
    assert claim(now=timezone.now() + timedelta(days=99)) == []
    notice.refresh_from_db()
    assert notice.state == "given up"
    assert "broke off" in notice.error


def test_a_mail_server_that_is_away_is_tried_again(api: APIClient, drain: Drain, settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        settings.EMAIL_PORT = closed.getsockname()[1]
    settings.EMAIL_HOST, locmem = "127.0.0.1", settings.EMAIL_BACKEND
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    fail(api, drain, start(api, FAILS, told("email", "ops@shop.example")))
    notice = FailureNotice.objects.get()
    assert (notice.state, notice.attempts) == ("due", 1)
    assert notice.error.startswith("The mail server did not take it: ")
    settings.EMAIL_BACKEND = locmem
    a_wait_later()
    assert len(mail.outbox) == 1
    assert issubclass(smtplib.SMTPException, OSError)  # why one clause is enough


HANDLER = "  - {name: note, handler: blox.output}\n"


def handler_flow(api: APIClient, name: str, listeners: str = HANDLER, head: str = "") -> str:
    flow = start(api, listeners, head)
    assert api.patch(f"/api/v1/flows/{flow}", {"name": name}, format="json").status_code == 200
    return flow


def test_another_flow_gets_the_report_as_its_payload_exactly_once(
    api: APIClient, drain: Drain, admin_client: Client
) -> None:
    other = handler_flow(api, "Rescue")
    failed = fail(api, drain, start(api, FAILS, told("flow", "Rescue")))
    work_off_failures()
    a_wait_later()
    drain()
    made = Execution.objects.get(flow_id=other)
    status, output = result(made)
    assert (status, output["execution"]["id"], output["listener"]) == ("success", str(failed.pk), "a")
    assert (made.trigger_name, made.parent_id) == ("failure of tested", failed.pk)
    assert FailureNotice.objects.get().started == made.pk
    page = admin_client.get(reverse("admin:executions_execution_change", args=[made.pk])).content.decode()
    assert "the failure of" in page


def test_another_flow_that_is_stopped_is_started_once_it_runs_again(api: APIClient, drain: Drain) -> None:
    other = handler_flow(api, "Rescue")
    api.post(f"/api/v1/flows/{other}/stop")
    fail(api, drain, start(api, FAILS, told("flow", other)))
    notice = FailureNotice.objects.get()
    assert notice.state == "due"
    assert 'The flow "Rescue" is stopped' in notice.error
    api.post(f"/api/v1/flows/{other}/start")
    a_wait_later()
    assert Execution.objects.filter(flow_id=other).count() == 1


def test_a_strangers_flow_is_not_found(api: APIClient, bobs_api: APIClient, drain: Drain) -> None:
    other = handler_flow(bobs_api, "Rescue")
    fail(api, drain, start(api, FAILS, told("flow", other)))
    assert "There is no flow" in FailureNotice.objects.get().error
    assert not Execution.objects.filter(flow_id=other).exists()


def test_flows_that_fail_do_not_start_each_other_for_ever(api: APIClient, drain: Drain) -> None:
    first = handler_flow(api, "Ping", FAILS, told("flow", "Pong"))
    # Pong fails because the flow that it calls fails: that one's failure starts nothing either.
    second = handler_flow(api, "Pong", "  - {name: a, handler: blox.call_flow, config: {flow: Ping}}\n")
    run(api, first, {})
    for _ in range(5):
        drain()
        a_wait_later()
    assert Execution.objects.filter(flow_id=second).count() == 1
    assert Execution.objects.filter(flow_id=first).count() == 2
    last = FailureNotice.objects.first()
    assert last is not None
    assert last.state == "given up"
    assert "itself started by the failure of another" in last.error


def test_the_clocks_task_does_it_all_beside_the_ticks(api: APIClient, drain: Drain) -> None:
    run(api, start(api, FAILS, told("email", "ops@shop.example")), {})
    drain()
    tasks.failures()
    wait_until(lambda: FailureNotice.objects.filter(done_at__isnull=False).exists())
    assert len(mail.outbox) == 1


def test_a_bell_that_was_lost_is_rung_again_by_the_sweeper(api: APIClient, drain: Drain) -> None:
    run(api, start(api, FAILS, told("email", "ops@shop.example")), {})
    drain()
    heard: list[str] = []
    with current_app.connection_for_read() as connection:
        queue = connection.SimpleQueue("clock")
        queue.clear()
        time.sleep(FAILURES_REST_SECONDS)
        sweep()

        def listen() -> bool:
            try:
                message = queue.get(timeout=0.2)
            except queue.Empty:
                return False
            message.ack()
            heard.append(message.headers["task"])
            return "executions.failures" in heard

        wait_until(listen)


@pytest.mark.parametrize("row", range(2))
def test_the_page_of_a_notice_shows_it(api: APIClient, drain: Drain, admin_client: Client, row: int) -> None:
    fail(api, drain, start(api, FAILS, told("email", "ops@shop.example")))
    notice = FailureNotice.objects.get()
    page = (
        reverse("admin:executions_failurenotice_change", args=[notice.pk]),
        reverse("admin:executions_failurenotice_changelist") + "?state=done",
    )[row]
    html = admin_client.get(page).content.decode()
    assert "ops@shop.example" in html
    assert "done" in html


def test_the_list_of_notices_does_no_query_per_row(
    admin_client: Client, api: APIClient, alice: User, drain: Drain, django_assert_max_num_queries: Any
) -> None:
    flow = start(api, FAILS)
    for _ in range(5):
        FailureNotice.objects.create(execution=run(api, flow), kind="email", target="ops@shop.example")
    with django_assert_max_num_queries(8) as asked:
        admin_client.get(reverse("admin:executions_failurenotice_changelist"))
    assert not [query for query in asked if "organism_yaml" in query["sql"]]
    assert Flow.objects.get(pk=flow).user == alice
