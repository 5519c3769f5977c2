"""What is asked of a model and what comes back, through the real SDKs, against a server that speaks their wire formats."""

import asyncio
import subprocess
import sys
from typing import Any

import pytest

from llm.errors import Failure, ProviderFailed
from llm.exchange import AssistantMessage, Request, Tool, ToolCall, ToolResult, Usage, UserMessage
from llm.wire import call, check_key, close_clients
from llm.wire.http import loop_client
from tests.llm import model_server as served
from tests.llm.asking import EACH_KIND, KEY, MODELS, PROVIDERS, QUESTION, SAYS, ask, at
from tests.llm.model_server import ModelServer, calls, text

pytestmark = pytest.mark.once

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


# What is asked, and what comes back. -----------------------------------------------------------------------------
@EACH_KIND
@SAYS
def test_a_text_comes_back_with_its_usage_and_cost(model_server: ModelServer, kind: str, streamed: bool) -> None:
    model_server.script(text("Forty-two.", tokens_in=1000, tokens_out=100, cached=200))
    heard: list[str] | None = [] if streamed else None

    said = ask(at(model_server, kind, own_key=True), heard=heard)

    assert (said.text, said.calls, said.stop, said.own_key) == ("Forty-two.", (), "stop", True)
    assert (said.provider, said.model) == (PROVIDERS[kind], MODELS[kind])
    assert said.usage == Usage(1000, 100, 200)
    assert str(said.cost) == {"anthropic": "0.00396", "openai": "0.000195"}[said.provider]
    if heard is not None:
        assert len(heard) > 1 and "".join(heard) == "Forty-two."
    [request] = model_server.log
    assert (request.key, request.prompt, request.model) == (KEY, "What is the answer?", MODELS[kind])


@EACH_KIND
@SAYS
def test_tool_calls_come_back_and_what_is_no_json_as_text(model_server: ModelServer, kind: str, streamed: bool) -> None:
    model_server.script(calls([("search", {"q": "shoes"}), ("search", {}), ("search", "not json")], "Looking."))
    tool = Tool("search", "Searches", {"type": "object", "properties": {"q": {"type": "string"}}})

    said = ask(at(model_server, kind), heard=[] if streamed else None, tools=(tool,))

    assert (said.text, said.stop) == ("Looking.", "tools")
    assert [(each.name, each.arguments) for each in said.calls] == [
        ("search", {"q": "shoes"}),
        ("search", {}),
        ("search", "not json"),
    ]
    assert len({each.id for each in said.calls}) == 3
    [sent] = model_server.log[0].body["tools"]
    assert "Searches" in str(sent) and "'q'" in str(sent)


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        ("openai", '{"n": 1e999}'),
        ("openai", '{"n": NaN}'),
        ("openai", '{"n": ' + "[" * 500 + "]" * 500 + "}"),
        ("anthropic", '{"n": 1e999}'),  # which its SDK has parsed before
    ],
)
def test_arguments_that_could_not_be_kept_come_back_as_text(
    model_server: ModelServer, kind: str, arguments: str
) -> None:
    model_server.script(calls([("search", arguments)]))

    [made] = ask(at(model_server, kind), tools=(Tool("search", "Searches", {"type": "object"}),)).calls

    assert isinstance(made.arguments, str)


def test_half_of_a_surrogate_pair_is_replaced(model_server: ModelServer) -> None:
    model_server.script(calls([("search", r'{"q": "\ud83d"}')], "So \ud83d"))

    said = ask(at(model_server), tools=(Tool("search", "Searches", {"type": "object"}),))

    assert (said.text, said.calls[0].arguments) == ("So ?", {"q": "?"})


@EACH_KIND
def test_a_whole_conversation_is_sent_with_results_and_errors_of_tools(model_server: ModelServer, kind: str) -> None:
    asked = AssistantMessage("Looking.", (ToolCall("c1", "search", {"q": "a"}), ToolCall("c2", "search", "not json")))
    found, failed = ToolResult("c1", "search", "42"), ToolResult("c2", "search", "no such thing", is_error=True)

    ask(at(model_server, kind), messages=(*QUESTION, asked, found, failed), system="Be brief.")

    [request] = model_server.log
    assert served.system(request.body) == "Be brief."
    [first, second] = served.tool_results(request.body)
    assert first == "42" and "no such thing" in second and ("error" in second or kind == "anthropic")
    if kind == "anthropic":
        assert [part["is_error"] for part in request.body["messages"][-1]["content"]] == [False, True]


@EACH_KIND
def test_temperature_and_the_bound_of_the_answer_are_sent(model_server: ModelServer, kind: str) -> None:
    ask(at(model_server, kind), temperature=0.5, max_tokens=77)

    bound = {"anthropic": "max_tokens", "openai": "max_completion_tokens", "openai-responses": "max_output_tokens"}[
        kind
    ]
    body = model_server.log[0].body
    assert (body["temperature"], body[bound]) == (0.5, 77)


@pytest.mark.parametrize(
    ("kind", "model"), [("openai", "gpt-5"), ("openai-responses", "gpt-5"), ("anthropic", "claude-opus-4-8")]
)
def test_a_temperature_is_left_out_where_a_model_refuses_it(model_server: ModelServer, kind: str, model: str) -> None:
    ask(at(model_server, kind, model=model), temperature=0.5)

    assert "temperature" not in model_server.log[0].body


def test_a_compatible_server_gets_the_bound_by_the_name_that_all_know(model_server: ModelServer) -> None:
    ask(at(model_server, provider="acme", model="llama3"), max_tokens=77)

    assert model_server.log[0].body["max_tokens"] == 77


@EACH_KIND
def test_a_schema_is_sent_in_the_providers_own_mode(model_server: ModelServer, kind: str) -> None:
    model_server.script(text('{"n": 1}'))

    assert ask(at(model_server, kind), schema=SCHEMA).text == '{"n": 1}'
    body = model_server.log[0].body
    place = {"anthropic": "output_config", "openai": "response_format", "openai-responses": "text"}[kind]
    assert "json_schema" in str(body[place]) and "'n'" in str(body[place])


@pytest.mark.parametrize(
    ("kind", "model", "schema"),
    [("anthropic", "claude-3-opus-latest", SCHEMA), ("openai", "gpt-4o-mini", {"type": "array", "maxItems": 3})],
    ids=["a model without such a mode", "no object"],
)
def test_elsewhere_a_schema_is_asked_for_in_words(
    model_server: ModelServer, kind: str, model: str, schema: Any
) -> None:
    model_server.script(text('```json\n{"n": 1}\n```'))

    said = ask(at(model_server, kind, model=model), schema=schema, system="Be brief.")

    body = model_server.log[0].body
    assert said.text == '{"n": 1}' and "json_schema" not in str(body)
    assert "Be brief." in served.system(body) and list(schema)[1] in served.system(body)


@EACH_KIND
@SAYS
@pytest.mark.parametrize("stop", ["length", "refused"])
def test_what_was_paid_for_is_an_answer_that_says_why_it_ends(
    model_server: ModelServer, kind: str, streamed: bool, stop: str
) -> None:
    model_server.script(text("Half an", stop=stop, tokens_in=9, tokens_out=3))

    said = ask(at(model_server, kind), heard=[] if streamed else None)

    assert (said.text, said.stop, said.usage) == ("Half an", stop, Usage(9, 3))


def test_usage_is_estimated_where_a_server_reports_none(model_server: ModelServer) -> None:
    model_server.script(text("x" * 30, says_usage=False))

    said = ask(at(model_server, provider="acme", model="llama3"), messages=(UserMessage("y" * 300),))

    assert said.usage == Usage(108, 10) and said.cost is None


@pytest.mark.parametrize(("reported", "counted"), [((7, 10**15), Usage(7, 2**31 - 1)), ((-5, -5), Usage(15, 1))])
def test_a_server_cannot_report_what_nobody_can_have_used(
    model_server: ModelServer, reported: tuple[int, int], counted: Usage
) -> None:
    model_server.script(text("x", tokens_in=reported[0], tokens_out=reported[1]))

    assert ask(at(model_server)).usage == counted


@EACH_KIND
@pytest.mark.parametrize("said", ['{"n": NaN}', "[1]", "7", '{"n": ' + "[" * 100_000 + "}"])
def test_arguments_that_are_no_json_object_stay_text(model_server: ModelServer, kind: str, said: str) -> None:
    model_server.script(calls([("search", said)]))

    [asked] = ask(at(model_server, kind), heard=[], tools=(Tool("search", "", {"type": "object"}),)).calls

    assert asked.arguments == said


def test_responses_are_not_kept_by_the_provider(model_server: ModelServer) -> None:
    ask(at(model_server, "openai-responses"))

    assert model_server.log[0].body["store"] is False


@EACH_KIND
def test_nothing_of_the_workers_environment_goes_out(
    model_server: ModelServer, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-of-the-operator")
    monkeypatch.setenv("ANTHROPIC_CUSTOM_HEADERS", "X-Gateway: key-of-the-operator")
    monkeypatch.setenv("OPENAI_API_KEY", "key-of-the-operator")
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", "key-of-the-operator")

    ask(at(model_server, kind, api_key=""))

    assert "operator" not in str(model_server.log[0].headers)


# Keys, and what it costs. ----------------------------------------------------------------------------------------
@EACH_KIND
def test_a_key_is_checked_by_one_cheap_call(model_server: ModelServer, kind: str) -> None:
    model_server.refuse_key("sk-bad")

    asyncio.run(check_key(at(model_server, kind)))
    with pytest.raises(ProviderFailed) as refused:
        asyncio.run(check_key(at(model_server, kind, api_key="sk-bad")))

    assert refused.value.failure is Failure.KEY_REFUSED and "sk-bad" not in refused.value.message
    assert [(request.wire, request.key) for request in model_server.log] == [("models", KEY), ("models", "sk-bad")]


def test_a_key_is_not_refused_because_the_provider_is_not_there(model_server: ModelServer) -> None:
    model_server.server_close()

    with pytest.raises(ProviderFailed) as caught:
        asyncio.run(check_key(at(model_server, base_url="http://192.168.0.1")))

    assert caught.value.failure is Failure.UNAVAILABLE and "BLOX_HTTP_ALLOW" in caught.value.message


def test_connections_and_models_are_kept_for_a_loop_and_no_longer(
    model_server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llm.wire.models.MAX_MODELS", 2)

    async def run() -> tuple[int, int]:
        first = loop_client()
        for key in ("a", "a", "b", "c", "c"):
            await call(at(model_server, api_key=key), Request("m", QUESTION), timeout=5)
        kept = len(first.models)
        assert "'a'" not in repr(list(first.models))
        await close_clients()
        assert first.http.is_closed and loop_client() is not first
        await close_clients()
        return kept, len({request.headers["host"] for request in model_server.log})

    assert asyncio.run(run()) == (2, 1)
    assert [request.key for request in model_server.log] == ["a", "a", "b", "c", "c"]


def test_the_sdks_are_imported_by_the_first_call_alone() -> None:
    program = """
import os, sys
os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
import django; django.setup()
import llm.wire, llm.catalogue, llm.kinds, executions.engine.worker
print([name for name in ("pydantic_ai", "openai", "anthropic", "genai_prices") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
