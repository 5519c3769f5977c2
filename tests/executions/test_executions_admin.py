"""What an operator sees of executions, and does with them."""

from datetime import timedelta
from html import unescape

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from pytest_django import DjangoAssertNumQueries

from accounts.models import User
from executions.models import Execution, ExecutionPayload, JournalEntry, LargeOutput, State, Step
from flows.models import Flow
from tests.executions.factories import NOON, make_execution, make_flow, make_step

pytestmark = pytest.mark.once

LIST = "/admin/executions/execution/"


@pytest.fixture
def flow(alice: User) -> Flow:
    return make_flow(alice)


def page_of(client: Client, row: object) -> str:
    meta = row._meta  # type: ignore[attr-defined]
    response = client.get(reverse(f"admin:executions_{meta.model_name}_change", args=[row.pk]))  # type: ignore[attr-defined]
    assert response.status_code == 200
    return response.content.decode()


def act(client: Client, action: str, *executions: Execution) -> str:
    chosen = {"action": action, "_selected_action": [str(execution.pk) for execution in executions]}
    response = client.post(LIST, chosen, follow=True)
    assert response.status_code == 200
    return unescape(response.content.decode())


def found(client: Client, query: str) -> set[object]:
    response = client.get(LIST, {"q": query})
    return {execution.pk for execution in response.context["cl"].result_list}


def test_the_list_shows_what_an_operator_looks_for_first(admin_client: Client, flow: Flow) -> None:
    long = "greet: " + "no such key " * 50
    make_execution(flow, status="error", error_message=long, ms=1234, trigger_type="webhook", trigger_name="Orders")
    html = admin_client.get(LIST).content.decode()
    for text in ("Greeter", "alice@shop.example", "Orders</span>", "1,234\xa0ms", "greet: no such key"):
        assert text in html
    assert long not in html


@pytest.mark.parametrize("model", [Execution, Step, ExecutionPayload, JournalEntry, LargeOutput])
def test_no_list_does_a_query_per_row(
    admin_client: Client, flow: Flow, model: type, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    path = reverse(f"admin:executions_{model._meta.model_name}_changelist")  # type: ignore[attr-defined]

    def make(minute: int) -> None:
        execution = make_execution(flow, started_at=NOON + timedelta(minutes=minute))
        LargeOutput.objects.create(step=make_step(execution, 1, "greet", is_output_apart=True), text="1")
        JournalEntry.objects.create(execution=execution, step_key="key-1", position="0", kind="record", value="1")

    make(0)
    with CaptureQueriesContext(connection) as before:
        admin_client.get(path)
    for minute in range(1, 10):
        make(minute)
    with django_assert_num_queries(len(before)) as after:
        admin_client.get(path)
    read = [query["sql"].partition(" FROM ")[0] for query in after]
    assert not [columns for columns in read if "organism_yaml" in columns or '"output"' in columns]


def test_search_finds_by_id_flow_user_and_trigger(admin_client: Client, flow: Flow, bob: User) -> None:
    mine = make_execution(flow, trigger_id="018f0000-0000-7000-8000-000000000001")
    bobs = make_execution(make_flow(bob, name="Nightly import"))
    assert found(admin_client, str(mine.pk)) == {mine.pk}
    assert found(admin_client, str(flow.pk)) == {mine.pk}
    assert found(admin_client, "018f0000-0000-7000-8000-000000000001") == {mine.pk}
    assert found(admin_client, "nightly") == {bobs.pk}
    assert found(admin_client, "alice@shop") == {mine.pk}
    assert found(admin_client, "nobody") == set()


@pytest.mark.parametrize(
    "query",
    ["status__exact=error", "state__exact=ended", "trigger_type__exact=webhook", "is_draft__exact=0", "p=99999"],
)
def test_filters_work(admin_client: Client, flow: Flow, query: str) -> None:
    make_execution(flow)
    assert admin_client.get(f"{LIST}?{query}", follow=True).status_code == 200


def test_the_page_shows_payloads_and_the_trace_readable_and_escaped(admin_client: Client, flow: Flow) -> None:
    execution = make_execution(
        flow, status="error", input={"name": "<script>alert(1)</script>"}, error_message="done: <b>broke</b>"
    )
    make_step(execution, 1, "greet", output={"greeting": "<img src=x>"})
    failures = [{"attempt": 1, "code": "http_status", "error": "first <i>503</i>", "at": NOON.isoformat()}]
    make_step(
        execution,
        2,
        "done",
        status="error",
        parents=["key-1"],
        error="second",
        error_code="http_status",
        failures=failures,
    )
    html = page_of(admin_client, execution)
    assert "<script>alert(1)" not in html
    assert "<img src=x>" not in html
    assert "<b>broke" not in html
    text = unescape(html)
    assert '{\n  "name": "<script>alert(1)</script>"\n}' in text
    assert text.count('"greeting": "<img src=x>"') == 2  # the output of one, the input of the other
    assert "first <i>503</i>" in text
    assert "second" in text


def test_a_large_value_is_cut_and_the_page_stays_small(admin_client: Client, flow: Flow) -> None:
    execution = make_execution(flow, input="x" * 500_000)
    large = make_step(execution, 1, "greet", is_output_apart=True)
    LargeOutput.objects.create(step=large, text='"%s"' % ("y" * 500_000))
    html = page_of(admin_client, execution)
    assert "(cut)" in html
    assert len(html) < 200_000


def test_a_page_of_many_steps_takes_few_queries_and_links_to_all(
    admin_client: Client, flow: Flow, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    execution = make_execution(flow)
    for number in range(1, 206):
        make_step(execution, number, "loop", input=number)
    with django_assert_max_num_queries(19):
        html = page_of(admin_client, execution)
    assert "These are the first 200." in html
    assert f"/admin/executions/step/?q={execution.pk}" in html
    assert admin_client.get(f"/admin/executions/step/?q={execution.pk}").context["cl"].result_count == 205


def test_history_cannot_be_added_edited_or_deleted(admin_client: Client, flow: Flow) -> None:
    execution = make_execution(flow, status="error")
    step = make_step(execution, 1, "greet", output=1)
    entry = JournalEntry.objects.create(execution=execution, step_key="key-1", position="0", kind="record", value="[1]")
    for row in (execution, step, execution.payload, entry):
        name = f"admin:executions_{row._meta.model_name}"
        page_of(admin_client, row)
        assert admin_client.get(reverse(f"{name}_add")).status_code == 403
        assert admin_client.post(reverse(f"{name}_change", args=[row.pk]), {"status": "success"}).status_code == 403
        assert admin_client.post(reverse(f"{name}_delete", args=[row.pk]), {"post": "yes"}).status_code == 403
        assert "delete_selected" not in admin_client.get(reverse(f"{name}_changelist")).content.decode()
    execution.refresh_from_db()
    assert execution.status == "error"


def test_cancel_ends_what_waits_and_says_what_had_ended(admin_client: Client, flow: Flow) -> None:
    waiting, ended = make_execution(flow, status="running"), make_execution(flow)
    html = act(admin_client, "cancel", waiting, ended)
    waiting.refresh_from_db()
    assert (waiting.state, waiting.error_message) == (State.ENDED, "Canceled by an operator.")
    assert "already ended" in html
    assert LogEntry.objects.get().object_id == str(waiting.pk)


def test_an_execution_is_retried_from_its_page_and_the_operator_lands_on_the_new_one(
    admin_client: Client, flow: Flow
) -> None:
    execution = make_execution(flow, status="error", input={"n": 1})
    assert 'value="retry_from_failed"' in page_of(admin_client, execution)
    html = act(admin_client, "retry_from_start", execution)
    retry = Execution.objects.get(retry_of=execution.pk)
    assert f"Retried as {retry.pk}" in html
    assert str(retry.pk) in html
    assert 'name="action" value="cancel"' in html  # the page of the retry, which waits


def test_a_retry_from_the_failed_step_keeps_what_finished(admin_client: Client, flow: Flow) -> None:
    execution = make_execution(flow, status="error")
    make_step(execution, 1, "greet", output="kept")
    make_step(execution, 2, "done", status="error", parents=["key-1"])
    act(admin_client, "retry_from_failed", execution)
    retry = Execution.objects.get(retry_of=execution.pk)
    assert [step.listener for step in retry.steps.all()] == ["greet"]


def test_a_retry_that_is_refused_says_why(admin_client: Client, flow: Flow) -> None:
    succeeded = make_execution(flow)
    assert "from the start instead" in act(admin_client, "retry_from_failed", succeeded)
    assert Execution.objects.count() == 1


def test_who_may_only_look_cannot_act(flow: Flow, db: None) -> None:
    viewer = User.objects.create_user("viewer@blox.example", is_staff=True)
    viewer.user_permissions.add(Permission.objects.get(codename="view_execution"))
    client = Client()
    client.force_login(viewer, backend="django.contrib.auth.backends.ModelBackend")
    execution = make_execution(flow, status="running")
    assert "blox-tool" not in page_of(client, execution)
    refused = client.post(LIST, {"action": "cancel", "_selected_action": str(execution.pk)})
    execution.refresh_from_db()
    assert (refused.status_code, execution.state) == (403, State.QUEUED)
