"""Hostile requests, made up from the OpenAPI document, find no 5xx and no answer that the document does not give.

As a user and as nobody, in schemathesis's phases of examples, coverage and fuzzing; and as a user in calls that follow from
each other. (Negative data is not always refused
here, by contract: unknown keys at the top of a body are ignored.)

`BLOX_FUZZ_CASES` says how many are made up for each operation: a few in CI, 500 with `make fuzz`.
"""

import os
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
import schemathesis
from django.core.signals import request_finished, request_started
from django.core.wsgi import get_wsgi_application
from django.db import close_old_connections, transaction
from hypothesis import HealthCheck, Phase
from hypothesis import settings as hypothesis_settings
from pytest_django import Settings
from rest_framework.test import APIClient
from schemathesis.checks import (
    content_type_conformance,
    ignored_auth,
    not_a_server_error,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    use_after_free,
)

from accounts.models import Tier, User
from tests.executions.flows import run, start
from tests.llm.keys import provider
from tests.llm.model_server import ModelServer
from tests.openapi import document

__all__ = ["provider"]  # the fixture

CASES = int(os.environ.get("BLOX_FUZZ_CASES", "12"))
CHECKS = [
    *(not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance),
    *(response_headers_conformance, ignored_auth),
]
STEPS = 20  # calls in a row
STREAMS = (
    "/api/v1/flows/{flowId}/executions/{executionId}/events"  # does not end by itself: tests/executions/test_events.py
)

# Its answers feed so many others that schemathesis, which learns from answers, begins the second scenario as the first and goes
# on otherwise; hypothesis takes that for flaky. (Its own runner ends there, and says nothing.)
NOT_FOLLOWED = "/api/v1/budgets"

schema = schemathesis.openapi.from_dict(document())
schema.app = get_wsgi_application()


@dataclass
class Known:
    """Rows that are there, so that made-up requests get past the 404."""

    ids: dict[str, str]

    def fill(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """Ids of the right form become those of real rows; malformed ones stay as they are."""
        return {name: self.ids.get(name, value) if _is_uuid(value) else value for name, value in parameters.items()}


def _is_uuid(value: Any) -> bool:
    try:
        return bool(UUID(str(value)))
    except ValueError:
        return False


@pytest.fixture
def known(api: APIClient, alice: User, settings: Settings, provider: ModelServer) -> Known:
    settings.BLOX_ANONYMOUS_API_RATE = 1_000_000  # rates are not what is tested here
    settings.CLERK_WEBHOOK_SECRET = "whsec_" + b64encode(b"a secret of the test's own").decode()
    alice.tier = Tier.HIGH_FREQUENCY
    alice.save()
    flow = start(api, "  - {name: a, handler: blox.transform, config: {value: 1}}\n")
    triggers = f"/api/v1/flows/{flow}/triggers"
    webhook = api.post(triggers, {"type": "webhook", "name": "hook", "config": {}}, format="json").json()
    token = api.post("/api/v1/access-tokens", {"name": "t", "scopes": ["read"]}, format="json").json()
    execution = run(api, flow, {"a": 1})
    return Known({"flowId": flow, "triggerId": webhook["id"], "executionId": str(execution.pk), "id": token["id"]})


@pytest.fixture
def _one_connection(known: Known) -> Iterator[None]:
    """A request ends as it does in Django's own test client, which is used until here: the connection stays open."""
    for signal in (request_started, request_finished):
        signal.disconnect(close_old_connections)
    yield
    for signal in (request_started, request_finished):
        signal.connect(close_old_connections)


made_up = hypothesis_settings(
    max_examples=CASES,
    deadline=None,
    derandomize=CASES < 100,  # CI asks the same each time; a long run asks something new
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@schema.exclude(path=STREAMS, method="GET").parametrize()
@made_up
@pytest.mark.django_db
@pytest.mark.usefixtures("_one_connection")
def test_a_made_up_request_is_answered_as_the_document_says(case: schemathesis.Case, known: Known) -> None:
    case.path_parameters = known.fill(dict(case.path_parameters or {}))
    headers = {"Authorization": "Bearer dev:alice@shop.example"}
    case.call_and_validate(headers=headers, checks=CHECKS)


@schema.exclude(path=STREAMS, method="GET").parametrize()
@made_up
@pytest.mark.django_db
@pytest.mark.usefixtures("_one_connection")
def test_a_made_up_request_of_nobodys_is_refused_as_the_document_says(
    case: schemathesis.Case, known: Known, settings: Settings
) -> None:
    settings.BLOX_ANONYMOUS_API_RATE = 1_000_000
    case.path_parameters = known.fill(dict(case.path_parameters or {}))
    case.headers.pop("Authorization", None)
    response = case.call_and_validate(checks=[check for check in CHECKS if check is not ignored_auth])
    security = case.operation.definition.raw.get("security", [])
    if security and {} not in security:
        # 400: it could not even be read; 404: an id of the wrong form is no path of this server's
        no_path = any(not _is_uuid(value) for value in case.path_parameters.values())
        assert response.status_code in {400, 401, 405, 406} | ({404} if no_path else set()), response.status_code


@pytest.mark.once
@pytest.mark.django_db
@pytest.mark.usefixtures("_one_connection")
def test_calls_that_go_on_with_what_earlier_ones_gave_are_answered_as_the_document_says(
    known: Known, settings: Settings
) -> None:
    """Creating, reading, changing and deleting in any order; schemathesis infers which operation's answer feeds which."""
    settings.BLOX_ANONYMOUS_API_RATE = 1_000_000

    followed = schema.exclude(path=STREAMS, method="GET").exclude(path=NOT_FOLLOWED, method="POST")

    class Workflow(followed.as_state_machine()):  # type: ignore[misc]
        def setup(self) -> None:
            self.before = transaction.savepoint()  # each scenario begins with the same rows, as hypothesis expects

        def teardown(self) -> None:
            transaction.savepoint_rollback(self.before)

        def step(self, input: Any) -> Any:
            if not input.is_applied:  # nothing that was answered is in it
                input.case.path_parameters = known.fill(dict(input.case.path_parameters or {}))
            return super().step(input)

        def get_call_kwargs(self, case: schemathesis.Case) -> dict[str, Any]:
            return {"headers": {"Authorization": "Bearer dev:alice@shop.example"}}

        def validate_response(self, response: Any, case: schemathesis.Case, **kwargs: Any) -> None:
            case.validate_response(response, checks=[*CHECKS, use_after_free], **kwargs)

    Workflow.run(settings=hypothesis_settings(made_up, stateful_step_count=STEPS))
