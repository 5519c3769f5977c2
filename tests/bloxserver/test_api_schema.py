"""The served OpenAPI document says what these endpoints answer, errors included."""

from collections import Counter
from typing import Any

import pytest
from drf_spectacular.generators import SchemaGenerator
from jsonschema import Draft202012Validator
from rest_framework.test import APIClient

pytestmark = pytest.mark.django_db

METHODS = {"get", "post", "put", "patch", "delete"}
NO_ID = "0190a000-0000-7000-8000-000000000000"


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    document: dict[str, Any] = SchemaGenerator().get_schema(request=None, public=True)
    return document


def operations(schema: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(path, method, item[method]) for path, item in schema["paths"].items() for method in METHODS & set(item)]


def validate(schema: dict[str, Any], path: str, method: str, response: Any) -> None:
    documented = schema["paths"][path][method]["responses"][str(response.status_code)]
    if "content" not in documented:
        assert response.content == b""
        return
    body = documented["content"]["application/json"]["schema"]
    Draft202012Validator({**body, "components": schema["components"]}).validate(response.json())


def test_operation_ids_are_unique(schema: dict[str, Any]) -> None:
    counts = Counter(operation["operationId"] for _, _, operation in operations(schema))
    assert {name for name, count in counts.items() if count > 1} == set()


def test_every_operation_documents_the_errors_that_any_can_give(schema: dict[str, Any]) -> None:
    for path, method, operation in operations(schema):
        statuses = set(operation["responses"])
        expected = {"400", "429", "500", "503"}
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
    assert "security" not in schema["paths"]["/webhooks/clerk"]["post"]


def test_a_page_is_documented_by_the_names_on_the_wire(schema: dict[str, Any]) -> None:
    operation = schema["paths"]["/api/v1/access-tokens"]["get"]
    assert [parameter["name"] for parameter in operation["parameters"]] == ["page", "pageSize"]
    page = schema["components"]["schemas"]["PaginatedAccessTokenList"]
    assert page["required"] == list(page["properties"]) == ["items", "total", "page", "pageSize", "hasMore"]


def test_answers_match_their_documentation(schema: dict[str, Any], api: APIClient, anonymous: APIClient) -> None:
    tokens, token = "/api/v1/access-tokens", "/api/v1/access-tokens/{id}"
    created = api.post(tokens, {"name": "CI"})
    own = f"{tokens}/{created.json()['id']}"
    for path, method, response in [
        ("/api/v1/me", "get", api.get("/api/v1/me")),
        ("/api/v1/me", "get", anonymous.get("/api/v1/me")),
        ("/api/v1/me", "patch", api.patch("/api/v1/me", {"name": None})),
        ("/api/v1/me", "patch", api.patch("/api/v1/me", {"name": ["x"]})),
        ("/api/v1/me", "patch", api.generic("PATCH", "/api/v1/me", b"x", content_type="text/plain")),
        (tokens, "post", created),
        (tokens, "post", api.post(tokens, {})),
        (tokens, "get", api.get(tokens)),
        (tokens, "get", api.get(tokens, {"page": 0})),
        (token, "get", api.get(own)),
        (token, "get", api.get(f"{tokens}/{NO_ID}")),
        (token, "delete", api.delete(own)),
        ("/webhooks/clerk", "post", anonymous.post("/webhooks/clerk", {})),
    ]:
        validate(schema, path, method, response)
