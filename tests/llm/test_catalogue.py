"""Models, prices and context sizes, as genai-prices has them."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from llm import catalogue
from llm.exchange import AssistantMessage, Request, Tool, ToolCall, ToolResult, Usage, UserMessage
from llm.kinds import key_form_error

pytestmark = pytest.mark.once

NOW = datetime(2026, 11, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("name", "provider", "context"),
    [
        ("anthropic:claude-sonnet-4-5", "anthropic", 200_000),
        ("anthropic:claude-sonnet-4-5-20250929", "anthropic", 200_000),
        ("gpt-4o-mini", "openai", 128_000),
        ("grok-4.5", "xai", None),
        ("together:Qwen/Qwen3.5-9B", "together", None),
    ],
)
def test_a_model_is_found_by_its_name(name: str, provider: str, context: int | None) -> None:
    found = catalogue.find(name, at=NOW)

    assert found is not None and found.provider == provider and found.price_in and found.price_out
    assert found.context_tokens and (context is None or found.context_tokens == context)


@pytest.mark.parametrize("name", ["gpt-nope", "openai:claude-sonnet-4-5", "acme:gpt-4o", "", "openai:", "llama3:8b"])
def test_what_is_not_known_is_none(name: str) -> None:
    assert catalogue.find(name, at=NOW) is None


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("gpt-5-minni", "gpt-5-mini"),
        ("anthropic:claude-sonnet-45", "anthropic:claude-sonnet-4-5"),
        ("xai:grok4.5", "xai:grok-4.5"),
        ("openai:zzzzzzzzzzzz", None),
    ],
)
def test_the_nearest_name_is_offered(name: str, meant: str | None) -> None:
    assert catalogue.nearest(name) == meant


@pytest.mark.parametrize(
    ("provider", "model", "usage", "cost"),
    [
        ("openai", "gpt-4o-mini", Usage(1_000_000, 0), "0.15"),
        ("openai", "gpt-4o-mini", Usage(0, 1_000_000), "0.60"),
        ("openai", "gpt-4o-mini", Usage(1_000_000, 0, 1_000_000), "0.075"),
        ("anthropic", "claude-sonnet-4-5", Usage(1000, 1000), "0.018"),
        ("anthropic", "claude-sonnet-4-5", Usage(0, 0), "0"),
        ("openai", "gpt-4o-mini", Usage(10, 0, 99), "0.00000075"),  # more from the cache than went in: all of it was
    ],
)
def test_a_call_costs_what_its_provider_asks(provider: str, model: str, usage: Usage, cost: str) -> None:
    assert catalogue.cost(provider, model, usage, at=NOW) == Decimal(cost)


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("openai", "gpt-nope"),
        ("acme", "gpt-4o-mini"),  # at another's place it has another price
        ("openai", "text-embedding-3-small"),  # half a price is none
        ("openai", "moderation"),
    ],
)
def test_an_unknown_price_is_never_zero(provider: str, model: str) -> None:
    assert catalogue.cost(provider, model, Usage(1000, 1000), at=NOW) is None
    assert catalogue.upper_cost(provider, model, tokens_in=1000, max_tokens=1000, at=NOW) is None


def test_what_is_reserved_is_never_less_than_what_is_paid() -> None:
    upper = catalogue.upper_cost("anthropic", "claude-sonnet-4-5", tokens_in=1000, max_tokens=500, at=NOW)
    paid = catalogue.cost("anthropic", "claude-sonnet-4-5", Usage(900, 500, 300), at=NOW)

    assert upper is not None and paid is not None and upper >= paid


def test_every_part_of_a_request_counts_in_the_estimate() -> None:
    plain = Request("m", (UserMessage("hello"),))
    call = AssistantMessage("so", (ToolCall("c1", "search", {"q": "x" * 300}),))
    more = [
        Request("m", (UserMessage("hello"),), system="s" * 300),
        Request("m", (UserMessage("hello"), call)),
        Request("m", (UserMessage("hello"), ToolResult("c1", "search", "r" * 300))),
        Request("m", (UserMessage("hello"),), tools=(Tool("search", "d" * 300, {}),)),
        Request("m", (UserMessage("hello"),), tools=(Tool("search", "", {"title": "t" * 300}),)),
        Request("m", (UserMessage("hello"),), schema={"title": "t" * 300}),
    ]

    assert all(catalogue.estimate_tokens(each) >= catalogue.estimate_tokens(plain) + 100 for each in more)


@pytest.mark.parametrize(
    ("text", "least"), [("one two three four. " * 10, 50), ("敏捷的棕色狐狸" * 10, 70), ("\ud800", 1)]
)
def test_an_estimate_is_on_the_safe_side(text: str, least: int) -> None:
    assert catalogue.estimate_text(text) >= least  # of OpenAI's tokenizer, or one for each Chinese character


@pytest.mark.parametrize(
    ("provider", "key", "good"),
    [
        ("anthropic", "sk-ant-api03-abcdefghijklmnop", True),
        ("anthropic", "sk-proj-abcdefghijklmnopqrst", False),
        ("openai", "sk-proj-abcdefghijklmnopqrst", True),
        ("openai", "sk-ant-api03-abcdefghijklmnop", False),
        ("openai", "sk-proj-abcdefghijklmnopqrst\n", False),
        ("xai", "xai-abcdefghijklmnopqrst", True),
        ("together", "0123456789abcdef" * 4, True),
        ("acme", "anything-goes", True),
        ("acme", "but no spaces", False),
    ],
)
def test_a_key_has_its_providers_form(provider: str, key: str, good: bool) -> None:
    error = key_form_error(provider, key)

    assert (error is None) is good
    assert error is None or key not in error


@pytest.mark.parametrize(
    ("name", "longest"),
    [("openai:gpt-5-mini", 128_000), ("gpt-4o-mini", 16_384), ("openai:gpt-4-turbo", 4_096), ("acme:gpt-5", None)],
)
def test_how_long_an_answer_a_model_can_be_asked_for_is_known_of_some(name: str, longest: int | None) -> None:
    assert catalogue.longest_answer(name) == longest


def test_money_buys_an_answer_after_the_question_is_paid_for() -> None:
    def affordable(money: str) -> int | None:
        return catalogue.affordable_answer("openai:gpt-4o-mini", tokens_in=1_000_000, money=Decimal(money), at=NOW)

    assert (affordable("0.75"), affordable("0.15")) == (1_000_000, 0)
    assert (affordable("0.10") or 0) < 0
    assert catalogue.affordable_answer("acme:m", tokens_in=1, money=Decimal(1), at=NOW) is None
