"""The trace over HTTP: what went into each step, and came out, though it is stored once."""

import pytest
from pytest_django import DjangoAssertNumQueries
from rest_framework.test import APIClient

from accounts.models import User
from executions.models import Execution, LargeOutput
from tests.executions.factories import NOON, make_execution, make_flow, make_step

USERS_KEYS = {"userID": 1, "ABCD": 2, "X-Request-Id": 3, "snake_key": {"__typename": 4, "a1": 5}}


@pytest.fixture
def execution(alice: User) -> Execution:
    return make_execution(make_flow(alice), input=USERS_KEYS)


def steps_url(execution: Execution, *path: object) -> str:
    return "/".join([f"/api/v1/flows/{execution.flow_id}/executions/{execution.pk}/steps", *map(str, path)])


def values(api: APIClient, execution: Execution) -> list[tuple[str, object, object]]:
    items = api.get(steps_url(execution)).json()["items"]
    return [(item["listener"], item["input"], item["output"]) for item in items]


def test_a_step_tells_all_of_itself(api: APIClient, execution: Execution) -> None:
    step = make_step(
        execution,
        3,
        "fetch",
        block="blox.http",
        from_listener="start",
        status="error",
        attempt=2,
        input=None,
        error="fetch: 500",
        error_code="http_status",
        failures=[{"attempt": 1, "code": "http_status", "error": "503", "at": "2026-03-01T12:00:00Z"}],
        sent_to=["tell_ops"],
        notes=["payload.n: an integer past 64 bits was replaced by its text."],
        tokens_in=7,
    )
    assert api.get(steps_url(execution)).json()["items"] == [
        {
            "id": str(step.pk),
            "number": 3,
            "listener": "fetch",
            "block": "blox.http",
            "fromListener": "start",
            "scope": "",
            "status": "error",
            "attempt": 2,
            "failures": [{"attempt": 1, "code": "http_status", "error": "503", "at": "2026-03-01T12:00:00Z"}],
            "input": None,
            "output": None,
            "omitted": [],
            "error": "fetch: 500",
            "errorCode": "http_status",
            "sentTo": ["tell_ops"],
            "notes": ["payload.n: an integer past 64 bits was replaced by its text."],
            "startedAt": "2026-03-01T12:00:00Z",
            "completedAt": "2026-03-01T12:00:00.005000Z",
            "durationMs": 5,
            "tokensIn": 7,
            "tokensOut": 0,
            "modelCall": None,
        }
    ]


def test_a_step_without_its_own_input_got_what_its_parent_gave(api: APIClient, execution: Execution) -> None:
    make_step(execution, 1, "root", key="root", output={"n": 1})
    make_step(execution, 2, "child", key="child", parents=["root"], output=None)
    make_step(execution, 3, "grandchild", parents=["child"], output=[])
    make_step(execution, 4, "own", parents=["root"], input="its own", output=2)
    make_step(execution, 5, "merged", parents=["root", "child"], input=[1, 2], output=3)
    make_step(execution, 6, "called", scope="child/0", input={"tool": True})

    assert values(api, execution) == [
        ("root", USERS_KEYS, {"n": 1}),
        ("child", {"n": 1}, None),
        ("grandchild", None, []),
        ("own", "its own", 2),
        ("merged", [1, 2], 3),
        ("called", {"tool": True}, None),
    ]


def test_a_parent_on_another_page_is_found(api: APIClient, execution: Execution) -> None:
    make_step(execution, 1, "root", output="from far")
    make_step(execution, 2, "between", input=0)
    make_step(execution, 3, "child", parents=["key-1"])
    page = api.get(f"{steps_url(execution)}?page=3&pageSize=1").json()
    assert (page["items"][0]["input"], page["total"], page["hasMore"]) == ("from far", 3, False)


def test_a_hundred_steps_take_no_more_queries_than_one(
    api: APIClient, execution: Execution, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    make_step(execution, 1, "first", output=0)
    make_step(execution, 2, "second", parents=["key-1"], output=0)
    for number in range(3, 60):
        make_step(execution, number, "next", parents=[f"key-{number - 1}"], output=number)
    # The user, the flow, the execution, the count, the page, its values, parents off the page.
    with django_assert_num_queries(7):
        assert len(api.get(f"{steps_url(execution)}?page=2&pageSize=20").json()["items"]) == 20


def test_a_large_output_stored_apart_is_shown_like_any(api: APIClient, execution: Execution) -> None:
    large = make_step(execution, 1, "large", is_output_apart=True)
    LargeOutput.objects.create(step=large, text='["%s"]' % ("x" * 100_000))
    make_step(execution, 2, "child", parents=["key-1"], output=1)
    assert values(api, execution) == [("large", USERS_KEYS, ["x" * 100_000]), ("child", ["x" * 100_000], 1)]


def test_a_value_too_long_for_a_list_is_left_out_there_and_whole_on_its_own(
    api: APIClient, execution: Execution
) -> None:
    huge = make_step(execution, 1, "huge", is_output_apart=True)
    LargeOutput.objects.create(step=huge, text='"%s"' % ("é" * 300_000))
    child = make_step(execution, 2, "child", parents=["key-1"], output="small")

    items = api.get(steps_url(execution)).json()["items"]
    assert [(item["output"], item["omitted"]) for item in items] == [(None, ["output"]), ("small", ["input"])]

    assert api.get(steps_url(execution, huge.pk)).json()["output"] == "é" * 300_000
    assert api.get(steps_url(execution, child.pk)).json()["input"] == "é" * 300_000


def test_a_step_under_way_has_no_output_and_no_duration(api: APIClient, execution: Execution) -> None:
    make_step(execution, 1, "slow", status="running", completed_at=None, started_at=NOON)
    [item] = api.get(steps_url(execution)).json()["items"]
    assert (item["status"], item["output"], item["durationMs"], item["completedAt"]) == ("running", None, None, None)


def test_a_step_of_another_execution_is_not_found(api: APIClient, execution: Execution) -> None:
    other = make_step(make_execution(execution.flow), 1, "elsewhere")
    assert api.get(steps_url(execution, other.pk)).status_code == 404
