"""Every failure as an `ApiError {code, message, details}`, whoever raised it."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import ceil
from typing import Any

from django.core import exceptions as django_exceptions
from django.http import Http404, HttpRequest, HttpResponse, UnreadablePostError
from django.http.multipartparser import MultiPartParserError
from django.http.response import HttpResponseBase
from django.views import defaults
from djangorestframework_camel_case.settings import api_settings as camel_case_settings
from djangorestframework_camel_case.util import camelize
from rest_framework import exceptions, status
from rest_framework.fields import get_error_detail
from rest_framework.response import Response

from bloxserver.api.renderers import render
from bloxserver.core import json_text
from bloxserver.core.database import is_away, is_behind
from bloxserver.core.errors import DomainError

logger = logging.getLogger(__name__)

ADMIN = "/admin/"
DATABASE_RETRY_SECONDS = 2

# What REST framework calls them -> what our clients see.
CODES = {
    "parse_error": "bad_request",
    "invalid": "validation_error",
    "throttled": "rate_limit_exceeded",
    "error": "internal_error",
}


class InvalidJSON(exceptions.ParseError):
    default_code = "invalid_json"


class PayloadTooLarge(exceptions.APIException):
    status_code = status.HTTP_413_REQUEST_ENTITY_TOO_LARGE
    default_detail = "The body is too large."
    default_code = "payload_too_large"


class EncodedBody(exceptions.APIException):
    status_code = status.HTTP_415_UNSUPPORTED_MEDIA_TYPE
    default_detail = "A body with a Content-Encoding is not read here; send it uncompressed."
    default_code = "unsupported_content_encoding"


class UnreadableBody(exceptions.APIException):
    status_code = status.HTTP_400_BAD_REQUEST
    default_detail = "The body ended before all of it had arrived: send it again."
    default_code = "unreadable_body"


@dataclass(frozen=True, slots=True)
class ApiError:
    status: int
    code: str
    message: str
    details: dict[str, Any] | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        return {"code": self.code, "message": self.message, "details": self.details}


NOT_FOUND = ApiError(404, "not_found", "Not found.")  # the same bytes for an unknown row and for another tenant's
INTERNAL = ApiError(500, "internal_error", "The server failed to answer this. It has been logged; try again later.")


def exception_handler(exc: Exception, context: dict[str, Any]) -> Response:
    """REST framework's hook: every exception of a view becomes an answer."""
    error = api_error_of(exc, context.get("request"))
    return Response(error.body(), status=error.status, headers=error.headers)


def api_error_of(exc: Exception, request: Any = None) -> ApiError:
    """What a client is told about `exc`; what it is not told (500, 503) is logged."""
    match exc:
        case DomainError():
            return _of_domain_error(exc)
        case exceptions.ValidationError():
            return _of_validation_error(exc.detail)
        case django_exceptions.ValidationError():
            return _of_validation_error(get_error_detail(exc))
        case Http404() | exceptions.NotFound() | django_exceptions.ObjectDoesNotExist():
            return NOT_FOUND
        case django_exceptions.PermissionDenied():
            return ApiError(403, "permission_denied", "You may not do this.")
        case exceptions.Throttled():
            return _of_throttled(exc, request)
        case exceptions.APIException():
            return _of_api_exception(exc)
        case django_exceptions.RequestDataTooBig():
            return ApiError(413, PayloadTooLarge.default_code, PayloadTooLarge.default_detail)
        case django_exceptions.SuspiciousOperation() | django_exceptions.BadRequest() | MultiPartParserError():
            return ApiError(400, "bad_request", f"The request cannot be read: {exc}"[:500])
        case UnreadablePostError():
            return ApiError(400, UnreadableBody.default_code, UnreadableBody.default_detail)
        case _ if is_away(exc) or is_behind(exc):
            # Whoever cannot be reached is so for every call: a line each, and where it was only for what the server itself said.
            said = getattr(exc.__cause__, "sqlstate", None)
            logger.error(
                "The database did not answer: %s", json_text.one_line(str(exc)), exc_info=exc if said else None
            )
            retry = {"Retry-After": str(DATABASE_RETRY_SECONDS)}
            return ApiError(503, "database_unavailable", "The database did not answer: try again.", headers=retry)
        case _:
            logger.error("Unhandled %s", type(exc).__name__, exc_info=exc)
            return INTERNAL


def _of_domain_error(exc: DomainError) -> ApiError:
    if exc.status == 404 and exc.code == NOT_FOUND.code:
        return NOT_FOUND
    return ApiError(exc.status, exc.code, exc.message, exc.details, exc.headers)


def _of_validation_error(detail: Any) -> ApiError:
    if not isinstance(detail, dict):
        detail = {"non_field_errors": detail if isinstance(detail, list) else [detail]}
    details = camelize(detail, **camel_case_settings.JSON_UNDERSCOREIZE)
    return ApiError(400, "validation_error", _summary(details), details)


def _summary(details: dict[str, Any]) -> str:
    """The first message with its field, and how many more there are."""
    messages = list(_flat(details, ""))
    if not messages:
        return "The request is not valid."
    path, message = messages[0]
    first = f"{path}: {message}" if path else message
    return first if len(messages) == 1 else f"{first} (and {len(messages) - 1} more)"


def _flat(detail: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(detail, dict):
        for key, value in detail.items():
            yield from _flat(value, path if key == "nonFieldErrors" else f"{path}.{key}".lstrip("."))
    elif isinstance(detail, list):
        for index, value in enumerate(detail):
            yield from _flat(value, f"{path}[{index}]" if isinstance(value, dict) else path)
    else:
        yield path, detail


def _of_throttled(exc: exceptions.Throttled, request: Any) -> ApiError:
    wait = max(1, ceil(getattr(exc, "wait", None) or 1))
    rate = getattr(getattr(request, "_request", request), "rate_limit", None)
    what = f"More than {rate.limit} requests a minute" if rate else "Too many requests"
    return ApiError(
        429, "rate_limit_exceeded", f"{what}: try again in {wait} s.", {"retryAfter": wait}, {"Retry-After": str(wait)}
    )


def _of_api_exception(exc: exceptions.APIException) -> ApiError:
    code = getattr(exc.detail, "code", exc.default_code)
    message = str(exc.detail) if isinstance(exc.detail, str) else str(exc.default_detail)
    if exc.status_code >= 500:
        logger.error("API error %s", exc.status_code, exc_info=exc)
    headers = {}
    if auth_header := getattr(exc, "auth_header", None):
        headers["WWW-Authenticate"] = auth_header
    if isinstance(exc, exceptions.NotAuthenticated):
        message = "Sign in: send the header `Authorization: Bearer <token>`."
    return ApiError(exc.status_code, CODES.get(code, code), message, None, headers)


# Outside REST framework's views. `bloxserver.urls` names these as its handlers; the admin answers people, in HTML. ---
def error_response(error: ApiError) -> HttpResponse:
    """`error` as the API would answer it, for middleware and plain Django views."""
    return HttpResponse(
        render(error.body()), status=error.status, headers=error.headers, content_type="application/json"
    )


def handler400(request: HttpRequest, exception: Exception) -> HttpResponse:
    return error_response(
        ApiError(400, "bad_request", "The request cannot be read: its host, headers or form fields are not acceptable.")
    )


def handler403(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    if request.path.startswith(ADMIN):
        return defaults.permission_denied(request, exception)
    return error_response(ApiError(403, "permission_denied", "You may not do this."))


def handler404(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    if request.path.startswith(ADMIN):
        return defaults.page_not_found(request, exception)
    return error_response(NOT_FOUND)


def handler500(request: HttpRequest) -> HttpResponseBase:
    if request.path.startswith(ADMIN):
        return defaults.server_error(request)
    return error_response(INTERNAL)
