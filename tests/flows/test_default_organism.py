"""The template that a new flow starts as."""

from collections.abc import Callable
from typing import Any

import pytest
from rest_framework.test import APIClient

from tests.flows.samples import start


@pytest.mark.parametrize(
    ("payload", "greeting"),
    [({"name": "Ada"}, "Hello, Ada!"), (None, "Hello, world!"), ([1], "Hello, world!"), ({"a": 1}, "Hello, world!")],
)
def test_it_runs_with_any_payload(api: APIClient, drain: Callable[[], None], payload: Any, greeting: str) -> None:
    flow = api.post("/api/v1/flows", {"name": "First"}).json()
    start(api, flow)
    url = f"/api/v1/flows/{flow['id']}/executions"
    run = api.post(f"{url}/run", {"inputPayload": payload, "draft": False}).json()

    drain()

    execution = api.get(f"{url}/{run['id']}").json()
    assert execution["status"] == "success", execution["errorMessage"]
    assert greeting in execution["outputPayload"]
