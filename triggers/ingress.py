"""The public side of webhooks: plain Django views, one of which can settle many calls at once."""

from collections.abc import Callable
from datetime import datetime
from functools import cached_property, partial, wraps
from uuid import UUID

from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils import timezone
from django.views.decorators.csrf import csrf_exempt
from rest_framework.exceptions import Throttled

from billing.services import api_requests_per_minute, limits_of
from bloxserver.api.errors import ApiError, api_error_of, error_response
from bloxserver.api.parsers import refuse_encoded
from bloxserver.api.throttling import client_address, limiter
from bloxserver.core import json_text
from bloxserver.core.batching import Batcher
from bloxserver.core.database import look_after_connection
from bloxserver.core.deferred import Deferred, Result, can_defer, finished
from bloxserver.core.errors import NotFound
from bloxserver.core.streams import StreamsBusy, acquire_stream_slot
from executions.services import wait_for_end
from flows.models import Flow
from triggers import bodies, replies
from triggers.config import WebhookConfig, read_config
from triggers.errors import BodyTooLarge, MethodNotAllowed, UnreadableBody
from triggers.models import Trigger
from triggers.services import (
    Acceptance,
    Arrival,
    Call,
    Origin,
    accept_webhook,
    accept_webhooks,
    find_webhook,
    find_webhooks,
    record_duplicate,
    record_refusal,
    require_enabled,
    verify_signature,
)

View = Callable[[HttpRequest, str], HttpResponse]

BATCH = 100  # calls accepted together
MAX_WAITING = 2_000  # calls; with the largest bodies that are 2 GB
BUSY = ApiError(
    503, "server_busy", "Too many calls are coming in: try again in a moment.", headers={"Retry-After": "1"}
)
# Credentials of the caller, which a flow has no business with.
PRIVATE_HEADERS = frozenset({"authorization", "cookie", "proxy-authorization"})
MAX_SIZE = 2**63 - 1  # of a claimed body, which the ledger can hold
DATABASE_AWAY = 503


def _answering_errors(view: View) -> View:
    """Every failure as an `ApiError`, as the API's own views answer it."""

    @wraps(view)
    def answered(request: HttpRequest, token: str) -> HttpResponse:
        try:
            response = view(request, token)
        except Exception as exception:
            response = error_response(api_error_of(exception, request))
        response["Cache-Control"] = "no-store"
        return response

    return csrf_exempt(answered)


def receive(request: HttpRequest, token: str) -> HttpResponse:
    """One call of a webhook: an execution, answered with 202 at once or with its result.

    Whatever becomes of it, it is in the ledger of the trigger, unless the database is away.
    """
    incoming = _Incoming(request, token, timezone.now())
    if not can_defer(request):
        (result,) = _settle([incoming])
        return finished(result)
    if len(_batcher) >= MAX_WAITING:
        return _answer(incoming, error_response(BUSY))
    return Deferred(_batcher.submit(incoming))


receive.csrf_exempt = receive.defers = True  # type: ignore[attr-defined]


@_answering_errors
def test(request: HttpRequest, token: str) -> HttpResponse:
    """Whether this URL is a webhook's, and of which flow. Fires nothing."""
    trigger = find_webhook(token)
    require_enabled(trigger)
    if request.method != "GET":
        raise MethodNotAllowed(f"This path takes GET, not {request.method}.", headers={"Allow": "GET"})
    flow: Flow = trigger.flow
    return JsonResponse({"valid": True, "triggerName": trigger.name, "flowName": flow.name, "flowStatus": flow.status})


def _settle(calls: "list[_Incoming]") -> list[Result]:
    """What each call is answered. What is accepted costs these calls, together, one look-up and one transaction.

    Whatever else is to be done for a call (a refusal to be written down, a result to be waited for) is left to a
    thread of its own, so that no call waits for another's.
    """
    try:
        return _accept_all(calls)
    except Exception as exception:
        return [_answer(each, error_response(api_error_of(exception, each.request))) for each in calls]


def _accept_all(calls: "list[_Incoming]") -> list[Result]:
    results: dict[int, Result] = {}
    arrivals: dict[int, Arrival] = {}
    for at, (call, trigger) in enumerate(zip(calls, find_webhooks([call.token for call in calls]), strict=True)):
        try:
            if trigger is None:
                raise NotFound("Not found.")
            call.trigger = trigger
            arrivals[at] = _arrival(call)
        except Exception as exception:
            results[at] = partial(_refuse, call, exception)
    outcomes = accept_webhooks(list(arrivals.values())) if arrivals else []
    for (at, arrival), acceptance in zip(arrivals.items(), outcomes, strict=True):
        results[at] = partial(_alone, calls[at], arrival)
        if acceptance is not None and not acceptance.replayed and calls[at].config.respond == "accepted":
            results[at] = _answer(calls[at], replies.accepted(acceptance.execution_id))
        elif acceptance is not None:
            results[at] = partial(_reply, calls[at], arrival, acceptance)
    return [results[at] for at in range(len(calls))]


def _alone(incoming: "_Incoming", arrival: Arrival) -> HttpResponse:
    try:
        acceptance = accept_webhook(arrival)
    except Exception as exception:
        return _refuse(incoming, exception)
    return _reply(incoming, arrival, acceptance)


def _arrival(incoming: "_Incoming") -> Arrival:
    """Raises whatever there is against accepting the call."""
    require_enabled(incoming.trigger)
    method, methods = incoming.request.method, incoming.config.methods
    if method not in methods:
        allowed = ", ".join(methods)
        raise MethodNotAllowed(f"This webhook takes {allowed}, not {method}.", headers={"Allow": allowed})
    _throttle(incoming.request, incoming.trigger)
    return Arrival(trigger=incoming.trigger, call=incoming.call, now=incoming.now)


def _answer(incoming: "_Incoming", response: HttpResponse) -> HttpResponse:
    response["Cache-Control"] = "no-store"
    if (rate_limit := getattr(incoming.request, "rate_limit", None)) is not None:
        for name, value in rate_limit.headers.items():
            response[name] = value
    return response


def _throttle(request: HttpRequest, trigger: Trigger) -> None:
    """As many calls a minute as API requests, counted apart from those. Raises `Throttled` (429)."""
    owner = trigger.flow.user
    rate_limit = limiter().hit(f"webhook/{owner.pk}", per_minute=api_requests_per_minute(owner))
    request.rate_limit = rate_limit  # type: ignore[attr-defined]  # for the error's text and the middleware's headers
    if not rate_limit.allowed:
        raise Throttled(wait=rate_limit.retry_after)


class _Incoming:
    """A call as it comes in: read and verified when that is first asked for. Its trigger is found by its token."""

    trigger: Trigger

    def __init__(self, request: HttpRequest, token: str, now: datetime) -> None:
        self.request, self.token, self.now = request, token, now

    @cached_property
    def config(self) -> WebhookConfig:
        config = read_config(self.trigger.type, self.trigger.config)
        assert isinstance(config, WebhookConfig)
        return config

    @property
    def origin(self) -> Origin:
        """Also of a call whose body has not been read: then its size is what it claims."""
        read = getattr(self.request, "_body", None)
        size = min(_content_length(self.request) or 0, MAX_SIZE) if read is None else len(read)
        return Origin(method=self.request.method or "", size=size, address=client_address(self.request))

    @cached_property
    def call(self) -> Call:
        """Raises `DomainError` for a body that is too large, not signed as the config says, or unreadable."""
        request = self.request
        body = _body(request)
        headers = {name.lower(): value for name, value in request.headers.items()}
        if self.config.signature is not None:
            verify_signature(self.trigger, self.config.signature, headers=headers, body=body, now=self.now)
        payload = bodies.payload_of(body, headers.get("content-type", ""))
        return Call(
            origin=self.origin,
            headers={name: value for name, value in headers.items() if name not in PRIVATE_HEADERS},
            query=bodies.grouped((name, value) for name, values in request.GET.lists() for value in values),
            query_string=request.META.get("QUERY_STRING", ""),
            payload=payload,
            stripe_event=_stripe_event(payload) if "stripe-signature" in headers else "",
        )


def _refuse(incoming: _Incoming, exception: Exception) -> HttpResponse:
    error = api_error_of(exception, incoming.request)
    if error.status != DATABASE_AWAY and hasattr(incoming, "trigger"):
        record_refusal(
            trigger=incoming.trigger,
            origin=incoming.origin,
            status=error.status,
            code=error.code,
            reason=getattr(exception, "reason", "") or error.message,
            read=lambda: incoming.call,
            now=incoming.now,
        )
    return _answer(incoming, error_response(error))


def _body(request: HttpRequest) -> bytes:
    """The raw body. Raises `EncodedBody` (415) and `BodyTooLarge` (413), the latter before it has been read."""
    refuse_encoded(request.headers)
    limit, length = settings.WEBHOOK_MAX_BYTES, _content_length(request)
    if length is None:
        raise UnreadableBody("The Content-Length header is not a number.")
    if length > limit:
        raise BodyTooLarge(f"The body is larger than {limit:,} bytes; send a link to large data instead.")
    return request.body


def _content_length(request: HttpRequest) -> int | None:
    """The length that the call claims; None where that is not a number."""
    text = request.META.get("CONTENT_LENGTH") or "0"
    if not (text.isascii() and text.isdecimal()):
        return None
    return int(text) if len(text) < 20 else MAX_SIZE


def _stripe_event(payload: str) -> str:
    event = json_text.loads(payload)
    event_id = event.get("id") if isinstance(event, dict) else None
    return event_id if isinstance(event_id, str) and len(event_id) <= 255 else ""


def _reply(incoming: _Incoming, arrival: Arrival, acceptance: Acceptance) -> HttpResponse:
    try:
        response = _result(incoming, acceptance.execution_id)
    except Exception as exception:
        response = error_response(api_error_of(exception, incoming.request))
    if acceptance.replayed:
        record_duplicate(arrival, execution_id=acceptance.execution_id)
        response["Idempotent-Replayed"] = "true"
    return _answer(incoming, response)


def _result(incoming: _Incoming, execution_id: UUID) -> HttpResponse:
    config = incoming.config
    if config.respond == "accepted":
        return replies.accepted(execution_id)
    most = limits_of(incoming.trigger.flow.user).webhook_wait_seconds
    try:
        with acquire_stream_slot():
            ended = wait_for_end(execution_id, min(config.wait or most, most))
    except StreamsBusy:
        return replies.accepted(
            execution_id, "Accepted. Too many calls are waiting for their results, so this one is not waited for."
        )
    return replies.accepted(execution_id, "The execution is still running.") if ended is None else replies.result(ended)


def _settle_in_thread(calls: list[_Incoming]) -> list[Result]:
    """In the batcher's thread, which has a connection of its own."""
    look_after_connection()
    return _settle(calls)


_batcher: Batcher[_Incoming, Result] = Batcher(_settle_in_thread, most=BATCH, name="webhooks")
