"""The public paths of webhooks in the OpenAPI schema: plain Django views, which the generator does not see."""

from typing import Any, get_args

from bloxserver.api.schema import API_ERROR_REF
from triggers.config import Method

_TOKEN = {
    "name": "token",
    "in": "path",
    "required": True,
    "description": "The secret of the webhook's URL.",
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9_-]{43}$"},
}
_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "Kept for 72 hours: a repeat is answered with the first execution. Providers' delivery ids do the same.",
    "schema": {"type": "string", "maxLength": 255},
}
_REPLAYED = {
    "Idempotent-Replayed": {"description": "`true` on a repeat.", "schema": {"type": "string", "enum": ["true"]}}
}
_ACCEPTED = {
    "type": "object",
    "required": ["status", "executionId", "message"],
    "properties": {
        "status": {"type": "string", "enum": ["accepted"]},
        "executionId": {"type": "string", "format": "uuid"},
        "message": {"type": "string"},
    },
}
_TEST = {
    "type": "object",
    "required": ["valid", "triggerName", "flowName", "flowStatus"],
    "properties": {
        "valid": {"type": "boolean"},
        "triggerName": {"type": "string"},
        "flowName": {"type": "string"},
        "flowStatus": {"$ref": "#/components/schemas/FlowStatus"},
    },
}
_ERRORS = {
    401: "The webhook takes signed calls only, and this one's signature is not good.",
    402: "The month's executions of the flow's owner are used up.",
    405: "Not one of the webhook's methods, which `Allow` names.",
    409: "The flow is not running, or at its limit of executions at once and skips what comes meanwhile.",
    422: "The idempotency key came before with another body.",
    502: "The webhook waits for the result, and the execution failed.",
}


def add_webhooks(result: dict[str, Any], generator: Any, request: Any, public: bool) -> dict[str, Any]:
    """Postprocessing hook. The errors that any operation can answer are added by the hook that follows."""
    schemas = result.setdefault("components", {}).setdefault("schemas", {})
    schemas.update({"WebhookAccepted": _ACCEPTED, "WebhookTest": _TEST})
    result["paths"]["/webhooks/{token}"] = {"post": _receive()}
    result["paths"]["/webhooks/{token}/test"] = {"get": _test()}
    return result


def _receive() -> dict[str, Any]:
    others = ", ".join(method for method in get_args(Method) if method != "POST")
    return {
        "operationId": "receiveWebhook",
        "tags": ["webhooks"],
        "description": "Start an execution with the body as its payload. Where the trigger's `config.methods` names them, "
        f"{others} do the same.",
        "security": [],
        "parameters": [_TOKEN, _KEY],
        "requestBody": {
            "description": "JSON, a form, multipart, text, XML, any other content, or nothing; up to 1 MiB.",
            "content": {"application/json": {"schema": {}}},
        },
        "responses": {
            "200": _response("The flow's result, of a webhook that waits for it.", {}, headers=_REPLAYED),
            "202": _response("Accepted: it will run.", _schema("WebhookAccepted"), headers=_REPLAYED),
            **{str(status): _response(text, API_ERROR_REF) for status, text in _ERRORS.items()},
        },
    }


def _test() -> dict[str, Any]:
    return {
        "operationId": "testWebhook",
        "tags": ["webhooks"],
        "description": "Whether this URL is a webhook's, and of which flow. Fires nothing.",
        "security": [],
        "parameters": [_TOKEN],
        "responses": {
            "200": _response("It is.", _schema("WebhookTest")),
            "405": _response(_ERRORS[405], API_ERROR_REF),
        },
    }


def _schema(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _response(description: str, schema: dict[str, Any], *, headers: dict[str, Any] | None = None) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": description, "content": {"application/json": {"schema": schema}}}
    return answer if headers is None else {**answer, "headers": headers}
