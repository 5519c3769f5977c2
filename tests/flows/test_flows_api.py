"""/flows: the list, and a flow's life."""

import json
from datetime import datetime
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from rest_framework.test import APIClient

from accounts.models import Tier, User
from flows.models import Flow, FlowVersion
from flows.services import start_flow, update_flow
from tests.flows.samples import BROKEN, CANVAS, CHANGED, SOUND, make_flow, start

FLOWS = "/api/v1/flows"
NOT_FOUND = b'{"code":"not_found","message":"Not found.","details":null}'


def test_a_new_flow_gets_a_template_that_runs_as_it_is(api: APIClient, alice: User) -> None:
    flow = api.post(FLOWS, {"name": "First"}).json()

    assert flow["userId"] == str(alice.pk)
    assert (flow["status"], flow["containerId"], flow["errorMessage"], flow["version"]) == ("stopped", None, None, None)
    assert (flow["description"], flow["canvasState"]) == (None, None)
    assert flow["hasUndeployedChanges"] is True
    assert flow["validation"] == {"valid": True, "errors": [], "warnings": []}
    assert datetime.fromisoformat(flow["createdAt"]).tzinfo is not None
    assert start(api, flow)["status"] == "running"


def test_a_flow_is_answered_as_it_was_stored(api: APIClient) -> None:
    made = make_flow(api, name="Ünï 🐙", description="  Reads\norders ", canvasState=CANVAS)

    assert api.get(f"{FLOWS}/{made['id']}").json() == made
    assert (made["name"], made["description"], made["organismYaml"]) == ("Ünï 🐙", "Reads\norders", SOUND)


def test_the_users_keys_in_the_canvas_come_back_untouched(api: APIClient) -> None:
    flow = make_flow(api, canvasState=CANVAS)
    assert flow["canvasState"] == CANVAS

    moved = json.loads(json.dumps(CANVAS))
    moved["nodes"][0]["data"]["another_Key"] = {"userID": 2}
    answer = api.patch(f"{FLOWS}/{flow['id']}", {"canvasState": moved})
    assert answer.json()["canvasState"] == moved
    assert api.get(f"{FLOWS}/{flow['id']}").json()["canvasState"] == moved


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": None}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"name": ["x"]}, "name"),
        ({"name": 5}, "name"),
        ({"name": "x", "description": "d" * 501}, "description"),
        ({"name": "x", "organismYaml": "y" * (256 * 1024 + 1)}, "organismYaml"),
        ({"name": "x", "organismYaml": {"organism": {}}}, "organismYaml"),
        ({"name": "x", "canvasState": []}, "canvasState"),
        ({"name": "x", "canvasState": {"nodes": [], "edges": []}}, "canvasState"),
        ({"name": "x", "canvasState": {"nodes": [{"id": 1}], "edges": [], "viewport": {}}}, "canvasState"),
        ({"name": "x", "canvasState": {"nodes": [], "edges": [], "viewport": {"zoom": "1"}}}, "canvasState"),
        ({"name": "x", "triggers": {"a": 1}}, "triggers"),
        ({"name": "x", "triggers": [{"type": "manual"}]}, "triggers"),
    ],
)
def test_a_bad_field_is_named_and_nothing_is_stored(api: APIClient, body: object, field: str) -> None:
    answer = api.post(FLOWS, body)

    assert answer.status_code == 400
    assert answer.json()["code"] == "validation_error"
    assert list(answer.json()["details"]) == [field]
    assert Flow.objects.count() == 0


@pytest.mark.parametrize(
    "raw",
    [
        '{"name": "a\\u0000b"}',
        '{"name": "x", "organismYaml": "\\u0000"}',
        '{"name": "\\ud800"}',
        '{"name": "x", "canvasState": {"nodes": [], "edges": [], "viewport": {"x": NaN}}}',
        '{"name": "x", "canvasState": {"nodes": [], "edges": [], "viewport": {"x": 1e999}}}',
        '{"name": "x", "name": "y"}',
        '{"name": "x", "canvasState": ' + "[" * 100_000 + "]" * 100_000 + "}",
        "[]",
        "",
        "{",
    ],
)
def test_text_that_cannot_be_kept_is_refused(api: APIClient, raw: str) -> None:
    answer = api.generic("POST", FLOWS, raw, content_type="application/json")

    assert answer.status_code == 400, answer.content
    assert Flow.objects.count() == 0


def test_unknown_keys_at_the_top_are_ignored(api: APIClient) -> None:
    flow = make_flow(api, status="running", userId=str(uuid4()), version=7, whatever=1)

    assert (flow["status"], flow["version"]) == ("stopped", None)


def test_yaml_with_errors_is_kept_as_a_draft_and_never_starts(api: APIClient) -> None:
    flow = make_flow(api, organismYaml=BROKEN)
    (problem,) = flow["validation"]["errors"]
    assert (flow["validation"]["valid"], problem["line"]) == (False, 7)

    answer = api.post(f"{FLOWS}/{flow['id']}/start")

    assert answer.status_code == 400
    assert answer.json()["code"] == "invalid_organism"
    assert answer.json()["details"]["errors"] == [problem]
    assert api.get(f"{FLOWS}/{flow['id']}").json()["status"] == "stopped"
    assert FlowVersion.objects.count() == 0


def test_patch_writes_only_what_changed(api: APIClient) -> None:
    flow = make_flow(api, description="old")
    url = f"{FLOWS}/{flow['id']}"

    same = api.patch(url, {"name": "Orders", "organismYaml": None}).json()
    assert same == flow

    renamed = api.patch(url, {"name": "Invoices"}).json()
    assert renamed["updatedAt"] > flow["updatedAt"]
    assert {**renamed, "updatedAt": 0} == {**flow, "updatedAt": 0, "name": "Invoices"}

    assert api.patch(url, {"description": None}).json()["description"] is None


def test_an_edit_does_not_undo_a_start_that_came_in_between(api: APIClient, alice: User) -> None:
    stale = Flow.objects.get(pk=make_flow(api)["id"])
    start_flow(flow=Flow.objects.get(pk=stale.pk), by=alice)
    update_flow(flow=stale, changes={"name": "Renamed", "organism_yaml": CHANGED})

    flow = api.get(f"{FLOWS}/{stale.pk}").json()
    assert (flow["name"], flow["status"], flow["version"]) == ("Renamed", "running", 1)
    assert flow["hasUndeployedChanges"] is True


@pytest.mark.parametrize(
    "body", [{"name": ""}, {"name": "x" * 101}, {"organismYaml": "y" * (256 * 1024 + 1)}, {"canvasState": {}}]
)
def test_a_bad_patch_changes_nothing(api: APIClient, body: object) -> None:
    flow = make_flow(api)

    assert api.patch(f"{FLOWS}/{flow['id']}", body).status_code == 400
    assert api.get(f"{FLOWS}/{flow['id']}").json() == flow


def test_yaml_of_exactly_256_kib_is_taken(api: APIClient) -> None:
    assert make_flow(api, organismYaml="#" * (256 * 1024))["validation"]["valid"] is False


def test_a_deleted_flow_is_gone_with_all_that_belongs_to_it(api: APIClient) -> None:
    flow = make_flow(api)
    start(api, flow)
    api.put(f"/api/v1/variables/city?flow={flow['id']}", {"value": "Paris"})

    assert api.delete(f"{FLOWS}/{flow['id']}").status_code == 204
    assert api.get(f"{FLOWS}/{flow['id']}").content == NOT_FOUND
    assert (Flow.objects.count(), FlowVersion.objects.count()) == (0, 0)


# The list. -------------------------------------------------------------------------------------------------------
def names(answer: Any) -> list[str]:
    assert answer.status_code == 200, answer.content
    return [flow["name"] for flow in answer.json()["items"]]


def test_the_list_shows_summaries_newest_change_first(api: APIClient) -> None:
    first = make_flow(api, name="a", description="d")
    make_flow(api, name="b")
    assert names(api.get(FLOWS)) == ["b", "a"]

    api.patch(f"{FLOWS}/{first['id']}", {"name": "c"})
    page = api.get(FLOWS, {"pageSize": 1}).json()

    assert {key: page[key] for key in ("total", "page", "pageSize", "hasMore")} == {
        "total": 2,
        "page": 1,
        "pageSize": 1,
        "hasMore": True,
    }
    (summary,) = page["items"]
    assert set(summary) == {"id", "name", "description", "status", "updatedAt"}
    assert (summary["name"], summary["description"]) == ("c", "d")


def test_the_list_is_filtered_by_status(api: APIClient) -> None:
    start(api, make_flow(api, name="runs"))
    make_flow(api, name="rests")

    assert names(api.get(FLOWS, {"status": "running"})) == ["runs"]
    assert names(api.get(FLOWS, {"status": ["running", "stopped"], "ordering": "name"})) == ["rests", "runs"]
    assert names(api.get(FLOWS, {"status": "error"})) == []


def test_the_list_is_searched_in_name_and_description(api: APIClient) -> None:
    make_flow(api, name="Order alert")
    make_flow(api, name="Digest", description="of ORDERS 100%")
    make_flow(api, name="Other")

    assert names(api.get(FLOWS, {"search": "order", "ordering": "name"})) == ["Digest", "Order alert"]
    assert names(api.get(FLOWS, {"search": "100%"})) == ["Digest"]
    assert names(api.get(FLOWS, {"search": ""})) == ["Other", "Digest", "Order alert"]


@pytest.mark.parametrize(
    ("ordering", "expected"),
    [
        ("name", ["Alpha", "beta", "Gamma"]),
        ("-name", ["Gamma", "beta", "Alpha"]),
        ("createdAt", ["beta", "Alpha", "Gamma"]),
        ("-createdAt", ["Gamma", "Alpha", "beta"]),
        ("updatedAt", ["beta", "Alpha", "Gamma"]),
        ("-updatedAt", ["Gamma", "Alpha", "beta"]),
    ],
)
def test_the_list_is_ordered_as_asked(api: APIClient, ordering: str, expected: list[str]) -> None:
    for name in ("beta", "Alpha", "Gamma"):
        make_flow(api, name=name)

    assert names(api.get(FLOWS, {"ordering": ordering})) == expected


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("status=flying", "status"),
        ("status=running&status=x", "status"),
        ("ordering=user__password", "ordering"),
        ("search=" + "x" * 201, "search"),
        ("page=0", "page"),
        ("pageSize=101", "pageSize"),
    ],
)
def test_an_unknown_filter_value_is_refused(api: APIClient, query: str, field: str) -> None:
    answer = api.get(f"{FLOWS}?{query}")

    assert answer.status_code == 400
    assert list(answer.json()["details"]) == [field]


@pytest.mark.parametrize(
    "path", ["/flows?search=%00", "/variables/%00", "/secrets?flow=%00", "/flows?search=%ED%A0%80"]
)
def test_text_in_an_address_that_cannot_be_searched_for_is_no_failure(api: APIClient, path: str) -> None:
    assert api.get(f"/api/v1{path}").status_code in (200, 400)


def test_the_list_reads_no_bodies_and_takes_two_queries(api: APIClient, alice: User) -> None:
    for number in range(5):
        make_flow(api, name=str(number))
    with CaptureQueriesContext(
        connection,
    ) as queries:
        assert len(names(api.get(FLOWS))) == 5

    of_flows = [query["sql"] for query in queries if 'FROM "flows_flow"' in query["sql"]]
    assert len(of_flows) == 2
    assert not any("organism_yaml" in sql for sql in of_flows)


# Whose it is. ----------------------------------------------------------------------------------------------------
PATHS = [
    ("get", ""),
    ("patch", ""),
    ("delete", ""),
    ("post", "/start"),
    ("post", "/stop"),
    ("post", "/duplicate"),
    ("get", "/export"),
    ("get", "/versions"),
    ("get", "/versions/1"),
    ("post", "/versions/1/restore"),
]


@pytest.mark.parametrize(("method", "path"), PATHS)
def test_a_strangers_flow_answers_as_an_unknown_one(
    api: APIClient, bobs_api: APIClient, method: str, path: str
) -> None:
    flow = start(api, make_flow(api))

    for flow_id in (flow["id"], uuid4()):
        answer = getattr(bobs_api, method)(
            f"{FLOWS}/{flow_id}{path}", {"name": 5, "force": "?"} if method != "get" else None
        )
        assert (answer.status_code, answer.content) == (404, NOT_FOUND)
    assert api.get(f"{FLOWS}/{flow['id']}").json() == flow


@pytest.mark.parametrize(("method", "path"), PATHS)
def test_nobody_gets_in_without_a_token(api: APIClient, anonymous: APIClient, method: str, path: str) -> None:
    flow = make_flow(api)

    assert getattr(anonymous, method)(f"{FLOWS}/{flow['id']}{path}").status_code == 401


def test_a_stranger_sees_an_empty_list(api: APIClient, bobs_api: APIClient) -> None:
    make_flow(api)

    assert bobs_api.get(FLOWS).json()["total"] == 0


# The tier's cap. -------------------------------------------------------------------------------------------------
def test_a_free_user_has_one_flow(api: APIClient, alice: User) -> None:
    User.objects.filter(pk=alice.pk).update(tier=Tier.FREE)
    flow = make_flow(api)

    for answer in (api.post(FLOWS, {"name": "Second"}), api.post(f"{FLOWS}/{flow['id']}/duplicate")):
        assert answer.status_code == 402
        assert answer.json()["code"] == "flow_limit_reached"
        assert answer.json()["details"] == {"limit": 1, "tier": "free"}
    assert Flow.objects.count() == 1
