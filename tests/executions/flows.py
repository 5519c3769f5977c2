"""Flows for the engine's tests: stored and started through the API, as a user would."""

import json
from datetime import timedelta
from typing import Any

from django.utils import timezone
from rest_framework.test import APIClient

from executions.models import Execution, State


def start(api: APIClient, listeners: str, head: str = "") -> str:
    """Store and start a flow of these listeners (YAML, indented by two); its id."""
    text = f"organism:\n  name: tested\n{head}listeners:\n{listeners}"
    flow = api.post("/api/v1/flows", {"name": "tested", "organismYaml": text}, format="json").json()
    answer = api.post(f"/api/v1/flows/{flow['id']}/start")
    assert answer.status_code == 200, answer.json()
    return flow["id"]


def run(api: APIClient, flow_id: str, payload: Any = None) -> Execution:
    answer = api.post(f"/api/v1/flows/{flow_id}/executions/run", {"inputPayload": payload}, format="json")
    assert answer.status_code == 201, answer.json()
    return Execution.objects.get(pk=answer.json()["id"])


def trace(api: APIClient, execution: Execution) -> dict[str, list[dict[str, Any]]]:
    """The steps as the API gives them, by listener."""
    url = f"/api/v1/flows/{execution.flow_id}/executions/{execution.pk}/steps?pageSize=100"
    by_listener: dict[str, list[dict[str, Any]]] = {}
    for step in api.get(url).json()["items"]:
        by_listener.setdefault(step["listener"], []).append(step)
    return by_listener


def wake(execution: Execution) -> None:
    """Let the time pass for which it is parked."""
    past = timezone.now() - timedelta(seconds=1)
    execution.journal.filter(kind="sleep").update(value=json.dumps(past.isoformat()))
    for entry in execution.journal.filter(kind="turned_away"):
        entry.value = json.dumps({**json.loads(entry.value), "until": past.isoformat()})
        entry.save(update_fields=["value"])
    Execution.objects.filter(pk=execution.pk, state=State.PARKED).update(due_at=past)


def retry_from_failed(api: APIClient, execution: Execution) -> Execution:
    url = f"/api/v1/flows/{execution.flow_id}/executions/{execution.pk}/retry"
    answer = api.post(url, {"from": "failed"}, format="json")
    assert answer.status_code == 201, answer.json()
    return Execution.objects.get(pk=answer.json()["id"])


def result(execution: Execution) -> tuple[str, Any]:
    """(status, output) of an execution that has ended, or (status, error code) of one that failed."""
    execution = Execution.objects.select_related("payload").get(pk=execution.pk)
    assert execution.state == State.ENDED, (execution.state, execution.due_at)
    if execution.status != "success":
        return execution.status, execution.error_code
    return execution.status, json.loads(execution.payload.output or "null")
