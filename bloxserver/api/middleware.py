"""What must hold for every request, before and after any view: readable input, JSON errors, rate-limit headers."""

import codecs
import io
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote_to_bytes

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from rest_framework.exceptions import Throttled

from bloxserver.api.errors import ADMIN, NOT_FOUND, ApiError, PayloadTooLarge, api_error_of, error_response
from bloxserver.api.throttling import RateLimit, charge_address, charge_user

API = "/api/"

# Encodings of text that a form may come in; anything else (idna, utf-7, rot13, ...) has no business there, and some
# make Django's decoding fail.
_CHARSET = re.compile(r"utf-8|ascii|iso8859-\d+|cp12\d\d")


class ApiMiddleware:
    """First in the list, so that it also sees what the others refuse."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        refused = _unreadable(request) or _take_chunked_body(request)
        if refused is not None:
            return error_response(refused)
        response = self.get_response(request)
        if response.status_code == 401 and request.path.startswith(API):
            response = _of_a_stranger(request, response)
        _add_rate_limit(request, response)
        return response if request.path.startswith(ADMIN) else _as_json(response)


def _unreadable(request: HttpRequest) -> ApiError | None:
    """A NUL cannot reach PostgreSQL, and what is not UTF-8 cannot be answered truly: both end here."""
    try:
        query = unquote_to_bytes(request.META.get("QUERY_STRING", "").encode("latin-1", "replace")).decode()
    except UnicodeDecodeError:
        return ApiError(400, "bad_request", "The query must be percent-encoded UTF-8.")
    if "\x00" in request.path + query:
        return ApiError(400, "bad_request", "The path and the query must not hold a NUL character (%00).")
    charset = (request.content_params or {}).get("charset", "utf-8")
    if not _known_charset(charset):
        return ApiError(400, "bad_request", f"The charset {charset[:40]!r} is not supported: send UTF-8.")
    return None


def _known_charset(name: str) -> bool:
    try:
        return bool(_CHARSET.fullmatch(codecs.lookup(name).name))
    except (LookupError, ValueError):
        return False


def _take_chunked_body(request: HttpRequest) -> ApiError | None:
    """A body sent in chunks has no length, and Django would take it for empty: it is read here, up to the limit."""
    if "chunked" not in request.META.get("HTTP_TRANSFER_ENCODING", "").lower() or request.META.get("CONTENT_LENGTH"):
        return None
    limit = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
    body = request.META["wsgi.input"].read(limit + 1)
    if len(body) > limit:
        return ApiError(413, PayloadTooLarge.default_code, f"The body is larger than {limit} bytes.")
    request.META["CONTENT_LENGTH"] = str(len(body))
    request._stream = io.BytesIO(body)
    return None


def _as_json(response: HttpResponseBase) -> HttpResponseBase:
    """Django's own error pages (with DEBUG on, and for a bad host) as an `ApiError`."""
    is_page = response.get("Content-Type", "").startswith("text/html")
    if response.status_code < 400 or not is_page or response.get("Content-Security-Policy") == "sandbox":
        return response  # sandboxed is what a flow answers to its webhook: its own business
    if response.status_code == 404:
        return error_response(NOT_FOUND)
    reason = (HttpResponse(status=response.status_code).reason_phrase or "error").lower()
    return error_response(ApiError(response.status_code, reason.replace(" ", "_"), f"{reason.capitalize()}."))


def _of_a_stranger(request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
    """REST framework refuses (401) before it counts: whoever tries tokens is counted here, by address."""
    rate_limit = charge_address(request)
    if rate_limit.allowed:
        return response
    return error_response(api_error_of(Throttled(wait=rate_limit.retry_after), request))


def _add_rate_limit(request: HttpRequest, response: HttpResponseBase) -> None:
    """On every answer to a known caller: one that was refused before the throttle (403) counts too."""
    user: Any = getattr(request, "api_user", None)
    rate_limit: RateLimit | None = charge_user(request, user) if user else getattr(request, "rate_limit", None)
    if rate_limit is not None:
        for name, value in rate_limit.headers.items():
            response[name] = value
