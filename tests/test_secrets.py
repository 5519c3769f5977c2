"""No secret is on record: not in the database outside its encrypted column, a log, Redis, an API answer or an admin page."""

import base64
import html
import json
import logging
import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any
from urllib.parse import unquote, unquote_plus

import pytest
import redis
from django.apps import apps
from django.conf import settings as django_settings
from django.test import Client
from rest_framework.test import APIClient

from bloxserver.core.encrypted import EncryptedField
from executions.models import Execution
from flows.blocks import catalogue
from flows.models import Secret
from tests.executions.flows import run, start
from tests.local_server import Received, answer, serving
from tests.witness import Witness

pytestmark = pytest.mark.django_db(transaction=True)

Drain = Callable[[], None]

PLAIN = "c4nary-PLAIN-0123456789abcdefghij"
AWKWARD = 'c4nary "q\\uo/te+s" &<x>é=AWKWARD'
BASE64 = re.compile(r"[A-Za-z0-9+/_-]{6,}={0,2}")

PLAINLY, AWKWARDLY = "{{ secrets.PLAIN }}", "{{ secrets.AWKWARD }}"
# A secret in each field of `blox.http` that takes one, as the flow's author may write it.
REQUESTS: list[dict[str, Any]] = [
    {"method": "POST", "headers": {"X-Key": PLAINLY, "X-Text": f"token={PLAINLY}"}},
    {"auth": {"type": "bearer", "token": PLAINLY}},
    {"auth": {"type": "basic", "username": "u", "password": PLAINLY}},
    {"auth": {"type": "basic", "username": "us", "password": AWKWARDLY}},
    {"auth": {"type": "basic", "username": "use", "password": PLAINLY}},
    {"auth": {"type": "basic", "username": PLAINLY, "password": ""}},
    {"query": {"key": AWKWARDLY}},
    {"method": "PUT", "json": {"key": [AWKWARDLY]}},
    {"method": "PUT", "form": {"key": AWKWARDLY}},
    {"method": "PUT", "body": f"<{AWKWARDLY}>"},
    {"method": "PUT", "body": {"base64": "{{ bytes('ab' + secrets.PLAIN) }}"}},
]


def listeners(url: str) -> str:
    chain: list[dict[str, Any]] = [
        {"name": f"request_{number}", "handler": "blox.http", "config": {"url": f"{url}/echo", **config}}
        for number, config in enumerate(REQUESTS)
    ]
    refused = {"url": f"{url}/status/418", "headers": {"X-Key": PLAINLY}}
    chain.append({"name": "refused", "handler": "blox.http", "config": refused, "on_error": "done"})
    chain.append({"name": "done", "handler": "blox.output"})
    for listener, following in pairwise(chain):
        listener["peers"] = [following["name"]]
    return "".join(f"  - {json.dumps(listener)}\n" for listener in chain)


@pytest.fixture(autouse=True)
def _stored(api: APIClient) -> None:
    for name, value in (("PLAIN", PLAIN), ("AWKWARD", AWKWARD)):
        assert api.put(f"/api/v1/secrets/{name}", {"value": value}, format="json").status_code == 201


def ended(api: APIClient, drain: Drain, yaml: str) -> Execution:
    execution = run(api, start(api, yaml))
    drain()
    execution.refresh_from_db()
    return execution


def records() -> str:
    """All that the database and Redis hold, but for the columns that are encrypted."""
    rows: list[str] = []
    for model in apps.get_models():
        shown = [field.attname for field in model._meta.concrete_fields if not isinstance(field, EncryptedField)]
        rows += map(str, model._default_manager.values(*shown))
    if django_settings.REDIS_URL:
        client = redis.Redis.from_url(django_settings.REDIS_URL)
        for key in client.scan_iter():
            kind = client.type(key)
            held = client.get(key) if kind == b"string" else client.lrange(key, 0, -1) if kind == b"list" else kind
            rows.append(f"{key!r} {held!r}")
    return "\n".join(rows)


def answers(api: APIClient, admin: Client, execution: Execution) -> str:
    one = f"/api/v1/flows/{execution.flow_id}/executions/{execution.pk}"
    paths = [one, f"{one}/steps", "/api/v1/executions", "/api/v1/secrets", "/api/v1/secrets/PLAIN"]
    paths += [f"/api/v1/flows/{execution.flow_id}/export", f"/api/v1/flows/{execution.flow_id}"]
    texts = [api.get(path).content.decode() for path in paths]
    stream: Any = api.get(f"{one}/events")
    texts.append(b"".join(stream.streaming_content).decode())
    pages = [f"/admin/executions/execution/{execution.pk}/change/", "/admin/executions/execution/"]
    pages += [f"/admin/flows/secret/{pk}/change/" for pk in Secret.objects.values_list("pk", flat=True)]
    for page in pages:
        shown = admin.get(page)
        assert shown.status_code == 200, page
        texts.append(shown.content.decode())
    return "\n".join(texts)


def readings(text: str) -> set[str]:
    """The text as whoever reads it could read it: its escapes undone, twice at most, and its base64 decoded."""
    found = {text}
    for _ in range(2):
        for undo in (unquote, unquote_plus, html.unescape, lambda each: each.replace("\\\\", "\\").replace('\\"', '"')):
            found |= {undo(each) for each in found}
    for run_of in set(BASE64.findall(text)):
        for part in (run_of[shift:] for shift in range(4)):
            plain = part.rstrip("=").replace("-", "+").replace("_", "/")
            found.add(base64.b64decode(plain[: len(plain) // 4 * 4]).decode("utf-8", "replace"))
    return found


def assert_hidden(text: str) -> None:
    for reading in readings(text):
        for secret in (PLAIN, AWKWARD, PLAIN[:12], AWKWARD[:12]):
            at = reading.find(secret)
            assert at < 0, f"...{reading[max(0, at - 60) : at + 60]}..."


def test_only_the_http_block_takes_secrets() -> None:
    """Whoever gives them to another block adds it to the flow above."""
    assert [block.name for block in catalogue().values() if block.secret_fields] == ["blox.http"]


def test_what_a_server_echoes_of_a_secret_is_on_no_record(
    api: APIClient, drain: Drain, world: Witness, admin_client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    execution = ended(api, drain, listeners(world.url))
    assert execution.status == "success", execution.error_message
    assert len(world.calls) == len(REQUESTS) + 1
    assert execution.steps.filter(block="blox.http", output__contains="***").count() == len(REQUESTS)
    assert_hidden(records())
    assert_hidden(answers(api, admin_client, execution))
    assert_hidden("\n".join(f"{record.getMessage()} {record.exc_text}" for record in caplog.records))


@pytest.mark.parametrize("before", [*range(480, 501, 4)])
def test_an_error_that_is_cut_short_shows_no_part_of_a_secret(
    api: APIClient, drain: Drain, settings: Any, before: int
) -> None:
    def echo(request: Received) -> bytes:
        return answer(400, b"x" * before + request.headers["x-key"].encode(), content_type="text/plain")

    with serving(echo) as server:
        settings.BLOX_HTTP_ALLOW = [f"127.0.0.1:{server.port}"]
        config = f'{{url: "{server.url}", headers: {{X-Key: "{{{{ secrets.PLAIN }}}}"}}}}'
        execution = ended(api, drain, f"  - {{name: a, handler: blox.http, config: {config}}}\n")
    assert execution.status == "error"
    shown = f"{execution.error_message}" + json.dumps(api.get("/api/v1/executions").json())
    assert PLAIN[:4] not in shown
