"""A flow that runs, with a webhook; and a worker that carries executions to their end meanwhile."""

import threading
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import pytest
from django.db import connection
from django.test import Client
from django.utils import timezone

from accounts.models import User
from executions.models import Execution
from flows.models import Flow
from flows.services import create_flow, start_flow
from triggers.models import Trigger
from triggers.services import create_trigger

ECHO = """\
organism: {name: echo}
listeners:
  - name: done
    handler: blox.output
"""


@pytest.fixture
def flow(alice: User) -> Flow:
    created = create_flow(owner=alice, name="Orders", organism_yaml=ECHO)
    return start_flow(flow=created, by=alice)


@pytest.fixture
def make_trigger(flow: Flow) -> Callable[..., Trigger]:
    def make(type: str, **config: Any) -> Trigger:
        return create_trigger(flow=flow, type=type, name=f"A {type}", config=config, now=timezone.now())

    return make


@pytest.fixture
def webhook(make_trigger: Callable[..., Trigger]) -> Trigger:
    return make_trigger("webhook")


@pytest.fixture
def caller() -> Client:
    """Someone on the internet: no sign-in, no CSRF token."""
    return Client(enforce_csrf_checks=True)


def path_of(webhook: Trigger) -> str:
    return f"/webhooks/{webhook.webhook_token}"


def post(
    caller: Client, webhook: Trigger, body: bytes | str = b"", type: str = "application/json", **headers: str
) -> Any:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return caller.generic("POST", path_of(webhook), body, content_type=type, headers=named)


def payload_of(execution_id: str | UUID) -> str:
    return Execution.objects.select_related("payload").get(pk=execution_id).payload.input


@pytest.fixture
def worker(drain: Callable[[], None]) -> Iterator[None]:
    """Runs what is accepted, in a thread of its own, until the test has ended."""
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(0.02):
            drain()
        connection.close()

    thread = threading.Thread(target=work)
    thread.start()
    yield
    stop.set()
    thread.join()
