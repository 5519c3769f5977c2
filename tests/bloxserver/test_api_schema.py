"""The served OpenAPI document says what these endpoints answer, errors included."""

from collections import Counter
from typing import Any

import pytest
from rest_framework.test import APIClient

from tests.openapi import check, document

pytestmark = pytest.mark.django_db

METHODS = {"get", "post", "put", "patch", "delete"}
NO_ID = "0190a000-0000-7000-8000-000000000000"


@pytest.fixture
def schema() -> dict[str, Any]:
    return document()


def operations(schema: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(path, method, item[method]) for path, item in schema["paths"].items() for method in METHODS & set(item)]


def test_operation_ids_are_unique(schema: dict[str, Any]) -> None:
    counts = Counter(operation["operationId"] for _, _, operation in operations(schema))
    assert {name for name, count in counts.items() if count > 1} == set()


def test_every_operation_documents_the_errors_that_any_can_give(schema: dict[str, Any]) -> None:
    for path, method, operation in operations(schema):
        statuses = set(operation["responses"])
        expected = {"400", "406", "429", "500", "503"}
        if path.startswith("/api/v1/") and {} not in operation["security"]:
            expected |= {"401", "403"}
        if "{" in path:
            expected.add("404")
        if "requestBody" in operation:
            expected |= {"413", "415"}
        assert expected <= statuses, (method, path)


def test_an_error_is_an_api_error_everywhere(schema: dict[str, Any]) -> None:
    reference = {"$ref": "#/components/schemas/ApiError"}
    for path, method, operation in operations(schema):
        for status, response in operation["responses"].items():
            if status >= "400":
                assert response["content"]["application/json"]["schema"] == reference, (method, path, status)


def test_the_token_goes_into_a_bearer_header(schema: dict[str, Any]) -> None:
    assert schema["openapi"].startswith("3.1")
    assert schema["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    assert schema["paths"]["/api/v1/me"]["get"]["security"] == [{"bearer": []}]
    assert schema["paths"]["/webhooks/clerk"]["post"]["security"] == [{}]


def test_a_page_is_documented_by_the_names_on_the_wire(schema: dict[str, Any]) -> None:
    operation = schema["paths"]["/api/v1/access-tokens"]["get"]
    assert [parameter["name"] for parameter in operation["parameters"]] == ["page", "pageSize"]
    page = schema["components"]["schemas"]["PaginatedAccessTokenList"]
    assert page["required"] == list(page["properties"]) == ["items", "total", "page", "pageSize", "hasMore"]


def test_answers_match_their_documentation(api: APIClient, anonymous: APIClient) -> None:
    tokens = "/api/v1/access-tokens"
    created = api.post(tokens, {"name": "CI"})
    own = f"{tokens}/{created.json()['id']}"
    answers = [
        ("get", "/api/v1/me", api.get("/api/v1/me"), 200),
        ("get", "/api/v1/me", anonymous.get("/api/v1/me"), 401),
        ("patch", "/api/v1/me", api.patch("/api/v1/me", {"name": None}), 200),
        ("patch", "/api/v1/me", api.patch("/api/v1/me", {"name": ["x"]}), 400),
        ("patch", "/api/v1/me", api.patch("/api/v1/me", "x", content_type="text/plain"), 415),
        ("post", tokens, created, 201),
        ("post", tokens, api.post(tokens, {}), 400),
        ("get", tokens, api.get(tokens), 200),
        ("get", tokens, api.get(tokens, {"page": "0"}), 400),
        ("get", own, api.get(own), 200),
        ("get", f"{tokens}/{NO_ID}", api.get(f"{tokens}/{NO_ID}"), 404),
        ("delete", own, api.delete(own), 204),
        ("post", "/webhooks/clerk", anonymous.post("/webhooks/clerk", {}), 503),
    ]
    assert [response.status_code for _, _, response, _ in answers] == [status for _, _, _, status in answers]
    for method, path, response, _ in answers:
        check(method, path, response)
