"""Nobody meets what is another's: every route of the real URLconf, asked with every id of Alice's.

The routes come from the URLconf and not from the OpenAPI document, which could be missing one. A route that has no entry
in `ROUTES` fails the first test: whoever adds one says here whose rows it shows.
"""

import json
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import product
from typing import Any, TypeAlias
from urllib.parse import quote

import pytest
from django.apps import apps
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver
from django.utils import timezone
from pytest_django import Settings
from rest_framework.test import APIClient

from accounts.models import Tier, User
from accounts.services import create_access_token
from billing.metering import MeteredCall
from bloxserver.api.long_lists import cursor_at
from executions.bulk.models import BulkOperation
from executions.models import Approval, Execution
from executions.tickets import issue_ticket
from flows.memories import remember
from flows.models import AgentMemory
from flows.services import create_flow, set_budget, set_secret, set_variable, start_flow
from llm.models import UserKey
from tests.billing.metering import settle_llm
from tests.executions.factories import NOON, make_execution, make_step
from tests.llm.keys import KEY
from triggers.models import Delivery, Moment
from triggers.services import create_trigger

pytestmark = [pytest.mark.django_db, pytest.mark.once]

METHODS = (
    "GET",
    "HEAD",
    "OPTIONS",
    "POST",
    "PATCH",
    "DELETE",
    "TRACE",
    "PUT",
)  # PUT last: it makes what DELETE would find
SAFE = ("GET", "HEAD", "OPTIONS")
Answer: TypeAlias = tuple[int, bytes, dict[str, str]]
ADDRESS = "203.0.113.77"  # of a caller whose requests no other test counts

ORGANISM = """\
organism: {{name: {name}}}
listeners:
  - {{name: {listener}, handler: blox.output, config: {{value: {value}}}}}
"""


# The routes. -----------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Route:
    """How a route under `/api/v1` is asked: by which ids, with which bodies, and what tells its rows apart."""

    bodies: Mapping[str, Any] = field(default_factory=dict)  # by method, as a caller who may would send it
    own: bool = False  # it has no id of a row in its path: it shows the caller's own rows, and never another's
    makes_own: tuple[str, ...] = ()  # methods by which a name that is Alice's makes a row of the caller's own
    query: Mapping[str, Callable[["Belongings | None"], str]] = field(default_factory=dict)  # whose value names a row


def flow_of(owner: "Belongings | None") -> str:
    return str(owner.flow.pk if owner else uuid.uuid4())


def cursor_of(owner: "Belongings | None") -> str:
    """The place of the execution in the list; nobody's is at the same moment."""
    execution = Execution(started_at=NOON, pk=owner.execution.pk if owner else uuid.UUID(int=0))
    return cursor_at(execution, "started_at")


YAML = ORGANISM.format(name="sent", listener="sent", value="1")
FLOW = "api/v1/flows/<uuid:flow_id>"
EXECUTION = f"{FLOW}/executions/<uuid:execution_id>"
TRIGGER = f"{FLOW}/triggers/<uuid:trigger_id>"

ROUTES: dict[str, Route] = {
    "api/v1/me": Route(own=True, bodies={"PATCH": {"name": "Someone"}}),
    "api/v1/access-tokens": Route(own=True, bodies={"POST": {"name": "CI"}}),
    "api/v1/access-tokens/<uuid:pk>": Route(),
    "api/v1/api-keys": Route(own=True, bodies={"POST": {"provider": "anthropic", "apiKey": KEY}}),
    "api/v1/api-keys/<str:provider>": Route(),
    "api/v1/flows": Route(own=True, bodies={"POST": {"name": "New"}}),
    "api/v1/flows/validate": Route(own=True, bodies={"POST": {"organismYaml": YAML}}),
    FLOW: Route(bodies={"PATCH": {"name": "Taken over"}}),
    f"{FLOW}/start": Route(),
    f"{FLOW}/stop": Route(bodies={"POST": {"force": True}}),
    f"{FLOW}/duplicate": Route(bodies={"POST": {"name": "Mine now"}}),
    f"{FLOW}/export": Route(),
    f"{FLOW}/versions": Route(),
    f"{FLOW}/versions/<int:number>": Route(),
    f"{FLOW}/versions/<int:number>/restore": Route(),
    f"{FLOW}/memories": Route(),
    f"{FLOW}/memories/<uuid:memory_id>": Route(),
    "api/v1/variables": Route(own=True, query={"flow": flow_of}),
    "api/v1/variables/<str:name>": Route(
        bodies={"PUT": {"value": "written"}}, makes_own=("PUT",), query={"flow": flow_of}
    ),
    "api/v1/secrets": Route(own=True, query={"flow": flow_of}),
    "api/v1/secrets/<str:name>": Route(
        bodies={"PUT": {"value": "written"}}, makes_own=("PUT",), query={"flow": flow_of}
    ),
    "api/v1/blocks": Route(own=True),
    "api/v1/budgets": Route(own=True, bodies={"POST": {"monthlyCost": 10}}),
    "api/v1/budgets/<uuid:budget_id>": Route(bodies={"PATCH": {"monthlyCost": 1_000}}),
    "api/v1/billing/checkout": Route(own=True, bodies={"POST": {"tier": "pro"}}),
    "api/v1/billing/portal": Route(own=True),
    "api/v1/billing/subscription": Route(own=True, bodies={"PATCH": {"tier": "pro"}}),
    "api/v1/usage": Route(own=True),
    "api/v1/usage/daily": Route(own=True),
    "api/v1/usage/history": Route(own=True),
    "api/v1/usage/llm": Route(own=True),
    "api/v1/executions": Route(own=True, query={"flow": flow_of, "cursor": cursor_of}),
    "api/v1/executions/retry": Route(own=True, bodies={"POST": {"until": "1999-01-01T00:00:00Z"}}),
    "api/v1/executions/cancel": Route(own=True, bodies={"POST": {"until": "1999-01-01T00:00:00Z"}}),
    "api/v1/executions/operations/<uuid:operation_id>": Route(),
    f"{FLOW}/stats": Route(),
    f"{FLOW}/executions": Route(query={"cursor": cursor_of}),
    f"{FLOW}/executions/stats": Route(),
    f"{FLOW}/executions/run": Route(bodies={"POST": {"inputPayload": 1, "draft": True, "listener": "hers"}}),
    EXECUTION: Route(),
    f"{EXECUTION}/cancel": Route(),
    f"{EXECUTION}/explain": Route(),
    f"{EXECUTION}/retry": Route(bodies={"POST": {"from": "start"}}),
    f"{EXECUTION}/approvals": Route(),
    f"{EXECUTION}/approve": Route(bodies={"POST": {"approved": True}}),
    f"{EXECUTION}/resolve": Route(bodies={"POST": {"decision": "fail"}}),
    f"{EXECUTION}/steps": Route(),
    f"{EXECUTION}/steps/<uuid:step_id>": Route(),
    f"{EXECUTION}/events": Route(),
    f"{EXECUTION}/events/ticket": Route(),
    f"{FLOW}/triggers": Route(bodies={"POST": {"type": "webhook", "name": "Mine", "config": {}}}),
    TRIGGER: Route(bodies={"PATCH": {"enabled": False}}),
    f"{TRIGGER}/regenerate-token": Route(),
    f"{TRIGGER}/fire": Route(bodies={"POST": {"payload": 1}}),
    f"{TRIGGER}/deliveries": Route(query={"cursor": cursor_of}),
    f"{TRIGGER}/deliveries/<uuid:delivery_id>": Route(),
    f"{TRIGGER}/deliveries/<uuid:delivery_id>/replay": Route(),
    f"{TRIGGER}/moments": Route(query={"cursor": cursor_of}),
    f"{TRIGGER}/moments/<uuid:moment_id>": Route(),
}
# Open to all: they show nobody's rows, or those of whoever the secret in the path or the signature names.
PUBLIC = {
    "",
    "api/schema",
    "api/docs",
    "approvals/<str:token>",
    "webhooks/clerk",
    "webhooks/stripe",
    "webhooks/<str:token>",
    "webhooks/<str:token>/test",
}
ADMIN = "admin/"  # for operators alone: test_the_admin_is_closed_to_who_is_no_operator


def routes() -> Iterator[str]:
    def walk(patterns: list[Any], above: str) -> Iterator[str]:
        for pattern in patterns:
            route = above + str(pattern.pattern)
            if isinstance(pattern, URLResolver):
                yield from walk(pattern.url_patterns, route)
            elif isinstance(pattern, URLPattern):
                yield route

    yield from walk(get_resolver().url_patterns, "")


# The cast. -------------------------------------------------------------------------------------------------------
class Belongings:
    """One of each thing that a tenant can have, all of it told apart by `word`, and the ids that name them in a URL."""

    def __init__(self, user: User, word: str, provider: str) -> None:
        now = timezone.now()
        yaml = ORGANISM.format(name=f"{word}-organism", listener=word, value=f"{word}-value")
        flow = create_flow(owner=user, name=f"{word} flow", description=f"{word} text", organism_yaml=yaml)
        start_flow(flow=flow, by=user)
        webhook = create_trigger(flow=flow, type="webhook", name=f"{word} hook", config={}, now=now)
        execution = make_execution(flow, input={"in": f"{word}-input"}, output=f"{word}-output", trigger_id=webhook.pk)
        delivery = Delivery.objects.create(
            trigger=webhook, verdict="disabled", method="POST", size=2, reason=f"{word}-reason", held=True,
            request=json.dumps({"headers": {}, "query": {}, "payload": f'"{word}-request"'}),
        )  # fmt: skip
        moment = Moment.objects.create(
            trigger=webhook, moment=NOON, outcome="fired", lateness=0, execution_id=execution.pk, reason=f"{word}-why"
        )
        step = make_step(execution, 1, word, output=f"{word}-step")
        Approval.objects.create(
            execution=execution, step_key=step.key, position="1", kind="approval", listener=word, message=f"{word}-asks"
        )
        api_key = UserKey(user=user, provider=provider, checked_at=now)
        api_key.set_key(f"sk-{word}")
        api_key.save()
        token, secret = create_access_token(user=user, name=f"{word} token")
        for where in (None, flow):
            set_variable(owner=user, flow=where, name=f"{word}_thing", value=f"{word}-variable-value")
            set_secret(owner=user, flow=where, name=f"{word}_thing", value=f"{word}-secret-value")
        spent = MeteredCall(
            call_id=uuid.uuid4(), user_id=user.pk, flow_id=flow.pk, model=f"{word}-model", provider=f"{word}-provider",
            tokens_in=1, tokens_out=1, cost=Decimal(1),
        )  # fmt: skip
        settle_llm(call=spent, now=now)
        remember(
            flow_id=flow.pk, listener=word, key=word, user=f"{word}-said", answer=f"{word}-answered", now=timezone.now()
        )
        self.user, self.flow, self.execution = user, flow, execution
        self.ids: dict[str, Any] = {
            "pk": token.pk,
            "provider": provider,
            "flow_id": flow.pk,
            "execution_id": execution.pk,
            "step_id": step.pk,
            "operation_id": BulkOperation.objects.create(user=user, verb="retry", asked={"search": word}, total=1).pk,
            "trigger_id": webhook.pk,
            "delivery_id": delivery.pk,
            "moment_id": moment.pk,
            "budget_id": set_budget(
                owner=user, flow_id=flow.pk, monthly_cost=Decimal(5), monthly_tokens=None, now=now
            ).pk,
            "memory_id": AgentMemory.objects.get(flow=flow).pk,
            "number": 1,
        }
        self.token, self.webhook = secret, webhook.webhook_token or ""
        self.marks = [word, user.email, str(user.pk), self.token, self.webhook]
        self.marks += [str(self.ids[name]) for name in self.ids if name not in ("number", "provider")]
        self.marks.append(str(api_key.pk))


def as_user(user: User) -> APIClient:
    return APIClient(HTTP_AUTHORIZATION=f"Bearer dev:{user.email}", REMOTE_ADDR=ADDRESS)


Cast: TypeAlias = tuple[Belongings, Belongings]  # Alice's, and Bob's


@pytest.fixture
def cast(alice: User, bob: User, settings: Settings) -> Cast:
    settings.BLOX_ANONYMOUS_API_RATE = 100_000
    User.objects.update(tier=Tier.HIGH_FREQUENCY)  # the limits are not what is tested here
    for user in (alice, bob):
        user.refresh_from_db()
    return Belongings(alice, "hers", "xai"), Belongings(bob, "bobs", "openai")


# Asking. ---------------------------------------------------------------------------------------------------------
def parameters(route: str) -> list[str]:
    return re.findall(r"<\w+:(\w+)>", route)


def path_of(route: str, ids: Mapping[str, Any], name: str) -> str:
    values = {**ids, "name": name}
    return "/" + re.sub(r"<\w+:(\w+)>", lambda match: str(values[match[1]]), route)


def mixtures(
    route: str, hers: Mapping[str, Any], his: Mapping[str, Any]
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Ids for a route of which at least one is hers and the rest are his; with them the same, hers being nobody's."""
    names = [name for name in parameters(route) if name not in ("name", "number")]
    for taken in product((True, False), repeat=len(names)):
        if any(taken) or not names:
            strange = {name: hers[name] for name, is_hers in zip(names, taken, strict=True) if is_hers}
            yield {**his, **strange}, {**his, **{name: uuid.uuid4() for name in strange}}


def ask(client: APIClient, method: str, route: str, path: str) -> Any:
    if method in ("GET", "HEAD", "TRACE"):
        return client.generic(method, path)
    return client.generic(method, path, json.dumps(ROUTES[route].bodies.get(method, {})), "application/json")


def told(response: Any) -> Answer:
    """All that an answer tells, but for how many requests are left."""
    headers = {name: value for name, value in response.items() if not name.startswith("X-RateLimit-")}
    body = b"".join(response.streaming_content) if response.streaming else response.content
    return response.status_code, body, headers


def assert_tells_nothing(answer: Answer, of: Belongings, where: str, *, but: str = "hers_thing") -> None:
    """No id, name, secret or value of hers, save what the caller wrote into the request."""
    text = str(answer).replace(quote(but, safe=""), "").replace(quote(but), "").replace(but, "")
    for mark in of.marks:
        assert mark not in text, f"{where} tells {mark}"


def every_call() -> Iterator[tuple[str, str]]:
    """(route, method) of all that can be asked under /api/v1."""
    return product(ROUTES, METHODS)


def admin_paths(route: str, of: Belongings) -> list[str]:
    """The route with the ids of what is hers in every place where it takes one; a pattern of another kind is left out."""
    if "(?P" in route:
        return []
    rows = [of.flow.pk, of.execution.pk, of.ids["trigger_id"], of.user.pk] if "<" in route else [""]
    return ["/" + re.sub(r"<[^>]+>", str(row), route) for row in rows]


def snapshot(user: User) -> dict[str, list[Any]]:
    """Every row of every model that is `user`'s."""
    rows: dict[str, list[Any]] = {}
    for model in apps.get_models():
        if model._meta.app_label not in ("accounts", "billing", "llm", "flows", "executions", "triggers"):
            continue
        every: Any = model._default_manager.all()
        if hasattr(every, "for_user"):
            found = every.for_user(user)
            rows[model.__name__] = sorted(map(str, found.values()))
    rows["User"] = sorted(map(str, User.objects.filter(pk=user.pk).values()))
    return rows


# The tests. ------------------------------------------------------------------------------------------------------
def test_every_route_of_the_server_has_an_entry_here() -> None:
    found = {route for route in routes() if not route.startswith(ADMIN)}
    assert found == ROUTES.keys() | PUBLIC


def test_a_strangers_id_is_answered_byte_for_byte_as_one_that_nobody_has(cast: Cast) -> None:
    hers, his = cast
    bob = as_user(his.user)
    before = snapshot(hers.user)
    for route, method in every_call():
        for strange, nobody in mixtures(route, hers.ids, his.ids):
            answers = [
                told(ask(bob, method, route, path_of(route, ids, name)))
                for ids, name in ((strange, "hers_thing"), (nobody, "nobodys_thing"))
            ]
            where = f"{method} /{route} {answers[0]}"
            if not ROUTES[route].own and method not in ROUTES[route].makes_own:
                assert answers[0] == answers[1], where
                assert answers[0][0] in (404, 405), where
            assert_tells_nothing(answers[0], hers, where)
    assert snapshot(hers.user) == before


def test_a_strangers_id_in_the_query_is_answered_as_one_that_nobody_has(cast: Cast) -> None:
    hers, his = cast
    bob = as_user(his.user)
    before = snapshot(hers.user)
    for route, entry in ROUTES.items():
        for name, value in entry.query.items():
            for method in METHODS:
                path = path_of(route, his.ids, "hers_thing")
                answers = [
                    told(ask(bob, method, route, f"{path}?{name}={given}")) for given in (value(hers), value(None))
                ]
                assert answers[0] == answers[1], f"{method} /{route}?{name} {answers[0]}"
                assert_tells_nothing(answers[0], hers, f"{method} /{route}?{name}")
    assert snapshot(hers.user) == before


@pytest.mark.once
def test_without_a_token_every_route_answers_401(cast: Cast) -> None:
    hers, _ = cast
    before = snapshot(hers.user)
    for route, method in every_call():
        answer = told(ask(APIClient(REMOTE_ADDR=ADDRESS), method, route, path_of(route, hers.ids, "hers_thing")))
        assert answer[0] == 401, f"{method} /{route} {answer}"
        assert_tells_nothing(answer, hers, f"{method} /{route}")
    assert snapshot(hers.user) == before


@pytest.mark.once
@pytest.mark.parametrize("gone", [{"is_active": False}, {"deleted_at": NOON}])
def test_to_a_user_who_is_closed_every_route_answers_401(cast: Cast, gone: dict[str, Any]) -> None:
    hers, _ = cast
    User.objects.filter(pk=hers.user.pk).update(**gone)
    before = snapshot(hers.user)
    by_token = APIClient(HTTP_AUTHORIZATION=f"Bearer {hers.token}", REMOTE_ADDR=ADDRESS)
    for client in (as_user(hers.user), by_token):
        for route, method in every_call():
            answer = told(ask(client, method, route, path_of(route, hers.ids, "hers_thing")))
            assert answer[0] == 401, f"{method} /{route} {answer}"
    after = snapshot(hers.user)
    assert {**after, "AccessToken": []} == {**before, "AccessToken": []}  # its last use may be noted


def test_a_closed_users_webhook_is_as_unknown_as_any(cast: Cast) -> None:
    hers, _ = cast
    User.objects.filter(pk=hers.user.pk).update(is_active=False)
    for tail in ("", "/test"):
        for method in METHODS:
            theirs, nobodys = (
                told(APIClient().generic(method, f"/webhooks/{token}{tail}")) for token in (hers.webhook, "x" * 43)
            )
            assert theirs == nobodys
            assert theirs[0] == 404


@pytest.mark.parametrize(("scope", "allowed"), [("read", SAFE), ("write", ("POST", "PUT", "PATCH", "DELETE", "TRACE"))])
def test_a_token_does_what_its_scope_says_and_nothing_else(cast: Cast, scope: str, allowed: tuple[str, ...]) -> None:
    hers, _ = cast
    _, secret = create_access_token(user=hers.user, name="limited", scopes=[scope])
    client = APIClient(HTTP_AUTHORIZATION=f"Bearer {secret}", REMOTE_ADDR=ADDRESS)
    before = {**snapshot(hers.user), "AccessToken": []}
    for route, method in every_call():
        if method not in allowed:
            answer = told(ask(client, method, route, path_of(route, hers.ids, "hers_thing")))
            assert answer[0] == 403, f"{method} /{route} {answer}"
            assert json.loads(answer[1] or b'{"code": "permission_denied"}')["code"] == "permission_denied"
    assert {**snapshot(hers.user), "AccessToken": []} == before


def test_a_ticket_opens_the_stream_of_its_execution_alone(cast: Cast) -> None:
    hers, his = cast
    ticket, _ = issue_ticket(user_id=hers.user.pk, execution_id=hers.execution.pk, now=timezone.now())
    client = APIClient(REMOTE_ADDR=ADDRESS)
    events = f"{EXECUTION}/events"
    for route, method in every_call():
        path = path_of(route, hers.ids, "hers_thing")
        if (route, method) != (events, "GET"):
            expected = 405 if route == events else 401  # who may come in is told which method there is
            assert told(ask(client, method, route, f"{path}?ticket={ticket}"))[0] == expected, f"{method} /{route}"
    for strange, _ in mixtures(events, his.ids, hers.ids):
        answer = told(ask(client, "GET", events, f"{path_of(events, strange, '')}?ticket={ticket}"))
        assert answer[0] in (401, 404), answer
    assert told(ask(client, "GET", events, f"{path_of(events, hers.ids, '')}?ticket={ticket}"))[0] == 200


CALLER = """\
organism: {name: caller}
listeners:
  - {name: call, handler: blox.call_flow, config: {flow: "{{ payload }}"}}
"""


@pytest.mark.django_db(transaction=True)
def test_a_flow_cannot_call_a_strangers_flow(cast: Cast, drain: Callable[[], None]) -> None:
    """By id or by name. Of bodies that name rows, `test_ids_in_bodies.py` asks."""
    hers, his = cast
    caller = create_flow(owner=his.user, name="caller", organism_yaml=CALLER)
    bob, url = as_user(his.user), f"/api/v1/flows/{caller.pk}/executions"
    before = snapshot(hers.user)
    errors = set()
    for reference in (str(hers.flow.pk), str(uuid.uuid4()), hers.flow.name, "no such flow"):
        body = {"inputPayload": reference, "draft": True}
        execution = bob.post(f"{url}/run", body, format="json").json()["id"]
        drain()
        ended = bob.get(f"{url}/{execution}").json()
        assert ended["status"] == "error"
        errors.add(ended["errorMessage"].replace(reference, "?"))
    assert len(errors) == 1, errors
    assert snapshot(hers.user) == before


@pytest.mark.once
def test_the_admin_is_closed_to_who_is_no_operator(cast: Cast) -> None:
    hers, his = cast
    signed_in = Client(REMOTE_ADDR=ADDRESS)
    signed_in.force_login(his.user, backend="django.contrib.auth.backends.ModelBackend")
    by_token = Client(headers={"Authorization": f"Bearer dev:{his.user.email}"}, REMOTE_ADDR=ADDRESS)
    before = snapshot(hers.user)
    for route in (route for route in routes() if route.startswith(ADMIN)):
        for method in ("GET", "POST"):
            for path in admin_paths(route, hers):
                for client in (signed_in, by_token):
                    answer = told(client.generic(method, path))
                    assert_tells_nothing(answer, hers, f"{method} {path}", but=path)
                    opened = path in ("/admin/login/", "/admin/logout/", "/admin/jsi18n/")
                    assert opened or answer[0] in (302, 403, 404, 405), f"{method} {path} {answer}"
    assert snapshot(hers.user) == before
