from base64 import b64encode
from collections.abc import Iterator

import pytest
from django.core.signals import request_finished, request_started
from django.db import close_old_connections
from pytest_django import Settings
from rest_framework.test import APIClient

from accounts.models import Tier, User
from tests.executions.flows import run, start
from tests.fuzz.making_up import Known
from tests.llm.keys import provider
from tests.llm.model_server import ModelServer

__all__ = ["provider"]  # the fixture


@pytest.fixture
def known(api: APIClient, alice: User, settings: Settings, provider: ModelServer) -> Known:
    settings.BLOX_ANONYMOUS_API_RATE = 1_000_000  # rates are not what is tested here
    settings.CLERK_WEBHOOK_SECRET = "whsec_" + b64encode(b"a secret of the test's own").decode()
    settings.STRIPE_WEBHOOK_SECRET = "whsec_of_the_tests_own"
    alice.tier = Tier.HIGH_FREQUENCY
    alice.save()
    flow = start(api, "  - {name: a, handler: blox.transform, config: {value: 1}}\n")
    triggers = f"/api/v1/flows/{flow}/triggers"
    webhook = api.post(triggers, {"type": "webhook", "name": "hook", "config": {}}, format="json").json()
    token = api.post("/api/v1/access-tokens", {"name": "t", "scopes": ["read"]}, format="json").json()
    execution = run(api, flow, {"a": 1})
    return Known({"flowId": flow, "triggerId": webhook["id"], "executionId": str(execution.pk), "id": token["id"]})


@pytest.fixture(autouse=True)
def _one_connection(known: Known) -> Iterator[None]:
    """A request ends as it does in Django's own test client, which is used until here: the connection stays open."""
    for signal in (request_started, request_finished):
        signal.disconnect(close_old_connections)
    yield
    for signal in (request_started, request_finished):
        signal.connect(close_old_connections)
