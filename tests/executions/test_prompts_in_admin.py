"""Operators see how a model was asked, and what was said only where the tenant lets them."""

from html import unescape
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from rest_framework.test import APIClient

from accounts.models import User
from executions.admin import privacy
from executions.admin.privacy import hidden_of
from executions.models import Approval, Execution, JournalEntry, LargeOutput, SpokenText, Step
from tests.executions.factories import make_execution, make_flow, make_step

pytestmark = [pytest.mark.django_db, pytest.mark.once]

HIDDEN = "hidden: the tenant has not allowed operators to read prompts"
SECRETS = (
    "asked for",
    "Blue shoes?",
    "the prompt",
    "it answered",
    "its arguments",
    "found it",
    "passed on",
    "may I say it",
)
CALL: dict[str, Any] = {
    "model": "claude-sonnet-4-5",
    "provider": "anthropic",
    "own_key": True,
    "cost": "0.004200",
    "latency_ms": 812,
    "cached": "exact",
    "stop": "stop",
    "path": [
        {"provider": "openai", "model": "gpt-5", "outcome": "rate_limited", "ms": 35},
        {"provider": "anthropic", "model": "claude-sonnet-4-5", "outcome": "answered", "ms": 777},
    ],
}


@pytest.fixture
def execution(alice: User) -> Execution:
    """An agent's: before it a step, below it a turn and a tool, after it a step that got its answer."""
    execution = make_execution(make_flow(alice), input="asked for", output="passed on")
    make_step(execution, 1, "before", output="Blue shoes?")
    below = {"parents": ["key-5"], "from_listener": "agent"}
    said = {"input": {"messages": ["the prompt"]}, "output": {"text": "it answered"}}
    make_step(
        execution,
        2,
        "agent",
        block="blox.model",
        scope="key-5:1",
        model_call=CALL,
        tokens_in=1204,
        tokens_out=87,
        **below,
        **said,
    )
    make_step(execution, 3, "find", scope="key-5:2", input="its arguments", output="found it", **below)
    make_step(execution, 5, "agent", block="blox.agent", parents=["key-1"], output="it answered")
    make_step(execution, 6, "done", block="blox.output", parents=["key-5"], output="passed on")
    JournalEntry.objects.create(
        execution=execution, step_key="key-5", position="1", kind="model", value='"it answered"'
    )
    Approval.objects.create(
        execution=execution, step_key="key-5", position="2", kind="approval", listener="agent", message="may I say it"
    )
    return execution


def page_of(client: Client, row: Any) -> str:
    response = client.get(reverse(f"admin:executions_{row._meta.model_name}_change", args=[row.pk]))
    assert response.status_code == 200
    return unescape(response.content.decode())


def pages(client: Client, execution: Execution) -> str:
    rows = [execution, execution.payload, *execution.steps.all(), *execution.journal.all(), *execution.approvals.all()]
    return "".join(page_of(client, row) for row in rows)


LISTS = ("execution", "executionpayload", "step", "journalentry", "approval")


def lists(client: Client) -> str:
    return "".join(client.get(f"/admin/executions/{name}/").content.decode() for name in LISTS)


def test_an_operator_reads_no_prompt_and_nothing_that_came_of_it(admin_client: Client, execution: Execution) -> None:
    make_step(execution, 7, "last", parents=["key-6"], is_output_apart=True)
    LargeOutput.objects.create(step=execution.steps.get(number=7), text='"passed on"')
    spoken = SpokenText.objects.create(step=execution.steps.get(number=2), attempt=1, seq=1, text="said aloud")
    html = pages(admin_client, execution) + page_of(admin_client, LargeOutput.objects.get())
    html += page_of(admin_client, spoken) + admin_client.get("/admin/executions/spokentext/").content.decode()
    html += lists(admin_client)
    assert [text for text in (*SECRETS, "said aloud") if text in html] == []
    assert HIDDEN in html


def test_an_operator_reads_all_where_the_tenant_allows_it(
    admin_client: Client, api: APIClient, execution: Execution
) -> None:
    answer = api.patch("/api/v1/me", {"sharePromptsWithOperators": True}, format="json")
    assert answer.json()["sharePromptsWithOperators"] is True
    html = pages(admin_client, execution)
    assert [text for text in SECRETS if text not in html] == []
    assert HIDDEN not in html


SAID = "The model refused to answer: blue shoes"


def fail_with_what_was_said(execution: Execution) -> None:
    Execution.objects.filter(pk=execution.pk).update(status="error", error_code="content_refused", error_message=SAID)
    failures = [{"attempt": 1, "code": "content_refused", "error": SAID, "at": "2026-03-01T12:00:00+00:00"}]
    execution.steps.update(status="error", error=SAID, error_code="content_refused", failures=failures, notes=[SAID])
    execution.refresh_from_db()


def test_of_errors_an_operator_reads_the_codes(admin_client: Client, execution: Execution) -> None:
    fail_with_what_was_said(execution)
    html = pages(admin_client, execution) + lists(admin_client)
    assert "blue shoes" not in html
    assert "content_refused" in html


def test_of_shared_errors_an_operator_reads_all(admin_client: Client, execution: Execution, alice: User) -> None:
    fail_with_what_was_said(execution)
    alice.share_prompts_with_operators = True
    alice.save()
    assert pages(admin_client, execution).count(SAID) > 3
    assert "blue shoes" in lists(admin_client)


def calling(caller: Execution, called: Execution) -> None:
    Execution.objects.filter(pk=called.pk).update(parent_id=caller.pk)
    JournalEntry.objects.create(
        execution=caller, step_key="key-1", position=called.pk.hex, kind="start_flow", value=f'"{called.pk}"'
    )


def test_who_called_it_and_what_it_called_are_hidden_too(admin_client: Client, execution: Execution) -> None:
    flow = execution.flow
    first, second, beside, below = (make_execution(flow, input="a prompt", output="an answer") for _ in range(4))
    for caller, called in ((first, second), (second, execution), (first, beside), (execution, below)):
        calling(caller, called)
    stranger = make_execution(flow, output="of no model")
    html = "".join(page_of(admin_client, row) for row in (first, second, beside, below, first.payload))
    assert "a prompt" not in html and "an answer" not in html
    assert "of no model" in page_of(admin_client, stranger)
    assert "a prompt" not in lists(admin_client)


def test_one_that_was_called_by_two_hides_both(execution: Execution) -> None:
    failed, retry = (make_execution(execution.flow) for _ in range(2))
    calling(retry, execution)
    calling(failed, execution)
    assert hidden_of({failed.pk, retry.pk}) == {failed.pk, retry.pk}


def test_where_too_many_were_called_all_that_called_are_hidden(
    execution: Execution, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(privacy, "MOST_RELATED", 3)
    busy, alone, other = (make_execution(execution.flow) for _ in range(3))
    for _ in range(4):
        calling(busy, make_execution(execution.flow))
    calling(other, execution)
    assert hidden_of({busy.pk, alone.pk, other.pk}) == {busy.pk, other.pk}


def test_what_a_caller_that_is_gone_has_told_stays_hidden(admin_client: Client, alice: User) -> None:
    called = make_execution(make_flow(alice), input="a prompt", parent_id="018f0000-0000-7000-8000-000000000001")
    assert "a prompt" not in page_of(admin_client, called)


def test_it_is_hidden_before_a_model_is_asked(admin_client: Client, alice: User) -> None:
    yaml = "organism: {name: x}\nlisteners:\n  - {name: a, handler: blox.llm, model: gpt-5}\n"
    execution = make_execution(make_flow(alice, yaml=yaml), status="running", input="a prompt")
    assert "a prompt" not in page_of(admin_client, execution)


def test_an_execution_without_models_hides_nothing(admin_client: Client, alice: User) -> None:
    execution = make_execution(make_flow(alice), output="out")
    make_step(execution, 1, "greet", input="in", output="out")
    html = page_of(admin_client, execution) + page_of(admin_client, execution.steps.get())
    assert HIDDEN not in html and '"out"' in html


def test_the_owner_reads_all_through_the_api(api: APIClient, execution: Execution) -> None:
    url = f"/api/v1/flows/{execution.flow_id}/executions/{execution.pk}/steps"
    [turn] = [step for step in api.get(url).json()["items"] if step["block"] == "blox.model"]
    assert (turn["input"], turn["output"]) == ({"messages": ["the prompt"]}, {"text": "it answered"})


def test_a_turn_stands_below_its_agent_with_how_it_was_answered(admin_client: Client, execution: Execution) -> None:
    html = page_of(admin_client, execution)
    places = [html.index(f"/step/{execution.steps.get(number=number).pk}/") for number in (1, 5, 2, 3, 6)]
    assert places == sorted(places)
    for told in (
        "anthropic claude-sonnet-4-5",
        "1,204 tokens in, 87 out",
        "$0.004200",
        "812\xa0ms",
        "exact cache hit",
        "the user's own key",
        "openai gpt-5 rate_limited 35\xa0ms \N{RIGHTWARDS ARROW} anthropic claude-sonnet-4-5 answered 777\xa0ms",
    ):
        assert told in html


def test_an_unknown_cost_is_not_zero(admin_client: Client, execution: Execution) -> None:
    Step.objects.filter(block="blox.model").update(model_call={**CALL, "cost": None})
    html = page_of(admin_client, execution)
    assert "cost unknown" in html and "$0.0042" not in html


def test_an_operator_sees_the_tenant_s_decision_and_cannot_take_it(admin_client: Client, alice: User) -> None:
    url = reverse("admin:accounts_user_change", args=[alice.pk])
    html = admin_client.get(url).content.decode()
    assert "field-share_prompts_with_operators" in html
    assert 'name="share_prompts_with_operators"' not in html
