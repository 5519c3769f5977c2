"""The public side of webhooks. Plain Django views: a call costs a handful of queries and little else."""

from collections.abc import Callable
from functools import wraps

from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils import timezone
from django.views.decorators.csrf import csrf_exempt
from rest_framework.exceptions import Throttled

from billing.services import api_requests_per_minute, limits_of
from bloxserver.api.errors import api_error_of, error_response
from bloxserver.api.throttling import limiter
from bloxserver.core import json_text
from bloxserver.core.streams import StreamsBusy, acquire_stream_slot
from executions.services import wait_for_end
from flows.models import Flow
from triggers import bodies, replies
from triggers.config import WebhookConfig, read_config
from triggers.errors import BodyTooLarge, EncodedBody, MethodNotAllowed, UnreadableBody
from triggers.models import Trigger
from triggers.services import Delivery, accept_webhook, find_webhook
from triggers.services.webhooks import Acceptance

View = Callable[[HttpRequest, str], HttpResponse]

# Credentials of the caller, which a flow has no business with.
PRIVATE_HEADERS = frozenset({"authorization", "cookie", "proxy-authorization"})


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


@_answering_errors
def receive(request: HttpRequest, token: str) -> HttpResponse:
    """One call of a webhook: an execution, answered with 202 at once or with its result."""
    trigger = find_webhook(token)
    config = read_config(trigger.type, trigger.config)
    assert isinstance(config, WebhookConfig)
    if request.method not in config.methods:
        allowed = ", ".join(config.methods)
        raise MethodNotAllowed(f"This webhook takes {allowed}, not {request.method}.", headers={"Allow": allowed})
    _throttle(request, trigger)
    acceptance = accept_webhook(trigger=trigger, delivery=_delivery(request), now=timezone.now())
    response = _reply(trigger, config, acceptance)
    if acceptance.replayed:
        response["Idempotent-Replayed"] = "true"
    return response


@_answering_errors
def test(request: HttpRequest, token: str) -> HttpResponse:
    """Whether this URL is a webhook's, and of which flow. Fires nothing."""
    trigger = find_webhook(token)
    if request.method != "GET":
        raise MethodNotAllowed(f"This path takes GET, not {request.method}.", headers={"Allow": "GET"})
    flow: Flow = trigger.flow
    return JsonResponse({"valid": True, "triggerName": trigger.name, "flowName": flow.name, "flowStatus": flow.status})


def _throttle(request: HttpRequest, trigger: Trigger) -> None:
    """As many calls a minute as API requests, counted apart from those. Raises `Throttled` (429)."""
    owner = trigger.flow.user
    rate_limit = limiter().hit(f"webhook/{owner.pk}", per_minute=api_requests_per_minute(owner))
    request.rate_limit = rate_limit  # type: ignore[attr-defined]  # for the error's text and the middleware's headers
    if not rate_limit.allowed:
        raise Throttled(wait=rate_limit.retry_after)


def _delivery(request: HttpRequest) -> Delivery:
    body = _body(request)
    headers = {name.lower(): value for name, value in request.headers.items() if name.lower() not in PRIVATE_HEADERS}
    payload = bodies.payload_of(body, headers.get("content-type", ""))
    return Delivery(
        method=request.method or "",
        headers=headers,
        query=bodies.grouped((name, value) for name, values in request.GET.lists() for value in values),
        query_string=request.META.get("QUERY_STRING", ""),
        payload=payload,
        stripe_event=_stripe_event(payload) if "stripe-signature" in headers else "",
    )


def _body(request: HttpRequest) -> bytes:
    """The raw body. Raises `EncodedBody` (415) and `BodyTooLarge` (413), the latter before it has been read."""
    if request.headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
        raise EncodedBody("A body with a Content-Encoding is not read here; send it uncompressed.")
    limit = settings.WEBHOOK_MAX_BYTES
    length = request.META.get("CONTENT_LENGTH") or "0"
    if not length.isdecimal():
        raise UnreadableBody("The Content-Length header is not a number.")
    if int(length) > limit:
        raise BodyTooLarge(f"The body is larger than {limit:,} bytes; send a link to large data instead.")
    return request.body


def _stripe_event(payload: str) -> str:
    event = json_text.loads(payload)
    event_id = event.get("id") if isinstance(event, dict) else None
    return event_id if isinstance(event_id, str) and len(event_id) <= 255 else ""


def _reply(trigger: Trigger, config: WebhookConfig, acceptance: Acceptance) -> HttpResponse:
    if config.respond == "accepted":
        return replies.accepted(acceptance.execution_id, "The execution is accepted and will run.")
    most = limits_of(trigger.flow.user).webhook_wait_seconds
    try:
        with acquire_stream_slot():
            ended = wait_for_end(acceptance.execution_id, min(config.wait or most, most))
    except StreamsBusy:
        return replies.accepted(
            acceptance.execution_id,
            "Accepted. Too many calls are waiting for their results, so this one is not waited for.",
        )
    if ended is None:
        return replies.accepted(acceptance.execution_id, "The execution is still running.")
    return replies.result(ended)
