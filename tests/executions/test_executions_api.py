"""Lists of executions, one of them, and running, cancelling and retrying, over HTTP."""

from collections.abc import Callable
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from pytest_django import DjangoAssertNumQueries
from rest_framework.test import APIClient

from accounts.models import User
from accounts.services import create_access_token
from executions.models import Execution, State
from flows.models import Flow, FlowStatus
from tests.executions.factories import NOON, make_execution, make_flow, make_step

NOT_FOUND = {"code": "not_found", "message": "Not found.", "details": None}


@pytest.fixture
def flow(alice: User) -> Flow:
    return make_flow(alice)


def url(flow: Flow, *path: object) -> str:
    return "/".join(["/api/v1/flows", str(flow.pk), "executions", *map(str, path)])


def ids(response: object) -> list[UUID]:
    return [UUID(item["id"]) for item in response.json()["items"]]  # type: ignore[attr-defined]


# Lists. ----------------------------------------------------------------------------------------------------------
def test_a_flows_executions_are_listed_newest_first_without_payloads(api: APIClient, flow: Flow) -> None:
    old = make_execution(flow, input={"big": "x" * 1000}, queued_ms=20, ms=1500, trigger_name="By hand")
    new = make_execution(flow, status="running", started_at=NOON + timedelta(hours=1), trigger_type="webhook")

    response = api.get(url(flow))

    assert ids(response) == [new.pk, old.pk]
    assert response.json()["total"] == 2
    assert response.json()["pageSize"] == 50
    assert response.json()["items"][1] == {
        "id": str(old.pk),
        "flowId": str(flow.pk),
        "status": "success",
        "triggerType": "manual",
        "triggerId": None,
        "triggerName": "By hand",
        "startedAt": "2026-03-01T12:00:00Z",
        "completedAt": "2026-03-01T12:00:01.520000Z",
        "durationMs": 1500,
        "queuedMs": 20,
        "errorCode": "",
        "errorMessage": None,
        "isDraft": False,
        "retryOf": None,
        "parentId": None,
        "cancelRequestedAt": None,
    }


def test_a_list_reads_no_payload_and_no_row_one_by_one(
    api: APIClient, flow: Flow, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    for minute in range(5):
        make_execution(flow, started_at=NOON + timedelta(minutes=minute))
    with django_assert_num_queries(5) as queries:  # the user, the flow, the page, the counters, what is alive
        assert len(ids(api.get(url(flow)))) == 5
    assert not [query["sql"] for query in queries if "executionpayload" in query["sql"]]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("status=error", ["failed"]),
        ("status=error&status=timeout", ["late", "failed"]),
        ("status=error,timeout", ["late", "failed"]),
        ("triggerType=schedule", ["late"]),
        ("since=2026-03-01T13:00:00Z", ["late", "failed"]),
        ("until=2026-03-01T13:00:00Z", ["fine"]),
        ("since=2026-03-01T14:00:00%2B01:00&until=2026-03-01T14:00:00Z", ["failed"]),
        ("status=", ["late", "failed", "fine"]),
    ],
)
def test_filters_narrow_a_list(api: APIClient, flow: Flow, query: str, expected: list[str]) -> None:
    rows = {
        "fine": make_execution(flow),
        "failed": make_execution(flow, status="error", started_at=NOON + timedelta(hours=1)),
        "late": make_execution(flow, status="timeout", trigger_type="schedule", started_at=NOON + timedelta(hours=2)),
    }
    assert ids(api.get(f"{url(flow)}?{query}")) == [rows[name].pk for name in expected]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("status=canceled", "status"),
        ("triggerType=email", "triggerType"),
        ("since=yesterday", "since"),
        ("until=0001-01-01T00:00:00%2B14:00", "until"),
        ("until=2026-13-01", "until"),
        ("cursor=nonsense", "cursor"),
        ("cursor=%C3%A9", "cursor"),
        # "0001-01-01T00:00:00+23:59" and an id: a moment before the first
        ("cursor=MDAwMS0wMS0wMVQwMDowMDowMCsyMzo1OSAwMDAwMDAwMC0wMDAwLTAwMDAtMDAwMC0wMDAwMDAwMDAwMDA", "cursor"),
        ("page=0", "page"),
    ],
)
def test_a_filter_that_cannot_be_is_refused_by_name(api: APIClient, flow: Flow, query: str, field: str) -> None:
    response = api.get(f"{url(flow)}?{query}")
    assert response.status_code == 400
    assert response.json()["code"] == "validation_error"
    assert field in response.json()["details"]


def test_a_cursor_walks_the_whole_list_although_new_executions_arrive(api: APIClient, flow: Flow) -> None:
    expected = [make_execution(flow).pk for _ in range(5)][::-1]  # one moment for all: the id decides
    page = api.get(f"{url(flow)}?pageSize=2")
    seen = ids(page)
    make_execution(flow, started_at=NOON + timedelta(hours=1))
    while cursor := page.json()["nextCursor"]:
        page = api.get(f"{url(flow)}?pageSize=2&cursor={cursor}")
        assert page.json()["total"] == 6
        seen += ids(page)
    assert seen == expected
    assert page.json()["hasMore"] is False


def test_the_tenants_list_covers_its_flows_and_nobody_elses(
    api: APIClient, bobs_api: APIClient, alice: User, bob: User, flow: Flow
) -> None:
    one = make_execution(flow)
    other_flow = make_flow(alice, name="Other")
    two = make_execution(other_flow, started_at=NOON + timedelta(hours=1))
    bobs = make_execution(make_flow(bob))

    assert ids(api.get("/api/v1/executions")) == [two.pk, one.pk]
    assert ids(api.get(f"/api/v1/executions?flow={other_flow.pk}")) == [two.pk]
    assert ids(api.get(f"/api/v1/executions?flow={bobs.flow_id}")) == []
    assert ids(bobs_api.get("/api/v1/executions")) == [bobs.pk]
    assert api.get("/api/v1/executions?flow=1").status_code == 400


# One. ------------------------------------------------------------------------------------------------------------
def test_an_execution_shows_its_payloads_as_json_text_and_where_it_came_from(api: APIClient, flow: Flow) -> None:
    first = make_execution(flow, status="error", error_code="http_status", error_message="fetch: 500")
    trigger = uuid4()
    execution = make_execution(
        flow,
        input={"userID": 1},
        output=["é"],
        retry_of=first.pk,
        trigger_id=trigger,
        trigger_name="Hook",
        queued_ms=7,
        ms=30,
    )
    body = api.get(url(flow, execution.pk)).json()
    assert body["inputPayload"] == '{"userID":1}'
    assert body["outputPayload"] == '["é"]'
    assert (body["retryOf"], body["triggerId"], body["triggerName"]) == (str(first.pk), str(trigger), "Hook")
    assert (body["version"], body["queuedMs"], body["durationMs"]) == (1, 7, 30)
    failed = api.get(url(flow, first.pk)).json()
    assert (failed["errorCode"], failed["errorMessage"], failed["outputPayload"]) == ("http_status", "fetch: 500", None)


def test_one_execution_takes_the_same_few_queries_whatever_hangs_on_it(
    api: APIClient, flow: Flow, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    execution = make_execution(flow, output=1)
    with django_assert_num_queries(3) as queries:  # the user, the flow, the execution with version and payload
        assert api.get(url(flow, execution.pk)).status_code == 200
    assert not [query["sql"] for query in queries if "organism_yaml" in query["sql"]]


def test_a_strangers_ids_are_not_found_on_every_path(
    api: APIClient, bobs_api: APIClient, bob: User, flow: Flow
) -> None:
    execution = make_execution(flow)
    step = make_step(execution, 1, "greet")
    bobs_flow = make_flow(bob)
    for of in (flow, bobs_flow):  # Alice's flow, and his own flow with her execution
        calls = [
            bobs_api.get(url(of, execution.pk)),
            bobs_api.get(url(of, execution.pk, "steps")),
            bobs_api.get(url(of, execution.pk, "steps", step.pk)),
            bobs_api.get(url(of, execution.pk, "events")),
            bobs_api.post(url(of, execution.pk, "events", "ticket")),
            bobs_api.post(url(of, execution.pk, "cancel")),
            bobs_api.post(url(of, execution.pk, "retry"), {"from": "failed"}),
        ]
        assert [(call.status_code, call.json()) for call in calls] == [(404, NOT_FOUND)] * len(calls)
    calls = [
        bobs_api.get(url(flow)),
        bobs_api.get(url(flow, "stats")),
        bobs_api.get(f"/api/v1/flows/{flow.pk}/stats"),
        bobs_api.post(url(flow, "run"), {"inputPayload": 1}),
        api.get(url(flow, uuid4())),
    ]
    assert [(call.status_code, call.json()) for call in calls] == [(404, NOT_FOUND)] * len(calls)
    assert Execution.objects.count() == 1


def test_nobody_sees_executions_without_signing_in(anonymous: APIClient, flow: Flow) -> None:
    execution = make_execution(flow)
    for path in ("/api/v1/executions", url(flow), url(flow, execution.pk), url(flow, execution.pk, "events")):
        assert anonymous.get(path).status_code == 401


def test_a_read_only_token_reads_and_changes_nothing(anonymous: APIClient, alice: User, flow: Flow) -> None:
    execution = make_execution(flow, status="running")
    _, secret = create_access_token(user=alice, name="dashboard", scopes=["read"])
    anonymous.credentials(HTTP_AUTHORIZATION=f"Bearer {secret}")
    assert anonymous.get(url(flow, execution.pk, "steps")).status_code == 200
    for path in (url(flow, "run"), *(url(flow, execution.pk, verb) for verb in ("cancel", "retry", "events/ticket"))):
        assert anonymous.post(path).status_code == 403
    assert list(Execution.objects.values_list("pk", "state")) == [(execution.pk, State.QUEUED)]


# Run. ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ({"userID": {"X-Request-Id": 1, "snake_key": [None]}}, '{"userID":{"X-Request-Id":1,"snake_key":[null]}}'),
        ('{"a": 1}', '{"a":1}'),
        ("17", "17"),
        ("just text", '"just text"'),
        ("NaN", '"NaN"'),
        ('{"a":1,"a":2}', '"{\\"a\\":1,\\"a\\":2}"'),
        ("[" * 100_000, None),
        ("", '""'),
        (None, "null"),
        ([1.5, True], "[1.5,true]"),
    ],
)
def test_a_run_takes_any_json_and_a_string_that_holds_some(
    api: APIClient, flow: Flow, sent: object, kept: str | None
) -> None:
    response = api.post(url(flow, "run"), {"inputPayload": sent})
    assert response.status_code == 201, response.content
    body = response.json()
    assert body["inputPayload"] == (f'"{sent}"' if kept is None else kept)
    assert (body["status"], body["triggerType"], body["completedAt"]) == ("running", "manual", None)
    stored = Execution.objects.get(pk=body["id"])
    assert (stored.state, stored.payload.input, stored.version_id) == (
        State.QUEUED,
        body["inputPayload"],
        flow.deployed_version_id,
    )


def test_a_run_needs_no_payload(api: APIClient, flow: Flow) -> None:
    assert api.post(url(flow, "run")).json()["inputPayload"] == "null"


def test_a_stopped_flow_runs_as_a_draft_only(api: APIClient, alice: User) -> None:
    flow = make_flow(alice, running=False)
    refused = api.post(url(flow, "run"), {"inputPayload": {}})
    assert (refused.status_code, refused.json()["code"]) == (409, "flow_not_running")
    assert not Execution.objects.exists()

    draft = api.post(url(flow, "run"), {"inputPayload": {"name": "Ada"}, "draft": True})
    assert draft.status_code == 201
    assert (draft.json()["isDraft"], draft.json()["version"]) == (True, None)


def test_one_listener_is_tested_alone_and_must_exist(api: APIClient, alice: User) -> None:
    flow = make_flow(alice, running=False)
    alone = api.post(url(flow, "run"), {"inputPayload": {"name": "Ada"}, "listener": "greet"})
    assert alone.status_code == 201
    assert Execution.objects.get(pk=alone.json()["id"]).payload.only_listener == "greet"

    unknown = api.post(url(flow, "run"), {"draft": True, "listener": "gret"})
    assert unknown.status_code == 400
    assert "greet" in unknown.json()["message"]


def test_a_draft_with_errors_is_refused_with_all_of_them(api: APIClient, alice: User) -> None:
    flow = make_flow(alice, running=False, yaml="listeners:\n  - {name: a, handler: blox.nope}\n  - {name: a}\n")
    response = api.post(url(flow, "run"), {"draft": True})
    assert (response.status_code, response.json()["code"]) == (400, "invalid_organism")
    assert len(response.json()["details"]["errors"]) >= 2
    assert not Execution.objects.exists()


@pytest.mark.parametrize("text", ["x" * 1024 * 1024, "é" * 524_288], ids=["letters", "bytes"])
def test_a_payload_over_a_mebibyte_is_too_large(api: APIClient, flow: Flow, text: str) -> None:
    response = api.post(url(flow, "run"), {"inputPayload": text})
    assert (response.status_code, response.json()["code"]) == (413, "payload_too_large")
    assert not Execution.objects.exists()


@pytest.mark.parametrize("body", [{"draft": "perhaps"}, {"listener": ["greet"]}, {"draft": None}, {"listener": None}])
def test_a_run_of_the_wrong_types_is_refused(api: APIClient, flow: Flow, body: dict[str, object]) -> None:
    response = api.post(url(flow, "run"), body)
    assert response.status_code == 400
    assert response.json()["details"].keys() == body.keys()


# Cancel and retry. -----------------------------------------------------------------------------------------------
def test_a_waiting_execution_is_canceled_at_once_and_only_once(api: APIClient, flow: Flow) -> None:
    execution = make_execution(flow, status="running")
    response = api.post(url(flow, execution.pk, "cancel"))
    assert response.status_code == 200
    body = response.json()
    assert (body["status"], body["errorCode"]) == ("error", "canceled")
    assert body["errorMessage"].startswith("Canceled by alice@shop.example")
    assert body["completedAt"] is not None

    again = api.post(url(flow, execution.pk, "cancel"))
    assert (again.status_code, again.json()["code"]) == (409, "execution_ended")


def test_an_execution_that_is_worked_on_is_asked_to_stop(api: APIClient, flow: Flow) -> None:
    execution = make_execution(flow, status="running")
    later = NOON + timedelta(days=3650)
    Execution.objects.filter(pk=execution.pk).update(state=State.WORKING, lease_until=later, claimed_at=NOON)
    body = api.post(url(flow, execution.pk, "cancel")).json()
    assert body["status"] == "running"
    assert body["cancelRequestedAt"] is not None


def test_a_retry_from_the_start_is_a_new_execution_of_the_deployed_version(api: APIClient, flow: Flow) -> None:
    execution = make_execution(flow, status="error", input={"n": 1}, trigger_type="webhook", trigger_name="Hook")
    response = api.post(url(flow, execution.pk, "retry"))
    assert response.status_code == 201
    body = response.json()
    assert body["id"] != str(execution.pk)
    assert (body["retryOf"], body["inputPayload"], body["triggerType"]) == (str(execution.pk), '{"n":1}', "webhook")
    assert body["status"] == "running"


def test_a_retry_from_the_failed_step_keeps_what_finished(api: APIClient, flow: Flow) -> None:
    execution = make_execution(flow, status="error")
    make_step(execution, 1, "greet", output="kept")
    make_step(execution, 2, "done", status="error", error="broke", parents=["key-1"])
    response = api.post(url(flow, execution.pk, "retry"), {"from": "failed"})
    assert response.status_code == 201
    steps = api.get(url(flow, response.json()["id"], "steps")).json()["items"]
    assert [(step["listener"], step["output"]) for step in steps] == [("greet", "kept")]


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        ("running", {}, (409, "execution_not_ended")),
        ("success", {"from": "failed"}, (409, "nothing_failed")),
        ("error", {"from": "the middle"}, (400, "validation_error")),
        ("error", {"from": None}, (400, "validation_error")),
    ],
)
def test_a_retry_that_makes_no_sense_is_refused(
    api: APIClient, flow: Flow, status: str, body: dict[str, object], expected: tuple[int, str]
) -> None:
    execution = make_execution(flow, status=status)
    response = api.post(url(flow, execution.pk, "retry"), body)
    assert (response.status_code, response.json()["code"]) == expected
    assert Execution.objects.count() == 1


def test_a_retry_from_the_start_needs_a_running_flow(api: APIClient, flow: Flow) -> None:
    execution = make_execution(flow, status="error")
    Flow.objects.filter(pk=flow.pk).update(status=FlowStatus.STOPPED)
    response = api.post(url(flow, execution.pk, "retry"))
    assert (response.status_code, response.json()["code"]) == (409, "flow_not_running")


# From end to end. ------------------------------------------------------------------------------------------------
@pytest.mark.django_db(transaction=True)
def test_a_run_goes_through_the_flow_and_shows_every_step(
    api: APIClient, alice: User, drain: Callable[[], None]
) -> None:
    flow = make_flow(alice)
    started = api.post(url(flow, "run"), {"inputPayload": {"name": "Ada"}}).json()
    drain()
    done = api.get(url(flow, started["id"])).json()
    assert (done["status"], done["outputPayload"]) == ("success", '{"greeting":"Hello, Ada!"}')
    assert done["durationMs"] >= 0
    steps = api.get(url(flow, started["id"], "steps")).json()["items"]
    assert [(step["listener"], step["fromListener"], step["input"], step["output"]) for step in steps] == [
        ("greet", None, {"name": "Ada"}, {"greeting": "Hello, Ada!"}),
        ("done", "greet", {"greeting": "Hello, Ada!"}, {"greeting": "Hello, Ada!"}),
    ]


@pytest.mark.django_db(transaction=True)
def test_a_listener_tested_alone_is_the_only_one_that_runs(
    api: APIClient, alice: User, drain: Callable[[], None]
) -> None:
    flow = make_flow(alice, running=False)
    started = api.post(url(flow, "run"), {"inputPayload": {"name": "Ada"}, "listener": "greet"}).json()
    drain()
    done = api.get(url(flow, started["id"])).json()
    assert (done["status"], done["outputPayload"]) == ("success", '{"greeting":"Hello, Ada!"}')
    steps = api.get(url(flow, started["id"], "steps")).json()["items"]
    assert [step["listener"] for step in steps] == ["greet"]


@pytest.mark.django_db(transaction=True)
def test_a_failing_flow_names_the_listener_and_is_retried_from_there(
    api: APIClient, alice: User, drain: Callable[[], None]
) -> None:
    flow = make_flow(alice)
    started = api.post(url(flow, "run"), {"inputPayload": {"no": "name"}}).json()
    drain()
    failed = api.get(url(flow, started["id"])).json()
    assert failed["status"] == "error"
    assert "greet" in failed["errorMessage"]
    retry = api.post(url(flow, started["id"], "retry"), {"from": "failed"}).json()
    drain()
    again = api.get(url(flow, retry["id"])).json()
    assert (again["status"], again["retryOf"]) == ("error", started["id"])
