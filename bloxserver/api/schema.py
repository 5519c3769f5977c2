"""OpenAPI: the errors that the machinery can answer, and the sign-in, which no view names."""

import re
from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.utils import OpenApiResponse

HEADINGS = ("flows", "versions", "executions", "triggers", "variables", "secrets", "blocks", "api-keys", "webhooks")
HTTP_METHODS = ("get", "post", "put", "patch", "delete")
ERRORS = {
    400: "The request is not valid: `details` maps each field to its messages.",
    401: "Nobody is signed in, or the token is not accepted.",
    403: "The access token lacks the scope.",
    404: "Unknown, or not yours.",
    406: "`Accept` allows nothing that is answered here.",
    408: "The body did not come in within 30 seconds.",
    413: "The body is too large.",
    415: "The body is not of a content type that is read here, or has a Content-Encoding.",
    429: "Too many requests: wait `Retry-After` seconds.",
    500: "The server failed. It has been logged.",
    503: "A part of the server is away: wait `Retry-After` seconds.",
}
API_ERROR_SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "Every failure, 404 and 500 included.",
    "required": ["code", "message", "details"],
    "properties": {
        "code": {"type": "string", "description": "Stable, for programs.", "examples": ["validation_error"]},
        "message": {"type": "string", "description": "For people: what is wrong and what to change."},
        "details": {
            "type": ["object", "null"],
            "additionalProperties": {},
            "description": "For a validation error: field -> messages.",
        },
    },
}
API_ERROR_REF: dict[str, Any] = {"$ref": "#/components/schemas/ApiError"}
_RETRY_AFTER = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}}}


def api_error(description: str) -> OpenApiResponse:
    """For `extend_schema(responses={409: api_error("It is not running.")})`: what only some operations answer."""
    return OpenApiResponse(API_ERROR_REF, description)


class BearerScheme(OpenApiAuthenticationExtension):
    target_class = "accounts.authentication.BearerAuthentication"
    name = "bearer"

    def get_security_definition(self, auto_schema: Any) -> dict[str, Any]:
        return {
            "type": "http",
            "scheme": "bearer",
            "description": "A personal access token (`blox_...`) or a Clerk session token (JWT).",
        }


def group_operations(result: dict[str, Any], generator: Any, request: Any, public: bool) -> dict[str, Any]:
    """Postprocessing hook: what lies under a flow goes under its own heading, and every operation has a summary."""
    for path, item in result.get("paths", {}).items():
        nouns = [part for part in path.split("/") if part in HEADINGS]
        for method, operation in item.items():
            if method in HTTP_METHODS:
                if nouns:
                    operation["tags"] = [nouns[-1]]
                operation.setdefault("summary", _in_words(operation["operationId"]))
    return result


def _in_words(operation_id: str) -> str:
    """`cancelExecution` as "Cancel execution"."""
    return re.sub("[A-Z]", lambda letter: f" {letter[0].lower()}", operation_id).capitalize()


def add_errors(result: dict[str, Any], generator: Any, request: Any, public: bool) -> dict[str, Any]:
    """Postprocessing hook: adds the `ApiError` answers that the machinery itself can give to every operation."""
    result.setdefault("components", {}).setdefault("schemas", {})["ApiError"] = API_ERROR_SCHEMA
    for path, item in result.get("paths", {}).items():
        for method, operation in item.items():
            if method in HTTP_METHODS:
                for status in _statuses(path, operation):
                    operation["responses"].setdefault(str(status), _error_response(status))
                operation["responses"] = dict(sorted(operation["responses"].items()))
    return result


def _statuses(path: str, operation: dict[str, Any]) -> list[int]:
    statuses = [400, 406, 429, 500, 503]
    security = operation.get("security", [])
    if security and {} not in security:  # `{}` stands for: or nobody
        statuses += [401, 403]
    if "{" in path:
        statuses.append(404)
    if "requestBody" in operation:
        statuses += [408, 413, 415]
    return statuses


def _error_response(status: int) -> dict[str, Any]:
    response: dict[str, Any] = {
        "description": ERRORS[status],
        "content": {"application/json": {"schema": API_ERROR_REF}},
    }
    if status in (429, 503):
        response["headers"] = _RETRY_AFTER
    return response
