"""No write takes a field that is not the caller's to write: every write endpoint is sent every field of every model."""

import json
import re
from contextlib import nullcontext
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from django.apps import apps
from django.db import models
from django.utils import timezone
from pytest_django import Settings
from rest_framework.test import APIClient

from accounts.models import User
from executions.models import Approval, Execution
from flows.models import Flow
from flows.services import set_budget
from tests import openapi
from tests.billing.shop import opened
from tests.conftest import api_as
from tests.executions.factories import make_step
from tests.llm.keys import KEY
from tests.llm.keys import provider as _provider
from tests.test_every_endpoint import FLOWS, ORGANISM, operations, under_api, with_ids
from triggers.models import Delivery

__all__ = ["_provider"]  # the fixture

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("_provider"), pytest.mark.once]

TEXT, NUMBER, MOMENT = "h0stile", 987_654, "1999-01-01T00:00:00Z"
VALID: dict[str, dict[str, Any]] = {  # what each needs to be let through; the others need nothing
    "addApiKey": {"provider": "openai", "apiKey": KEY},
    "answerApproval": {"approved": True},
    "cancelExecutions": {"until": "2001-01-01T00:00:00Z"},
    "changeSubscription": {"tier": "pro"},
    "createAccessToken": {"name": "CI"},
    "createBudget": {"monthlyCost": 5},
    "createCheckout": {"tier": "pro"},
    "createFlow": {"name": "New"},
    "createTrigger": {"type": "webhook", "name": "Hook", "config": {}},
    "resolveCrash": {"decision": "fail"},
    "retryExecutions": {"until": "2001-01-01T00:00:00Z"},
    "setSecret": {"value": "v"},
    "setVariable": {"value": "v"},
    "validateOrganism": {"organismYaml": ORGANISM},
}


def hostile(field: Any, stranger: User) -> Any:
    if field.is_relation or isinstance(field, models.UUIDField):
        return str(stranger.pk)
    if isinstance(field, models.BooleanField):
        return True
    if isinstance(field, models.IntegerField | models.FloatField):
        return NUMBER
    return MOMENT if isinstance(field, models.DateField) else TEXT


def every_field(stranger: User, *, but: set[str]) -> dict[str, Any]:
    """Each column of our models under all the names by which a careless serializer could take it."""
    sent = {}
    for model in apps.get_models():
        for field in model._meta.concrete_fields:
            head, *tail = field.attname.split("_")
            camel = head + "".join(word.title() for word in tail)
            for name in (field.name, field.attname, camel, camel.removesuffix("Id")):
                sent[name] = hostile(field, stranger)
    return {name: value for name, value in sent.items() if name not in but}


def writable(method: str, path: str) -> set[str]:
    content = (openapi.operation(method, path) or {}).get("requestBody", {}).get("content", {})
    reference = content.get("application/json", {}).get("schema", {}).get("$ref", "")
    schema = document_schema(reference.rpartition("/")[2])
    return schema.keys() | {re.sub("([A-Z])", r"_\1", name).lower() for name in schema}


def document_schema(name: str) -> dict[str, Any]:
    properties: dict[str, Any] = openapi.document()["components"]["schemas"].get(name, {}).get("properties", {})
    return properties


def rows() -> str:
    ours = [
        model
        for model in apps.get_models()
        if model._meta.app_label in ("accounts", "billing", "llm", "flows", "executions", "triggers")
    ]
    return "\n".join(f"{model.__name__} {values}" for model in ours for values in model._default_manager.values())


@pytest.fixture
def ids(api: APIClient, alice: User) -> dict[str, str]:
    flow = api.post(FLOWS, {"name": "Hers", "organismYaml": ORGANISM}, format="json").json()["id"]
    assert api.post(f"{FLOWS}/{flow}/start").status_code == 200
    trigger = {"type": "webhook", "name": "Hook", "config": {}}
    made = api.post(f"{FLOWS}/{flow}/triggers", trigger, format="json").json()["id"]
    execution = api.post(f"{FLOWS}/{flow}/executions/run", {}, format="json").json()["id"]
    step = make_step(Execution.objects.get(pk=execution), 1, "asks", status="waiting")
    for kind in ("approval", "crash"):
        Approval.objects.create(
            execution_id=execution, step_key=step.key, position=kind, kind=kind, listener="asks", message="Go?"
        )
    refused = Delivery.objects.create(
        trigger_id=made,
        verdict="disabled",
        method="POST",
        size=2,
        held=True,
        request='{"headers": {}, "query": {}, "payload": "{}"}',
    )
    budget = set_budget(
        owner=alice, flow_id=UUID(flow), monthly_cost=Decimal(5), monthly_tokens=None, now=timezone.now()
    )
    return {
        "flowId": flow,
        "triggerId": made,
        "executionId": execution,
        "deliveryId": str(refused.pk),
        "budgetId": str(budget.pk),
    }


@pytest.mark.parametrize(
    ("method", "path"), [param for param in under_api() if param.values[0] in ("POST", "PUT", "PATCH")]
)
def test_no_field_is_written_that_the_operation_does_not_name(
    method: str, path: str, alice: User, bob: User, ids: dict[str, str], settings: Settings
) -> None:
    operation = next(found for at, verb, found in operations() if (at, verb) == (path, method))
    before = (alice.tier, alice.is_staff, alice.is_superuser, alice.password)
    owner = Flow.objects.get(pk=ids["flowId"]).user_id
    valid = VALID.get(operation["operationId"], {})
    body = {**every_field(bob, but=writable(method, path)), **valid}
    with opened(settings) if "/billing/" in path else nullcontext() as shop:
        if shop and operation["operationId"] in ("createPortal", "changeSubscription"):  # they are for customers
            shop.subscribe(alice)
        answer = api_as(alice).generic(method, with_ids(path, ids), json.dumps(body), "application/json")
    assert answer.status_code < 500
    if operation["operationId"] != "retryExecution":  # which has not ended
        assert answer.status_code in (200, 201, 202), answer.content
    found = "\n".join(line for line in rows().splitlines() if bob.email not in line)
    for mark in (TEXT, str(bob.pk), repr(bob.pk), str(NUMBER), "(1999, 1, 1", "1999-01-01"):
        assert mark not in found, f"{mark} was written: {found[max(0, found.index(mark) - 200) :][:300]}"
    alice.refresh_from_db()
    assert (alice.tier, alice.is_staff, alice.is_superuser, alice.password) == before
    assert Flow.objects.get(pk=ids["flowId"]).user_id == owner
