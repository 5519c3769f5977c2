"""Every operation of the OpenAPI document is driven to its success, and each answer held against the document.

`CheckedClient` does the holding: it fails a test whose answer has a status or a body that the document does not give.
"""

import json
from base64 import b64encode
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.utils import timezone
from pytest_django import Settings
from rest_framework.test import APIClient
from standardwebhooks import Webhook

from accounts.models import Tier, User
from billing.models import RunBudget
from billing.tiers import TIERS
from executions.models import Approval
from flows.memories import remember
from tests import openapi
from tests.billing.shop import opened
from tests.conftest import api_as
from tests.llm.keys import KEY, allow_provider
from tests.llm.model_server import ModelServer
from tests.openapi import CheckedClient, document
from triggers.services import tick

CLERK_SECRET = "whsec_" + b64encode(b"a secret of the test's own").decode()
ORGANISM = """\
organism: {name: tested}
listeners:
  - {name: first, handler: blox.transform, config: {value: {got: "{{ payload }}"}}, peers: [done]}
  - {name: done, handler: blox.output}
"""
BROKEN = "organism: {name: broken}\nlisteners: [{name: a, handler: blox.nothing}]\n"
WAITING = "organism: {name: waits}\nlisteners: [{name: a, handler: blox.delay, config: {seconds: 3600}}]\n"
FAILING = "organism: {name: fails}\nlisteners: [{name: a, handler: blox.fail, config: {message: no}}]\n"
ASKING = "organism: {name: asks}\nlisteners: [{name: a, handler: blox.approval, config: {message: Go?}}]\n"
FLOWS = "/api/v1/flows"

Drain = Callable[[], None]


@pytest.fixture(autouse=True)
def _settings(settings: Settings) -> None:
    settings.CLERK_WEBHOOK_SECRET = CLERK_SECRET
    settings.BLOX_ANONYMOUS_API_RATE = 100_000


@pytest.fixture
def seen() -> Iterator[set[tuple[str, int]]]:
    """What this test alone has seen; the suite's own record goes on afterwards."""
    before = set(openapi.seen)
    openapi.seen.clear()
    yield openapi.seen
    openapi.seen.update(before)


class Caller:
    """Asks, and insists on the status."""

    def __init__(self, client: APIClient) -> None:
        self.client = client

    def __call__(self, status: int, method: str, path: str, body: Any = None, **headers: str) -> Any:
        content = "" if body is None else json.dumps(body)
        answer: Any = self.client.generic(
            method, path, content, "application/json" if content else "application/octet-stream", headers=headers
        )
        assert answer.status_code == status, (method, path, answer.status_code, getattr(answer, "content", b""))
        if answer.streaming:
            return b"".join(answer.streaming_content).decode()
        return json.loads(answer.content) if answer.content else None


@pytest.fixture
def call(alice: User) -> Caller:
    User.objects.filter(pk=alice.pk).update(tier=Tier.HIGH_FREQUENCY)
    return Caller(api_as(alice))


@pytest.fixture
def public() -> Caller:
    return Caller(CheckedClient())


def running_flow(call: Caller, yaml: str = ORGANISM) -> str:
    flow: str = call(201, "POST", FLOWS, {"name": "Tested", "organismYaml": yaml})["id"]
    call(200, "POST", f"{FLOWS}/{flow}/start")
    return flow


# The success of each. --------------------------------------------------------------------------------------------
@pytest.mark.django_db(transaction=True)
def test_every_operation_of_the_document_succeeds(
    call: Caller, public: Caller, drain: Drain, seen: set[tuple[str, int]], settings: Settings
) -> None:
    account(call)
    api_keys(call, settings)
    flow = flows(call)
    versions(call, flow)
    stores(call, flow)
    executions(call, public, flow, drain)
    triggers(call, public, flow, drain)
    budgets(call, flow)
    clerk()
    billing(call, settings)
    memories(call, flow)
    call(204, "DELETE", f"{FLOWS}/{flow}")

    succeeded = {operation for operation, status in seen if 200 <= status < 300}
    assert succeeded == {operation["operationId"] for _, _, operation in operations()}


def api_keys(call: Caller, settings: Settings) -> None:
    with ModelServer() as provider:
        allow_provider(settings, provider)
        call(201, "POST", "/api/v1/api-keys", {"provider": "openai", "apiKey": KEY})
    call(200, "GET", "/api/v1/api-keys")
    call(200, "GET", "/api/v1/api-keys/openai")
    call(204, "DELETE", "/api/v1/api-keys/openai")


def account(call: Caller) -> None:
    call(200, "GET", "/api/v1/me")
    call(200, "PATCH", "/api/v1/me", {"name": "Alice A.", "avatarUrl": "https://img.example/a.png"})
    token = call(201, "POST", "/api/v1/access-tokens", {"name": "CI", "scopes": ["read"]})
    call(200, "GET", "/api/v1/access-tokens")
    call(200, "GET", f"/api/v1/access-tokens/{token['id']}")
    call(204, "DELETE", f"/api/v1/access-tokens/{token['id']}")
    call(200, "GET", "/api/v1/blocks")


def flows(call: Caller) -> str:
    call(201, "POST", FLOWS, {"name": "From the template"})
    call(200, "POST", f"{FLOWS}/validate", {"organismYaml": BROKEN})
    flow = running_flow(call)
    one = f"{FLOWS}/{flow}"
    call(200, "PATCH", one, {"description": "changed", "canvasState": {"nodes": [], "edges": [], "viewport": {}}})
    call(200, "GET", one)
    call(200, "GET", f"{FLOWS}?status=running&search=tested&ordering=-name&pageSize=5")
    call(200, "POST", f"{one}/stop", {"force": True})
    call(200, "POST", f"{one}/start")
    call(201, "POST", f"{one}/duplicate", {"name": "A copy"})
    call(201, "POST", FLOWS, call(200, "GET", f"{one}/export"))
    return flow


def versions(call: Caller, flow: str) -> None:
    one = f"{FLOWS}/{flow}/versions"
    call(200, "GET", one)
    call(200, "GET", f"{one}/1")
    call(200, "POST", f"{one}/1/restore")


def stores(call: Caller, flow: str) -> None:
    for kind in ("variables", "secrets"):
        for scope in ("", f"?flow={flow}"):
            one = f"/api/v1/{kind}/NAME{scope}"
            call(201, "PUT", one, {"value": "a value"})
            call(200, "PUT", one, {"value": "another"})
            call(200, "GET", one)
            call(200, "GET", f"/api/v1/{kind}{scope}")
            call(204, "DELETE", one)


def memories(call: Caller, flow: str) -> None:
    remember(flow_id=UUID(flow), listener="agent", key="ann", user="Hello", answer="Hi", now=timezone.now())
    [memory] = call(200, "GET", f"{FLOWS}/{flow}/memories")["items"]
    call(200, "GET", f"{FLOWS}/{flow}/memories/{memory['id']}")
    call(204, "DELETE", f"{FLOWS}/{flow}/memories/{memory['id']}")


def executions(call: Caller, public: Caller, flow: str, drain: Drain) -> None:
    all_of_it = f"{FLOWS}/{flow}/executions"
    execution = call(201, "POST", f"{all_of_it}/run", {"inputPayload": {"userID": 1}})["id"]
    ticket = call(200, "POST", f"{all_of_it}/{execution}/events/ticket")["ticket"]
    call(200, "POST", f"{all_of_it}/{execution}/cancel")
    retried = call(201, "POST", f"{all_of_it}/{execution}/retry", {"from": "start"})["id"]
    call(201, "POST", f"{all_of_it}/run", {"inputPayload": 1, "draft": True, "listener": "first"})
    drain()
    assert json.loads(call(200, "GET", f"{all_of_it}/{retried}")["outputPayload"]) == {"got": {"userID": 1}}
    [first, _] = call(200, "GET", f"{all_of_it}/{retried}/steps")["items"]
    call(200, "GET", f"{all_of_it}/{retried}/steps/{first['id']}")
    for path in (all_of_it, "/api/v1/executions"):
        page = call(200, "GET", f"{path}?pageSize=1&status=success,error&triggerType=manual")
        call(200, "GET", f"{path}?cursor={page['nextCursor']}")
    call(200, "GET", f"{all_of_it}/{retried}/explain")
    for verb in ("retry", "cancel"):
        operation = call(202, "POST", f"/api/v1/executions/{verb}", {"flow": flow, "status": ["error"]})["id"]
        call(200, "GET", f"/api/v1/executions/operations/{operation}")
    call(200, "GET", f"{FLOWS}/{flow}/stats")
    call(200, "GET", f"{all_of_it}/stats")
    questions(call, drain)
    events = call(200, "GET", f"{all_of_it}/{retried}/events", Accept="text/event-stream")
    assert [line for line in events.splitlines() if line.startswith("event")] == ["event: step"] * 2 + ["event: status"]
    assert "Canceled by" in public(200, "GET", f"{all_of_it}/{execution}/events?ticket={ticket}")
    call(204, "GET", f"{all_of_it}/{retried}/events", **{"Last-Event-ID": "2-end"})


def questions(call: Caller, drain: Drain) -> None:
    flow = running_flow(call, ASKING)
    all_of_it = f"{FLOWS}/{flow}/executions"
    execution = call(201, "POST", f"{all_of_it}/run", {})["id"]
    drain()
    one = f"{all_of_it}/{execution}"
    call(409, "POST", f"{one}/resolve", {"decision": "retry"})
    call(200, "POST", f"{one}/approve", {"approved": True})
    [question] = call(200, "GET", f"{one}/approvals")["items"]
    Approval.objects.filter(pk=question["id"]).update(kind="crash", answer="", answered_at=None)  # as after a crash
    call(200, "POST", f"{one}/resolve", {"decision": "fail"})
    call(204, "DELETE", f"{FLOWS}/{flow}?force=true")


def triggers(call: Caller, public: Caller, flow: str, drain: Drain) -> None:
    all_of_it = f"{FLOWS}/{flow}/triggers"
    schedule = {"cron": "*/5 * * * *", "timezone": "Europe/Berlin"}
    often = call(201, "POST", all_of_it, {"type": "schedule", "name": "Often", "config": schedule})
    tick(now=timezone.now() + timedelta(minutes=6))
    [fired] = call(200, "GET", f"{all_of_it}/{often['id']}/moments?pageSize=1")["items"]
    call(200, "GET", f"{all_of_it}/{often['id']}/moments/{fired['id']}")
    webhook = call(201, "POST", all_of_it, {"type": "webhook", "name": "Hook", "config": {}})
    one = f"{all_of_it}/{webhook['id']}"
    call(200, "GET", f"{all_of_it}?type=webhook&search=hook")
    call(200, "GET", one)
    call(200, "PATCH", one, {"name": "The hook", "config": {"methods": ["POST", "PUT"]}})
    call(201, "POST", f"{one}/fire", {"payload": {"n": 1}})
    token = call(200, "POST", f"{one}/regenerate-token")["webhookToken"]
    public(404, "GET", f"/webhooks/{webhook['webhookToken']}/test")
    public(200, "GET", f"/webhooks/{token}/test")
    key = {"Idempotency-Key": "delivery-1"}
    accepted = public(202, "POST", f"/webhooks/{token}", {"n": 2}, **key)["executionId"]
    assert public(202, "POST", f"/webhooks/{token}", {"n": 2}, **key)["executionId"] == accepted
    public(422, "POST", f"/webhooks/{token}", {"n": 3}, **key)
    drain()
    call(200, "PATCH", one, {"config": {"respond": "result", "wait": 1}})
    assert public(200, "POST", f"/webhooks/{token}", {"n": 2}, **key) == {"got": {"n": 2}}
    call(200, "PATCH", one, {"enabled": False})
    public(404, "POST", f"/webhooks/{token}", {"n": 4})
    call(200, "PATCH", one, {"enabled": True})
    (refused,) = call(200, "GET", f"{one}/deliveries?verdict=disabled")["items"]
    call(200, "GET", f"{one}/deliveries/{refused['id']}")
    call(201, "POST", f"{one}/deliveries/{refused['id']}/replay")
    call(204, "DELETE", one)


def budgets(call: Caller, flow: str) -> None:
    one = f"/api/v1/budgets/{call(201, 'POST', '/api/v1/budgets', {'flowId': flow, 'monthlyCost': 10})['id']}"
    call(409, "POST", "/api/v1/budgets", {"flowId": flow, "monthlyCost": 10})
    call(200, "GET", "/api/v1/budgets")
    call(200, "GET", one)
    call(200, "PATCH", one, {"monthlyTokens": 1_000_000})
    call(204, "DELETE", one)
    call(200, "GET", "/api/v1/usage")
    call(200, "GET", "/api/v1/usage/llm?from=2026-11-01&to=2026-11-30")
    call(200, "GET", "/api/v1/usage/daily?from=2026-11-01&to=2026-11-30")
    call(200, "GET", "/api/v1/usage/history")


def clerk() -> None:
    body = json.dumps({"type": "user.created", "data": {"id": "user_1"}})
    now = datetime.now(UTC)
    headers = {
        "svix-id": "msg_1",
        "svix-timestamp": str(int(now.timestamp())),
        "svix-signature": Webhook(CLERK_SECRET).sign("msg_1", now, body),
    }
    answer = CheckedClient().generic("POST", "/webhooks/clerk", body, "application/json", headers=headers)
    assert answer.json() == {"status": "applied"}


def billing(call: Caller, settings: Settings) -> None:
    with opened(settings) as shop:
        page = call(200, "POST", "/api/v1/billing/checkout", {"tier": "pro"})
        call(200, "POST", "/api/v1/billing/portal", {})
        shop.stripe.complete_checkout(page["url"].rpartition("/")[2])  # its events come in
        call(409, "POST", "/api/v1/billing/checkout", {"tier": "pro"})
        call(200, "GET", "/api/v1/billing/subscription")
        call(200, "PATCH", "/api/v1/billing/subscription", {"tier": "free"})


# The refusals that any operation can give. -----------------------------------------------------------------------
def operations() -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (path, method.upper(), item[method])
        for path, item in document()["paths"].items()
        for method in ("get", "post", "put", "patch", "delete")
        if method in item
    ]


def under_api(*, with_body: bool = False) -> list[Any]:
    return [
        pytest.param(method, path, id=operation["operationId"])
        for path, method, operation in operations()
        if path.startswith("/api/") and (not with_body or "requestBody" in operation)
    ]


def with_ids(path: str, ids: dict[str, str]) -> str:
    for name, value in {"name": "NAME", "number": "1", **ids}.items():
        path = path.replace("{" + name + "}", value)
    while "{" in path:
        path = path.replace(path[path.index("{") : path.index("}") + 1], str(uuid4()), 1)
    return path


@pytest.fixture
def ids(call: Caller) -> dict[str, str]:
    """Of rows that are there, so that a body is looked at."""
    flow = running_flow(call, WAITING)
    trigger = call(201, "POST", f"{FLOWS}/{flow}/triggers", {"type": "webhook", "name": "Hook", "config": {}})
    execution = call(201, "POST", f"{FLOWS}/{flow}/executions/run", {})
    budget = call(201, "POST", "/api/v1/budgets", {"monthlyCost": 10})
    return {"flowId": flow, "triggerId": trigger["id"], "executionId": execution["id"], "budgetId": budget["id"]}


@pytest.mark.once
@pytest.mark.django_db
@pytest.mark.parametrize(("method", "path"), under_api())
def test_without_a_token_it_is_401(method: str, path: str, public: Caller) -> None:
    assert public(401, method, with_ids(path, {}), {})["code"] == "not_authenticated"


@pytest.mark.once
@pytest.mark.django_db
@pytest.mark.parametrize(("method", "path"), [param for param in under_api() if "{" in param.values[1]])
def test_an_unknown_id_is_404(method: str, path: str, call: Caller) -> None:
    if (method, "{name}" in path) == ("PUT", True):
        path += f"?flow={uuid4()}"
    assert call(404, method, with_ids(path, {}), {"value": 1})["code"] == "not_found"


@pytest.mark.once
@pytest.mark.django_db
@pytest.mark.parametrize(("method", "path"), under_api(with_body=True))
@pytest.mark.parametrize(
    ("status", "content_type", "body"),
    [
        (400, "application/json", b'{"name": NaN}'),
        (400, "application/json", b"[1]"),
        (415, "text/csv", b"a,b"),
        (415, "application/x-www-form-urlencoded", b"name=x"),
        (413, "application/json", b'"' + b"x" * 3000 + b'"'),
    ],
)
def test_a_body_that_cannot_be_read_is_refused(
    status: int,
    content_type: str,
    body: bytes,
    method: str,
    path: str,
    call: Caller,
    ids: dict[str, str],
    settings: Settings,
) -> None:
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 2000
    answer = call.client.generic(method, with_ids(path, ids), body, content_type)  # type: ignore[arg-type]
    assert answer.status_code == status, answer.content


def wrongly_typed() -> list[Any]:
    """(method, path, body) with every field that has a type given another."""
    cases = []
    for param in under_api(with_body=True):
        method, path = param.values
        operation = openapi.operation(str(method), str(path)) or {}
        reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        fields = document()["components"]["schemas"][reference.rpartition("/")[2]]["properties"]
        wrong = {name: "text" if name == "config" else {"a": 1} for name, field in fields.items() if "type" in field}
        cases += [pytest.param(method, path, wrong, id=param.id)] if wrong else []
    return cases


@pytest.mark.once
@pytest.mark.django_db
@pytest.mark.parametrize(("method", "path", "body"), wrongly_typed())
def test_a_field_of_the_wrong_type_is_400_that_names_it(
    method: str, path: str, body: dict[str, Any], call: Caller, ids: dict[str, str]
) -> None:
    details = call(400, method, with_ids(path, ids), body)["details"]
    assert set(details) & set(body)


# The refusals of single operations. ------------------------------------------------------------------------------
@pytest.mark.django_db(transaction=True)
def test_the_conflicts_that_the_document_names(call: Caller, public: Caller, drain: Drain) -> None:
    flow = running_flow(call, WAITING)
    runs, hooks = f"{FLOWS}/{flow}/executions", f"{FLOWS}/{flow}/triggers"
    manual = call(201, "POST", hooks, {"type": "manual", "name": "By hand", "config": {}})["id"]
    webhook = call(201, "POST", hooks, {"type": "webhook", "name": "Hook", "config": {}})
    token = webhook["webhookToken"]
    assert call(409, "POST", f"{hooks}/{manual}/regenerate-token")["code"] == "not_a_webhook"
    execution = call(201, "POST", f"{runs}/run", {})["id"]
    drain()
    assert call(409, "POST", f"{runs}/{execution}/retry", {})["code"] == "execution_not_ended"
    call(200, "POST", f"{runs}/{execution}/cancel")
    assert call(409, "POST", f"{runs}/{execution}/cancel")["code"] == "execution_ended"
    public(405, "PUT", f"/webhooks/{token}")
    public(405, "POST", f"/webhooks/{token}/test")
    public(400, "POST", f"/webhooks/{token}", None, **{"Idempotency-Key": "k" * 300})
    call(200, "PATCH", f"{hooks}/{manual}", {"enabled": False})
    assert call(409, "POST", f"{hooks}/{manual}/fire", {})["code"] == "trigger_disabled"
    call(200, "POST", f"{FLOWS}/{flow}/stop", {"force": True})
    for answer in (
        call(409, "POST", f"{runs}/run", {}),
        call(409, "POST", f"{runs}/{execution}/retry", {}),
        call(409, "POST", f"{hooks}/{webhook['id']}/fire", {}),
        public(409, "POST", f"/webhooks/{token}", {}),
    ):
        assert answer["code"] == "flow_not_running"
    call(200, "PATCH", f"{FLOWS}/{flow}", {"organismYaml": BROKEN})
    assert call(400, "POST", f"{FLOWS}/{flow}/start")["code"] == "invalid_organism"


@pytest.mark.django_db(transaction=True)
def test_a_webhook_that_waits_for_a_flow_that_fails_is_502(call: Caller, public: Caller, drain: Drain) -> None:
    flow = running_flow(call, FAILING)
    hooks = f"{FLOWS}/{flow}/triggers"
    hook = call(201, "POST", hooks, {"type": "webhook", "name": "Hook", "config": {}})
    path, key = f"/webhooks/{hook['webhookToken']}", {"Idempotency-Key": "1"}
    public(202, "POST", path, {}, **key)
    drain()
    call(200, "PATCH", f"{hooks}/{hook['id']}", {"config": {"respond": "result"}})
    assert public(502, "POST", path, {}, **key)["code"] == "execution_failed"


@pytest.mark.django_db
def test_what_is_over_the_tiers_limits_is_402(call: Caller, public: Caller, alice: User) -> None:
    flow = running_flow(call)
    hooks = f"{FLOWS}/{flow}/triggers"
    body = {"type": "webhook", "name": "Hook", "config": {}}
    hook = call(201, "POST", hooks, body)
    run = call(201, "POST", f"{FLOWS}/{flow}/executions/run", {})["id"]
    call(200, "POST", f"{FLOWS}/{flow}/executions/{run}/cancel")
    User.objects.filter(pk=alice.pk).update(tier=Tier.FREE)
    assert call(402, "POST", FLOWS, {"name": "One more"})["code"] == "flow_limit_reached"
    assert call(402, "POST", f"{FLOWS}/{flow}/duplicate", {})["code"] == "flow_limit_reached"
    for _ in range(TIERS[Tier.FREE].triggers_per_flow - 1):
        call(201, "POST", hooks, body)
    assert call(402, "POST", hooks, body)["code"] == "trigger_limit_reached"
    month = datetime.now(UTC).date().replace(day=1)
    RunBudget.objects.update_or_create(user=alice, period_start=month, defaults={"runs": 1_000})
    for answer in (
        call(402, "POST", f"{FLOWS}/{flow}/executions/run", {}),
        call(402, "POST", f"{FLOWS}/{flow}/executions/{run}/retry", {}),
        call(402, "POST", f"{hooks}/{hook['id']}/fire", {}),
        public(402, "POST", f"/webhooks/{hook['webhookToken']}", {}),
    ):
        assert answer["code"] == "usage_limit_exceeded"
