"""An id of another's in a body names nobody's row. Which keys of bodies take ids, the OpenAPI document says."""

import json
import re
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pytest_django import Settings
from rest_framework.test import APIClient

from executions.models import Approval
from tests.openapi import document
from tests.test_tenants import (
    EXECUTION,
    Belongings,
    Cast,
    as_user,
    assert_tells_nothing,
    cast,
    flow_of,
    path_of,
    snapshot,
)

__all__ = ["cast"]  # the fixture

pytestmark = pytest.mark.django_db


def executions_of(owner: Belongings | None) -> list[str]:
    return [str(owner.execution.pk if owner else uuid.uuid4())]


def step_of(owner: Belongings | None) -> str:
    return str(owner.ids["step_id"] if owner else uuid.uuid4())


def approval_of(owner: Belongings | None) -> str:
    return str(Approval.objects.get(execution=owner.execution).pk if owner else uuid.uuid4())


# (route, key): whose value names a row, and what else the body says.
Named = Callable[[Belongings | None], Any]
NAMED: dict[tuple[str, str], tuple[Named, dict[str, Any]]] = {
    ("api/v1/executions/retry", "ids"): (executions_of, {}),
    ("api/v1/executions/retry", "flow"): (flow_of, {}),
    ("api/v1/executions/cancel", "ids"): (executions_of, {}),
    ("api/v1/executions/cancel", "flow"): (flow_of, {}),
    ("api/v1/budgets", "flowId"): (flow_of, {"monthlyCost": 1}),
    (f"{EXECUTION}/approve", "approvalId"): (approval_of, {"approved": True}),
    (f"{EXECUTION}/approve", "step"): (step_of, {"approved": True}),
    (f"{EXECUTION}/resolve", "approvalId"): (approval_of, {"decision": "fail"}),
    (f"{EXECUTION}/resolve", "step"): (step_of, {"decision": "fail"}),
}


def keys_with_ids(schema: dict[str, Any]) -> Iterator[str]:
    """Keys of a body whose value is an id, or a list of ids."""
    if "$ref" in schema:
        schema = document()["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    for name, value in schema.get("properties", {}).items():
        if "uuid" in (value.get("format"), value.get("items", {}).get("format")):
            yield name


def test_every_key_that_takes_an_id_has_an_entry_here() -> None:
    found = set()
    for path, operations in document()["paths"].items():
        for operation in operations.values():
            for content in operation.get("requestBody", {}).get("content", {}).values():
                for key in keys_with_ids(content["schema"]):
                    found.add((re.sub(r"\{\w+\}", "*", path.lstrip("/")), key))
    assert found == {(re.sub(r"<[\w:]+>", "*", route), key) for route, key in NAMED}


@pytest.mark.parametrize(("route", "key"), NAMED)
def test_a_strangers_id_is_answered_as_one_that_nobody_has(cast: Cast, route: str, key: str) -> None:
    hers, his = cast
    bob, before = as_user(his.user), snapshot(hers.user)
    value, rest = NAMED[route, key]
    answers = [told(bob, path_of(route, his.ids, ""), {**rest, key: value(owner)}) for owner in (hers, None)]
    assert answers[0] == answers[1]
    assert_tells_nothing((0, answers[0][1].encode(), {}), hers, f"POST /{route} {key}")
    assert snapshot(hers.user) == before


def told(client: APIClient, path: str, body: dict[str, Any]) -> tuple[int, str]:
    """Status and body, but for the ids and times that each answer has of its own."""
    answer = client.post(path, json.dumps(body), content_type="application/json")
    text = answer.content.decode()
    for sent in body.values():
        for id in sent if isinstance(sent, list) else [sent]:
            text = text.replace(str(id), "*")
    return answer.status_code, re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}|\d{4}-\d\d-\d\dT[\d:.]+Z", "*", text)


def test_the_callers_own_id_is_taken(cast: Cast, settings: Settings) -> None:
    """So that the test above would not pass for a route that takes nothing."""
    hers, his = cast
    status, text = told(as_user(his.user), "/api/v1/executions/retry", {"ids": executions_of(his), "from": "start"})
    assert (status, json.loads(text)["total"]) == (202, 1)
    status, text = told(as_user(his.user), "/api/v1/executions/retry", {"ids": executions_of(hers), "from": "start"})
    assert (status, json.loads(text)["total"]) == (202, 0)
