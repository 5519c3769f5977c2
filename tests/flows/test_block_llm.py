"""`blox.llm`: one question to a model, its answer as text or as an object."""

from typing import Any

import pytest

from flows.blocks.base import BlockError, Effects
from flows.blocks.llm import Llm
from llm.exchange import Answer, AssistantMessage, UserMessage
from tests.flows.fakes import FakeContext, run_block, said

pytestmark = pytest.mark.once

MODEL = {"model": "openai:gpt-5"}
SCHEMA = {"type": "object", "properties": {"urgent": {"type": "boolean"}}, "required": ["urgent"]}


def ask(config: dict[str, Any], *answers: Answer | BlockError, payload: Any = "Hello") -> tuple[Any, FakeContext]:
    ctx = FakeContext(answers=answers)
    return run_block(Llm(), {**MODEL, **config}, payload, ctx), ctx


def failure(config: dict[str, Any], *answers: Answer) -> BlockError:
    with pytest.raises(BlockError) as caught:
        ask(config, *answers)
    return caught.value


def test_every_option_reaches_the_model() -> None:
    config = {
        "system": "Be brief.",
        "prompt": "Name a colour.",
        "temperature": 0.5,
        "max_tokens": 100,
        "fallback": ["anthropic:claude-haiku-4-5"],
        "cache": {"mode": "semantic", "threshold": 0.8},
    }
    value, ctx = ask(config, said("Blue"))
    [request] = ctx.requests
    assert value == "Blue"
    assert request.messages == (UserMessage("Name a colour."),)
    assert (request.model, request.system, request.temperature, request.max_tokens) == (
        "openai:gpt-5",
        "Be brief.",
        0.5,
        100,
    )
    assert (request.fallback, request.cache, request.cache_threshold) == (
        ("anthropic:claude-haiku-4-5",),
        "semantic",
        0.8,
    )


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        ("Hi", "Hi"),
        ({"a": [1]}, '{"a":[1]}'),
        ({"prompt": "Why?"}, "Why?"),
        (None, "(no input)"),
        ("", "(no input)"),
        ("\ud83d", "?"),
    ],
)
def test_without_a_prompt_the_payload_is_the_question(payload: Any, text: str) -> None:
    _, ctx = ask({}, said("x"), payload=payload)
    assert ctx.requests[0].messages == (UserMessage(text),)


@pytest.mark.parametrize("text", ['{"urgent": true}', ' \n{"urgent":true}'])
def test_a_schema_makes_the_answer_an_object(text: str) -> None:
    value, ctx = ask({"schema": SCHEMA}, said(text))
    assert value == {"urgent": True}
    assert ctx.requests[0].schema == SCHEMA


@pytest.mark.parametrize(
    ("text", "reason"),
    [('{"urgent": "yes"}', "At $.urgent: 'yes' is not of type 'boolean'"), ("Yes!", "no JSON"), ("NaN", "no JSON")],
)
def test_an_answer_that_does_not_fit_is_sent_back_once_with_the_reason(text: str, reason: str) -> None:
    value, ctx = ask({"schema": SCHEMA}, said(text), said('{"urgent": false}'))
    assert value == {"urgent": False}
    first, answer, repair = ctx.requests[1].messages
    assert (first, answer) == (UserMessage("Hello"), AssistantMessage(text))
    assert isinstance(repair, UserMessage)
    assert reason in repair.text


def test_a_second_misfit_ends_it_with_path_and_reason() -> None:
    error = failure({"schema": SCHEMA}, said("{}"), said('{"urgent": 1}'))
    assert (error.code, error.retryable) == ("answer_does_not_fit", False)
    assert "At $.urgent: 1 is not of type 'boolean'" in error.message


def test_an_answer_that_was_cut_or_refused_is_an_error() -> None:
    cut = failure({}, said("Once upon", stop="length"))
    assert (cut.code, cut.retryable) == ("answer_cut", False)
    refused = failure({}, said("I cannot.", stop="refused"))
    assert refused.code == "content_refused"
    assert "I cannot." in refused.message


def test_what_is_on_record_is_not_asked_again() -> None:
    ctx = FakeContext(answers=[said("Blue")])
    run_block(Llm(), MODEL, "x", ctx)
    again = FakeContext(journal=ctx.journal)
    assert run_block(Llm(), MODEL, "x", again) == "Blue"
    assert again.requests == []


def test_a_model_call_may_be_repeated_and_has_time() -> None:
    assert Llm().effects({}) is Effects.REPEATABLE
    assert (Llm.default_attempts, Llm.default_timeout) == (3, 120.0)


@pytest.mark.parametrize(
    "text", ['{"urgent": true, "n": 1e999}', '{"urgent": true, "n": ' + "[" * 200 + "]" * 200 + "}"]
)
def test_an_answer_that_could_not_be_kept_is_sent_back(text: str) -> None:
    value, ctx = ask({"schema": SCHEMA}, said(text), said('{"urgent": true}'))
    assert value == {"urgent": True}
    assert "It is no JSON" in str(ctx.requests[1].messages[-1])


def test_a_prompt_that_no_model_takes_is_refused_before_anybody_is_asked() -> None:
    error = failure({"model": "openai:gpt-4o", "fallback": ["gpt-4o-mini"], "prompt": "word " * 150_000})
    assert (error.code, error.retryable) == ("context_too_long", False)
    assert "openai:gpt-4o: about 250,0" in error.message and "128,000" in error.message


def test_a_prompt_is_sent_to_a_fallback_that_has_room_for_it() -> None:
    _, ctx = ask(
        {"model": "openai:gpt-4o", "fallback": ["openai:gpt-4.1", "acme:m"], "prompt": "word " * 150_000}, said("x")
    )
    assert (ctx.requests[0].model, ctx.requests[0].fallback) == ("openai:gpt-4.1", ("acme:m",))
