"""A test client that holds every answer against the OpenAPI document that the server itself serves."""

import json
import re
from functools import lru_cache
from typing import Any

from django.http import HttpResponse
from drf_spectacular.generators import SchemaGenerator
from jsonschema import Draft202012Validator, FormatChecker
from rest_framework.test import APIClient

# (operation id, status) of every answer so far: what a run of the suite has seen of the document.
seen: set[tuple[str, int]] = set()


@lru_cache(maxsize=1)
def document() -> dict[str, Any]:
    """The served document, as a client would read it."""
    schema = SchemaGenerator().get_schema(request=None, public=True)
    return json.loads(json.dumps(schema, default=str))


@lru_cache(maxsize=1)
def _routes() -> list[tuple[re.Pattern[str], dict[str, Any]]]:
    """Fixed paths before those with parameters, as a router would have them."""
    paths = sorted(document()["paths"].items(), key=lambda item: item[0].count("{"))
    return [(re.compile(re.sub(r"\{\w+\}", "[^/]+", path) + "$"), operations) for path, operations in paths]


def operation(method: str, path: str) -> dict[str, Any] | None:
    for pattern, operations in _routes():
        if pattern.match(path):
            return operations.get(method.lower())
    return None


def check(method: str, path: str, response: HttpResponse) -> None:
    """Raise `AssertionError` where the answer is not one that the document gives for the operation."""
    described = operation(method, path)
    if described is None:
        assert response.status_code in (404, 405), f"{method} {path} is answered, and is not in the document"
        return
    answers = described["responses"]
    status = str(response.status_code)
    assert status in answers, f"{described['operationId']} answers {status}; the document gives {', '.join(answers)}"
    seen.add((described["operationId"], response.status_code))
    content = answers[status].get("content", {}).get("application/json")
    if content is None or response.streaming:
        return
    if response.content:
        validator = Draft202012Validator(
            {**content["schema"], "components": document()["components"]}, format_checker=FormatChecker()
        )
        errors = [
            f"{error.json_path}: {error.message}" for error in validator.iter_errors(json.loads(response.content))
        ]
        assert not errors, f"{described['operationId']} {status}: " + "; ".join(errors[:5])


class CheckedClient(APIClient):
    def request(self, **kwargs: Any) -> Any:
        response = super().request(**kwargs)
        check(kwargs["REQUEST_METHOD"], kwargs["PATH_INFO"], response)
        return response
