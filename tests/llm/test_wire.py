"""The real SDKs against a server that speaks the providers' wire formats."""

import asyncio
import logging
import subprocess
import sys
from typing import Any

import pytest
from pytest_django import Settings

from llm.errors import Failure, ProviderFailed
from llm.exchange import (
    Answer,
    AssistantMessage,
    Endpoint,
    Request,
    Tool,
    ToolCall,
    ToolResult,
    Usage,
    UserMessage,
)
from llm.wire import call, check_key, close_clients
from llm.wire.http import loop_client
from tests.llm import model_server as served
from tests.llm.model_server import ModelServer, Reply, calls, fail, text
from tests.local_server import Received, answer, serving

pytestmark = pytest.mark.once

KEY = "sk-secret-0123456789abcdef"
KINDS = ("anthropic", "openai", "openai-responses")
MODELS = {"anthropic": "claude-sonnet-4-5", "openai": "gpt-4o-mini", "openai-responses": "gpt-4o-mini"}
PROVIDERS = {"anthropic": "anthropic", "openai": "openai", "openai-responses": "openai"}
EACH_KIND = pytest.mark.parametrize("kind", KINDS)
SAYS = pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
QUESTION = (UserMessage("What is the answer?"),)
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


def at(server: ModelServer, kind: Any = "openai", **other: Any) -> Endpoint:
    url = server.url if kind == "anthropic" else f"{server.url}/v1"
    values = {"provider": PROVIDERS[kind], "model": MODELS[kind], "base_url": url, "api_key": KEY, **other}
    return Endpoint(id="row-1", kind=kind, **values)


def ask(
    endpoint: Endpoint,
    request: Request | None = None,
    *,
    heard: list[str] | None = None,
    timeout: float = 5.0,
    **of: Any,
) -> Answer:
    request = request or Request(endpoint.model, **{"messages": QUESTION, **of})

    async def run() -> Answer:
        try:
            on_text = None if heard is None else heard.append
            return await call(endpoint, request, on_text=on_text, timeout=timeout)
        finally:
            await close_clients()

    return asyncio.run(run())


def failure(endpoint: Endpoint, *, heard: list[str] | None = None, timeout: float = 5.0, **of: Any) -> ProviderFailed:
    with pytest.raises(ProviderFailed) as caught:
        ask(endpoint, heard=heard, timeout=timeout, **of)
    return caught.value


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


# What goes wrong. ------------------------------------------------------------------------------------------------
EVERYWHERE = [
    (fail(429, {"Retry-After": "7"}), Failure.RATE_LIMITED),
    (fail(500), Failure.UNAVAILABLE),
    (fail(503, body="<html>"), Failure.UNAVAILABLE),
    (fail(529), Failure.UNAVAILABLE),
    (fail(302, {"Location": "/v1/elsewhere"}), Failure.UNAVAILABLE),
    (served.cut(), Failure.UNAVAILABLE),
    (served.unfinished(), Failure.UNAVAILABLE),
    (served.error_event(), Failure.UNAVAILABLE),
    (served.garbage(), Failure.BAD_ANSWER),
    (fail(401), Failure.KEY_REFUSED),
    (fail(403), Failure.KEY_REFUSED),
    (fail(402), Failure.KEY_REFUSED),
    (fail(404), Failure.MODEL_UNKNOWN),
    (fail(400, message="prompt is too long: 300000 tokens > 200000"), Failure.CONTEXT_TOO_LONG),
    (fail(413), Failure.CONTEXT_TOO_LONG),
    (fail(422), Failure.REQUEST_REFUSED),
    (fail(400, code="content_filter"), Failure.CONTENT_REFUSED),
]


@pytest.mark.parametrize(("reply", "expected"), EVERYWHERE)
def test_each_failure_says_what_it_means(model_server: ModelServer, reply: Reply, expected: Failure) -> None:
    for kind in KINDS:
        for streamed in (False, True):
            model_server.script(reply)
            got = failure(at(model_server, kind), heard=[] if streamed else None)
            assert got.failure is expected, (kind, streamed, got)
            assert PROVIDERS[kind] in got.message or MODELS[kind] in got.message
    assert len(model_server.log) == 6  # each was asked once: retries are the caller's


@pytest.mark.parametrize(
    ("kind", "reply", "expected"),
    [
        ("openai", fail(429, code="insufficient_quota"), Failure.KEY_REFUSED),
        ("openai", fail(400, code="context_length_exceeded"), Failure.CONTEXT_TOO_LONG),
        ("openai", fail(400, message="Incorrect API key provided: xa***ng."), Failure.KEY_REFUSED),
        ("openai", fail(400, message="The model `gpt-nope` does not exist."), Failure.MODEL_UNKNOWN),
        ("anthropic", fail(400, message="Your credit balance is too low to access the API."), Failure.KEY_REFUSED),
    ],
)
def test_a_providers_own_words_are_understood(
    model_server: ModelServer, kind: str, reply: Reply, expected: Failure
) -> None:
    model_server.script(reply)

    assert failure(at(model_server, kind)).failure is expected


@pytest.mark.parametrize(
    ("header", "least", "most"),
    [("7", 7, 7), ("Fri, 01 Jan 2100 00:00:00 GMT", 86_400, 1e10), ("soon", None, None), ("-3", None, None)],
)
def test_the_wait_that_a_provider_asks_for_is_told(
    model_server: ModelServer, header: str, least: float | None, most: float | None
) -> None:
    model_server.script(fail(429, {"Retry-After": header}))

    wait = failure(at(model_server)).retry_after

    assert (wait is None) if least is None or most is None else (wait is not None and least <= wait <= most)


@EACH_KIND
@SAYS
def test_a_provider_that_is_slow_is_left_in_time(model_server: ModelServer, kind: str, streamed: bool) -> None:
    slow = text("a b c d e f", pause=0.1) if streamed else served.slow(2)  # it drips, so that no read takes long
    model_server.script(slow)

    got = failure(at(model_server, kind), heard=[] if streamed else None, timeout=0.25)

    assert (got.failure, got.message) == (Failure.TIMEOUT, f"{PROVIDERS[kind]} did not answer within 0.25 seconds.")


def test_a_private_address_is_not_reached(model_server: ModelServer, settings: Settings) -> None:
    settings.BLOX_HTTP_ALLOW = []

    got = failure(at(model_server))

    assert got.failure is Failure.UNAVAILABLE and f"BLOX_HTTP_ALLOW={model_server.host}" in got.message
    assert model_server.log == []


def test_a_server_that_is_not_there_is_unavailable(model_server: ModelServer, settings: Settings) -> None:
    settings.BLOX_HTTP_ALLOW = ["127.0.0.1:1"]

    got = failure(at(model_server, base_url="http://127.0.0.1:1/v1"))

    assert got.failure is Failure.UNAVAILABLE and "openai gave no answer" in got.message


def test_a_provider_without_a_base_url_says_so(model_server: ModelServer) -> None:
    got = failure(at(model_server, provider="acme", base_url=""))

    assert got.message == "The provider acme has no base URL; give it one."


@SAYS
def test_an_answer_without_end_is_left(settings: Settings, streamed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm.wire.http.MAX_ANSWER_BYTES", 100_000)

    def endless(_: Received) -> Any:
        kind = b"text/event-stream" if streamed else b"application/json"
        yield b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: " + kind + b"\r\n\r\n"
        while True:
            yield b": nothing\n\n" * 1000

    with serving(endless) as server:
        settings.BLOX_HTTP_ALLOW = [f"{server.host}:{server.port}"]
        endpoint = Endpoint("row-1", "acme", "openai", "m", server.url, KEY)
        assert "larger than" in failure(endpoint, heard=[] if streamed else None).message


@EACH_KIND
@pytest.mark.parametrize(("key", "prompt"), [("sk-bad\nkey", "x"), ("sk-bad", "\ud800")])
def test_what_cannot_be_sent_is_refused_without_saying_the_key(
    model_server: ModelServer, kind: str, key: str, prompt: str
) -> None:
    got = failure(at(model_server, kind, api_key=key), messages=(UserMessage(prompt),))

    assert got.failure is Failure.REQUEST_REFUSED and "cannot be sent" in got.message and "bad" not in got.message


@pytest.mark.parametrize("url", ["nonsense", "http://[", "ftp://127.0.0.1/v1", "http://user:pw@127.0.0.1/v1"])
def test_a_base_url_that_is_none_makes_an_endpoint_unavailable(model_server: ModelServer, url: str) -> None:
    got = failure(at(model_server, base_url=url))

    assert got.failure is Failure.UNAVAILABLE and "pw" not in got.message


def test_an_answer_that_is_compressed_without_being_asked_for_is_refused(settings: Settings) -> None:
    with serving(lambda _: answer(200, b"\x1f\x8b", Content_Encoding="gzip")) as server:
        settings.BLOX_HTTP_ALLOW = [f"{server.host}:{server.port}"]
        got = failure(Endpoint("row-1", "acme", "openai", "m", server.url, KEY))
        assert "compressed" in got.message and server.received[0].headers["accept-encoding"] == "identity"


@EACH_KIND
def test_no_key_is_in_an_error_its_causes_or_the_log(
    model_server: ModelServer, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for reply in [fail(401, message=f"bad key {KEY}"), fail(429, message=f"slow down {KEY}"), served.garbage()]:
        model_server.script(reply)
        got = failure(at(model_server, kind))
        assert got.__cause__ is None and got.__context__ is None and KEY not in got.message
        assert reply.status != 429 or "slow down ***" in got.message
    assert KEY not in caplog.text and QUESTION[0].text not in caplog.text and KEY not in repr(at(model_server, kind))


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
