"""The models that a flow names: whether they are served, have room for the instructions, and a price that can be kept."""

import textwrap
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from rest_framework.test import APIClient

from accounts.models import User
from flows.organism.spec import Validation
from flows.services import validate_for
from llm.models import Provider
from tests.flows.samples import make_flow

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _pool(db: None) -> None:
    Provider.objects.create(name="OpenAI", provider="openai")
    Provider.objects.create(name="Ollama", provider="ollama", base_url="http://ollama:11434/v1")


def organism(*listeners: str) -> str:
    return "organism: {name: x}\nlisteners:\n" + textwrap.indent("\n".join(f"- {each}" for each in listeners), "  ")


def agent(model: str, more: str = "", name: str = "agent") -> str:
    return f"{{name: {name}, handler: blox.agent, model: '{model}'{', ' if more else ''}{more}}}"


def told(problems: list[Any]) -> list[tuple[str, int, str]]:
    return [(problem.path, problem.line, problem.message) for problem in problems]


def test_max_cost_with_a_model_without_a_price_is_warned_of_at_its_place(alice: User) -> None:
    text = organism(
        agent("ollama:llama3", "config: {max_cost: 1}"),
        agent("openai:gpt-5", "fallback: ['ollama:llama3'], config: {max_cost: 1}", "b"),
        agent("openai:gpt-5", "config: {max_cost: 1}", "c"),
        agent("ollama:llama3", name="d"),
    )
    found = validate_for(user=alice, organism_yaml=text)
    assert found.valid
    warned = [(path, line) for path, line, message in told(found.warnings) if "max_cost cannot be kept" in message]
    assert warned == [("listeners[0].model", 3), ("listeners[1].fallback[0]", 4)]


@pytest.mark.parametrize(("size", "errors", "warnings"), [(50_000, 1, 0), (30_000, 0, 1), (10_000, 0, 0)])
def test_instructions_over_a_models_context_are_an_error_where_it_is_named(
    alice: User, size: int, errors: int, warnings: int
) -> None:
    """8,192 tokens: surely too few for 50,000 characters, and perhaps for 30,000."""
    prompt = "{{ payload.a }}" * 1_000 + "a" * size
    found = validate_for(user=alice, organism_yaml=organism(agent("openai:gpt-4", f"prompt: '{prompt}'")))
    too_long = [each for each in told(found.errors) if "alone are too long" in each[2]]
    assert ([each[:2] for each in too_long], len(found.errors)) == ([("listeners[0].model", 3)] * errors, errors)
    assert len([each for each in told(found.warnings) if "may be too long" in each[2]]) == warnings


def hostile(names: int) -> str:
    fallback = ", ".join(f"'m{number}'" for number in range(names))
    return organism(agent("openai:gpt-5", f"fallback: [{fallback}]"))


def queries_of(alice: User, text: str) -> tuple[int, Validation]:
    with CaptureQueriesContext(connection) as queries:
        found = validate_for(user=alice, organism_yaml=text)
    return len(queries), found


def test_of_a_list_that_is_too_long_no_model_is_looked_for(alice: User) -> None:
    queries, found = queries_of(alice, hostile(5_000))
    assert queries <= 2
    assert [path for path, _, _ in told(found.errors)] == ["listeners[0].fallback"]


def test_many_models_are_refused_and_the_users_keys_are_read_once(alice: User) -> None:
    text = organism(*(agent(f"openai:m{number}", name=f"a{number}") for number in range(60)))
    queries, found = queries_of(alice, text)
    assert queries <= 2  # the keys, and the pool
    [(path, _, message)] = told(found.errors)
    assert (path, message) == ("listeners[50].model", "The flow names 60 different models; at most 50 are allowed.")


def test_the_page_of_a_flow_tells_operators_what_a_start_would(admin_client: Client, api: APIClient) -> None:
    flow = make_flow(api, organismYaml=organism(agent("acme:gpt-5")))
    page = admin_client.get(f"/admin/flows/flow/{flow['id']}/change/").content.decode()
    assert "Valid." not in page and "There is no provider &quot;acme&quot; here." in page
