"""Flows for the engine's tests: stored and started through the API, as a user would."""

from typing import Any

from rest_framework.test import APIClient

from executions.models import Execution


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
