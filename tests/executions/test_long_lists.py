"""Lists of a history that is too long to be looked at whole: what they count, how far they look, where they go on."""

from datetime import timedelta
from typing import Any

import pytest
from rest_framework.test import APIClient

from accounts.models import User
from bloxserver.api import long_lists
from executions import listing
from executions.models import ExecutionPayload
from flows.models import Flow
from tests.executions.factories import NOON, make_execution, make_flow

LIST = "/api/v1/executions"


@pytest.fixture
def flow(alice: User) -> Flow:
    return make_flow(alice)


def found(answer: Any) -> list[str]:
    assert answer.status_code == 200, answer.content
    return [item["triggerName"] for item in answer.json()["items"]]


def total(answer: Any) -> tuple[int, bool]:
    return answer.json()["total"], answer.json()["totalIsExact"]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", 6),
        ("status=success", 2),
        ("status=error,timeout", 3),
        ("status=running", 1),
        ("status=running,error", 3),
    ],
)
def test_totals_by_flow_and_status_are_exact_whatever_their_number(
    api: APIClient, alice: User, bob: User, flow: Flow, monkeypatch: pytest.MonkeyPatch, query: str, expected: int
) -> None:
    monkeypatch.setattr(long_lists, "COUNTED", 1)
    for status in ("success", "success", "error", "error", "timeout", "running"):
        make_execution(flow, status=status)
    make_execution(make_flow(alice, name="Other"))
    make_execution(make_flow(bob))

    assert total(api.get(f"/api/v1/flows/{flow.pk}/executions?{query}")) == (expected, True)
    assert total(api.get(f"{LIST}?flow={flow.pk}&{query}")) == (expected, True)


def test_the_tenants_total_is_that_of_all_its_flows(api: APIClient, alice: User, bob: User, flow: Flow) -> None:
    make_execution(flow)
    make_execution(make_flow(alice, name="Other"), status="running")
    make_execution(make_flow(bob))
    assert total(api.get(LIST)) == (2, True)


def test_another_total_is_counted_up_to_a_bound_and_says_so(
    api: APIClient, flow: Flow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(long_lists, "COUNTED", 2)
    for minute in range(3):
        make_execution(flow, started_at=NOON + timedelta(minutes=minute))
    assert total(api.get(f"{LIST}?since=2026-03-01T12:00:00Z")) == (2, False)
    assert total(api.get(f"{LIST}?since=2026-03-01T12:01:00Z")) == (2, True)
    assert len(found(api.get(f"{LIST}?since=2026-03-01T12:00:00Z"))) == 3


@pytest.mark.parametrize(
    ("search", "expected"),
    [
        ("refused", ["failed"]),
        ("REFUSED", ["failed"]),
        ("order-7", ["ordered"]),
        ("ß", ["ordered"]),
        ("100%25", ["failed"]),
        ("nothing", []),
    ],
)
def test_a_search_looks_at_error_messages_and_inputs(
    api: APIClient, bobs_api: APIClient, flow: Flow, search: str, expected: list[str]
) -> None:
    make_execution(flow, trigger_name="failed", status="error", error_message="call: refused, 100% of them")
    make_execution(flow, trigger_name="ordered", input={"id": "order-7", "street": "Hauptstraße"})
    make_execution(flow, trigger_name="other", input={"id": "order-8"})
    assert found(api.get(f"{LIST}?search={search}")) == expected
    assert found(bobs_api.get(f"{LIST}?search={search}")) == []


def test_a_search_and_other_filters_narrow_each_other(api: APIClient, flow: Flow) -> None:
    make_execution(flow, trigger_name="a", status="error", error_message="refused", trigger_type="webhook")
    make_execution(flow, trigger_name="b", status="timeout", error_message="refused", trigger_type="webhook")
    make_execution(flow, trigger_name="c", status="error", error_message="refused")
    answer = api.get(f"{LIST}?search=refused&status=error&triggerType=webhook&since=2026-03-01T00:00:00Z")
    assert found(answer) == ["a"]
    assert total(answer) == (1, True)


def test_a_search_that_cannot_be_is_refused(api: APIClient) -> None:
    answer = api.get(f"{LIST}?search={'x' * 201}")
    assert answer.status_code == 400
    assert "search" in answer.json()["details"]
    assert api.get(f"{LIST}?search=%00").status_code == 400


@pytest.mark.parametrize(("query", "bound"), [("search=needle", "READ_FOR_SEARCH"), ("triggerType=schedule", "READ")])
def test_a_scan_stops_at_its_bound_and_its_cursor_goes_on_there(
    api: APIClient, flow: Flow, monkeypatch: pytest.MonkeyPatch, query: str, bound: str
) -> None:
    monkeypatch.setattr(listing, bound, 3)
    for number in range(10):  # newest first: 9 ... 0; what is looked for are 8 and 1
        kind = "schedule" if number in (1, 8) else "webhook"
        text = "needle" if number in (1, 8) else "hay"
        make_execution(
            flow,
            trigger_name=str(number),
            trigger_type=kind,
            input=text,
            started_at=NOON if number < 5 else NOON + timedelta(minutes=number),  # a moment may be that of several
        )

    answer = api.get(f"{LIST}?{query}")
    pages = [found(answer)]
    assert total(answer) == (1, False)
    assert answer.json()["hasMore"] is True
    while cursor := answer.json()["nextCursor"]:
        answer = api.get(f"{LIST}?{query}&cursor={cursor}")
        pages.append(found(answer))

    assert pages == [["8"], [], ["1"], []]
    assert answer.json()["hasMore"] is False


def test_a_scan_whose_page_is_full_goes_on_after_its_last_item(
    api: APIClient, flow: Flow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "READ_FOR_SEARCH", 4)
    for number in range(6):
        make_execution(flow, trigger_name=str(number), input="needle", started_at=NOON + timedelta(minutes=number))
    seen, cursor = [], ""
    while cursor is not None:
        answer = api.get(f"{LIST}?search=needle&pageSize=3{cursor and f'&cursor={cursor}'}")
        seen += found(answer)
        cursor = answer.json()["nextCursor"]
    assert seen == ["5", "4", "3", "2", "1", "0"]


def test_an_execution_without_a_payload_is_searched_too(api: APIClient, flow: Flow) -> None:
    execution = make_execution(flow, trigger_name="bare", status="error", error_message="refused")
    ExecutionPayload.objects.filter(pk=execution.pk).delete()
    assert found(api.get(f"{LIST}?search=refused")) == ["bare"]
