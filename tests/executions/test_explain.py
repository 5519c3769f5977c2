"""Why and how an execution ran, over HTTP."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.test import Client
from rest_framework.test import APIClient

from accounts.models import User
from bloxserver.core import json_text
from executions.models import Execution, ExecutionPayload, JournalEntry, StepStatus
from flows.models import Flow
from tests.executions.factories import NOON, make_execution, make_flow, make_step
from tests.executions.flows import run, start

EFFECTS = """\
organism: {name: caller}
listeners:
  - {name: greet, handler: blox.transform, config: {value: 1}, peers: [look]}
  - {name: look, handler: blox.http, config: {url: "https://crm.example/orders"}, peers: [post]}
  - {name: post, handler: blox.http, config: {method: POST, url: "https://crm.example/orders"}}
"""


@pytest.fixture
def flow(alice: User) -> Flow:
    return make_flow(alice, yaml=EFFECTS)


def explained(api: APIClient, execution: Execution) -> dict[str, Any]:
    answer = api.get(f"/api/v1/flows/{execution.flow_id}/executions/{execution.pk}/explain")
    assert answer.status_code == 200, answer.content
    return answer.json()


def test_it_says_which_call_on_which_version(api: APIClient, flow: Flow) -> None:
    execution = make_execution(
        flow, trigger_type="webhook", trigger_id=uuid4(), trigger_name="Orders", queued_ms=1500, ms=20
    )
    trigger = {"firedAt": "2026-03-01T12:00:00Z", "method": "POST"}
    ExecutionPayload.objects.filter(pk=execution.pk).update(trigger=json_text.dumps(trigger))

    told = explained(api, execution)

    assert told["why"]["text"] == 'A POST request came to the webhook "Orders".'
    assert told["why"]["deliveryId"] is None  # the trigger is gone, and its ledger with it
    assert (told["version"]["number"], told["version"]["isDeployedNow"]) == (1, True)
    assert [(wait["cause"], wait["seconds"]) for wait in told["waits"]] == [("queued", 1.5)]
    assert told["cost"]["durationMs"] == 20
    assert told["crashes"]["leaseHasExpired"] is False


@pytest.mark.parametrize(("state", "on_probation"), [("queued", True), ("working", False), ("ended", True)])
def test_it_says_that_nothing_is_claimed_beside_it_while_that_is_so(
    api: APIClient, flow: Flow, state: str, on_probation: bool
) -> None:
    execution = make_execution(flow)
    Execution.objects.filter(pk=execution.pk).update(lost_owner="shop:1", on_probation=on_probation)
    if state != "ended":
        lease = NOON + timedelta(days=36_500) if state == "working" else None
        Execution.objects.filter(pk=execution.pk).update(
            state=state, status="running", completed_at=None, due_at=NOON, lease_until=lease
        )
    text = explained(api, execution)["crashes"]["text"]
    assert text.startswith("The worker shop:1 held it and gave no sign of life.")
    assert ("Nothing else is claimed beside it" in text) == (state == "queued")


def test_it_says_which_moment_of_a_schedule(api: APIClient, flow: Flow) -> None:
    execution = make_execution(flow, trigger_type="schedule", trigger_name="Nightly", scheduled_for=NOON)
    assert explained(api, execution)["why"]["text"] == (
        'The schedule "Nightly" fired for its moment 2026-03-01T12:00:00Z.'
    )


def test_a_retry_names_the_effects_that_happen_again_and_those_that_are_kept(api: APIClient, flow: Flow) -> None:
    execution = make_execution(flow, status="error", error_message="post: 503")
    make_step(execution, 1, "greet")
    make_step(execution, 2, "look", block="blox.http")
    failures = [{"attempt": 1, "code": "http_status", "error": "503", "at": "2026-03-01T12:00:01+00:00"}]
    make_step(
        execution,
        3,
        "post",
        status=StepStatus.ERROR,
        attempt=2,
        error="again 503",
        error_code="http_status",
        failures=failures,
    )

    told = explained(api, execution)

    again = {
        retry: [(effect["listener"], effect["effects"]) for effect in told[retry]["again"]]
        for retry in ("retryFromStart", "retryFromFailed")
    }
    assert again == {
        "retryFromStart": [("look", "repeatable"), ("post", "once")],
        "retryFromFailed": [("post", "once")],
    }
    assert [effect["listener"] for effect in told["retryFromFailed"]["kept"]] == ["look"]
    assert told["retryFromFailed"]["isPossible"] is True
    assert [(row["attempt"], row["error"], row["outcome"]) for row in told["failures"]] == [
        (1, "503", "tried_again"),
        (2, "again 503", "failed"),
    ]
    assert (told["cost"]["steps"], told["cost"]["attempts"]) == (3, 4)


def test_each_wait_has_its_cause(api: APIClient, flow: Flow) -> None:
    execution = make_execution(flow, ms=100_000)
    step = make_step(execution, 1, "look")
    for position, seconds in (("1", 10), ("retry 2", 30)):
        JournalEntry.objects.create(
            execution=execution,
            step_key=step.key,
            position=position,
            kind="sleep",
            value=json_text.dumps((NOON + timedelta(seconds=seconds)).isoformat()),
            created_at=NOON + timedelta(seconds=seconds - 5),
        )
    child = make_execution(flow, parent_id=execution.pk, started_at=NOON + timedelta(seconds=40), ms=2000)
    JournalEntry.objects.create(
        execution=execution, step_key=step.key, position="2", kind="start_flow", value=json_text.dumps(str(child.pk))
    )

    waits = explained(api, execution)["waits"]

    assert [(wait["cause"], wait["listener"], wait["seconds"], wait["executionId"]) for wait in waits] == [
        ("queued", None, 0.0, None),
        ("delay", "look", 5.0, None),
        ("retry", "look", 5.0, None),
        ("call_flow", "look", 2.0, str(child.pk)),
    ]


def test_a_worker_that_died_is_told_of(api: APIClient, flow: Flow) -> None:
    execution = make_execution(flow, status="running", claimed_at=NOON, claim_alone=True, crashes=1)
    told = explained(api, execution)
    assert told["crashes"]["leaseHasExpired"] is True
    assert told["crashes"]["alone"] == 1
    assert told["retryFromStart"]["isPossible"] is False


DIED = "held it and gave no sign of life."
BY_ITSELF = "Nothing else is claimed beside it until it has worked for some time."


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "No worker has died while it worked on this execution, as far as is on record."),
        (
            {"status": "running", "state": "working", "lease_owner": "w1", "lease_until": NOON, "lost_owner": "w0"},
            "The lease of w1 has run out: another worker takes over within seconds.",
        ),
        ({"status": "running", "lost_owner": "w1", "on_probation": True}, f"The worker w1 {DIED} {BY_ITSELF}"),
        ({"status": "running", "lost_owner": "w1", "claim_alone": True}, f"The worker w1 {DIED} {BY_ITSELF}"),
        ({"lost_owner": "w1"}, f"The worker w1 {DIED}"),
        (
            {"status": "error", "error_code": "worker_lost", "lost_owner": "w3", "crashes": 3},
            f"The worker w3 {DIED} Workers that died as soon as they had taken it up: 3.",
        ),
        (  # of a release that kept no owner
            {"status": "error", "error_code": "worker_lost"},
            f"A worker {DIED}",
        ),
    ],
)
def test_it_says_what_became_of_its_workers(api: APIClient, flow: Flow, fields: dict[str, Any], text: str) -> None:
    assert explained(api, make_execution(flow, **fields))["crashes"]["text"] == text


def test_what_really_ran_is_explained(api: APIClient, drain: Callable[[], None]) -> None:
    execution = run(api, start(api, "  - {name: wait, handler: blox.delay, config: {seconds: 600}}\n"))
    drain()
    told = explained(api, execution)
    assert told["why"]["text"] == "Somebody ran it by hand."
    assert told["state"] == "parked"
    assert told["text"].endswith("without holding a worker, in wait.")
    assert [wait["cause"] for wait in told["waits"]] == ["queued", "delay"]
    assert told["waits"][1]["seconds"] == pytest.approx(600, abs=1)


def test_another_tenants_execution_is_not_explained(bobs_api: APIClient, flow: Flow) -> None:
    execution = make_execution(flow)
    assert bobs_api.get(f"/api/v1/flows/{flow.pk}/executions/{execution.pk}/explain").status_code == 404


def test_the_admins_page_explains_it(admin_client: Client, flow: Flow) -> None:
    execution = make_execution(flow, trigger_type="schedule", trigger_name="<Nightly>", scheduled_for=NOON)
    page = admin_client.get(f"/admin/executions/execution/{execution.pk}/change/").content.decode()
    assert "The schedule &quot;&lt;Nightly&gt;&quot; fired for its moment 2026-03-01T12:00:00Z." in page
