"""What is known of models: prices and context sizes, out of genai-prices' data as it was installed.

Nothing is fetched. What is not known is None, and never zero. genai-prices costs 10 MB, so it is imported at first use.
"""

import functools
import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from bloxserver.core.words import closest
from llm.exchange import AssistantMessage, Message, Request, ToolResult, Usage, UserMessage
from llm.kinds import PROVIDERS

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo as Entry
    from genai_prices.types import ModelPrice

BYTES_A_TOKEN = 3  # of UTF-8: English has 4 or more, Chinese 3, so an estimate errs to the safe side
LONG_TOKEN_BYTES = 5  # no language's prose has longer tokens on the whole
TOKENS_A_MESSAGE = 8  # that stand around it


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """One model of a known provider. Prices are US dollars for a million tokens, those of the shortest prompts."""

    provider: str
    model: str
    context_tokens: int | None
    price_in: Decimal | None
    price_out: Decimal | None


def split(name: str) -> tuple[str | None, str]:
    """Provider and model of `provider:model`; the provider is None where none is named ("llama3:8b" is a model)."""
    provider, colon, model = name.partition(":")
    return (provider, model) if colon and provider in PROVIDERS else (None, name)


def find(name: str, at: datetime | None = None) -> ModelInfo | None:
    """The model `provider:model`, or a bare one of the first known provider that has it; its price at `at` (None: now).

    A known provider may serve models that this knows nothing of, and other providers are not in the data.
    """
    provider, model = split(name)
    for each in PROVIDERS if provider is None else (provider,):
        entry = _entry(each, model)
        if entry is not None:
            return _info(each, model, entry, at or datetime.now(UTC))
    return None


def is_known(provider: str, model: str) -> bool:
    return _entry(provider, model) is not None


def nearest(name: str) -> str | None:
    """The known model whose name is most like `name`, written as `name` is; None where none is."""
    provider, model = split(name)
    if provider is not None:
        alike = closest(model, _names(provider))
        return None if alike is None else f"{provider}:{alike}"
    return closest(model, [each for known in PROVIDERS for each in _names(known)])


def cost(provider: str, model: str, usage: Usage, at: datetime) -> Decimal | None:
    """What `usage` cost at `at`, in US dollars; None where the price is not known."""
    entry = _entry(provider, model)
    price = None if entry is None else _price(entry, at)
    if price is None:
        return None
    from genai_prices import Usage as Counted

    counted = Counted(
        input_tokens=usage.tokens_in,
        output_tokens=usage.tokens_out,
        cache_read_tokens=min(usage.cached, usage.tokens_in),
    )
    return price.calc_price(counted)["total_price"]


def upper_cost(provider: str, model: str, *, tokens_in: int, max_tokens: int, at: datetime) -> Decimal | None:
    """What a call can cost at most that reads `tokens_in` (`estimate_tokens`) and says up to `max_tokens`."""
    return cost(provider, model, Usage(tokens_in, max_tokens), at=at)


def has_price(name: str, at: datetime) -> bool:
    """Whether it is known what the model `name` costs."""
    found = find(name, at)
    return found is not None and found.price_in is not None


def context_of(name: str) -> int | None:
    """How many tokens the model `name` takes in all; None where that is not known."""
    found = find(name)
    return None if found is None else found.context_tokens


def longest_answer(name: str) -> int | None:
    """To how many tokens the model `name` lets an answer be bounded; it refuses more. None where that is not known."""
    found = find(name)
    if found is None:
        return None
    longest = (
        tokens
        for provider, start, tokens in _LONGEST_ANSWERS
        if found.provider == provider and found.model.startswith(start)
    )
    return next(longest, None)


# genai-prices does not have them. The first that fits counts: what has a longer name stands before what begins it.
_LONGEST_ANSWERS = (
    ("anthropic", "claude-3-5", 8_192),
    ("anthropic", "claude-3-7", 64_000),
    ("anthropic", "claude-3", 4_096),
    ("anthropic", "claude-opus-4", 32_000),
    ("anthropic", "claude-", 64_000),
    ("openai", "gpt-3.5", 4_096),
    ("openai", "gpt-4-", 4_096),
    ("openai", "gpt-4o-2024-05-13", 4_096),
    ("openai", "gpt-4o", 16_384),
    ("openai", "gpt-4.1", 32_768),
    ("openai", "gpt-5-chat", 16_384),
    ("openai", "gpt-5", 128_000),
    ("openai", "o1-mini", 65_536),
    ("openai", "o1-preview", 32_768),
    ("openai", "o1", 100_000),
    ("openai", "o3", 100_000),
    ("openai", "o4", 100_000),
)


def affordable_answer(name: str, *, tokens_in: int, money: Decimal, at: datetime) -> int | None:
    """How long an answer of the model `name` can be, in tokens, for `money` (US dollars) after it has read `tokens_in`.

    Below zero where reading alone costs more. None where the price is not known.
    """
    found = find(name, at)
    read = None if found is None else cost(found.provider, found.model, Usage(tokens_in, 0), at=at)
    if found is None or read is None:
        return None
    with_answer = cost(found.provider, found.model, Usage(tokens_in, 1_000), at=at)
    if with_answer is None or with_answer <= read:
        return None  # it says what it says for nothing
    return math.floor((money - read) * 1_000 / (with_answer - read))


def is_surely_over(tokens: int, context: int) -> bool:
    """Whether what was estimated at `tokens` is more than `context` even where the estimate is far too high."""
    return tokens * BYTES_A_TOKEN > context * LONG_TOKEN_BYTES


def estimate_tokens(request: Request) -> int:
    """How many tokens go in, rather too many than too few. Cheap: no tokenizer."""
    size = len(request.messages) * TOKENS_A_MESSAGE + estimate_text(request.system)
    size += sum(_estimate_message(message) for message in request.messages)
    for tool in request.tools:
        size += TOKENS_A_MESSAGE + estimate_text(tool.name + tool.description) + _estimate_json(tool.input_schema)
    return size + (_estimate_json(request.schema) if request.schema is not None else 0)


def estimate_text(text: str) -> int:
    return -(-len(text.encode("utf-8", "surrogatepass")) // BYTES_A_TOKEN)


def _estimate_json(value: Any) -> int:
    return estimate_text(json.dumps(value, ensure_ascii=False))


def _estimate_message(message: Message) -> int:
    match message:
        case UserMessage(text=text):
            return estimate_text(text)
        case ToolResult(content=content):
            return estimate_text(content)
        case AssistantMessage(text=text, calls=calls):
            return estimate_text(text) + sum(
                TOKENS_A_MESSAGE + estimate_text(call.name) + _estimate_json(call.arguments) for call in calls
            )


def _info(provider: str, model: str, entry: "Entry", at: datetime) -> ModelInfo:
    price = _price(entry, at)
    return ModelInfo(
        provider,
        model,
        entry.context_window,
        None if price is None else _base(price.input_mtok),
        None if price is None else _base(price.output_mtok),
    )


def _base(price: Any) -> Decimal:
    """Of a price that grows with the prompt, the least."""
    return price if isinstance(price, Decimal) else price.base


def _price(entry: "Entry", at: datetime) -> "ModelPrice | None":
    """None where it is not one by tokens in and out: genai-prices takes a part that is not known for nothing."""
    price = entry.get_prices(at)
    return None if price.input_mtok is None or price.output_mtok is None else price


@functools.lru_cache(4096)  # names are tenants'
def _entry(provider: str, model: str) -> "Entry | None":
    """Of a model of text, as genai-prices matches names: dated versions, `-latest`."""
    known = PROVIDERS.get(provider)
    if known is None or not model:
        return None
    return _provider(known.prices).find_model(model.lower())


@functools.cache
def _provider(prices: str) -> Any:
    from genai_prices.data_snapshot import get_snapshot

    return get_snapshot().find_provider(None, prices, None)


@functools.cache
def _names(provider: str) -> tuple[str, ...]:
    """Of models of text that are not on their way out."""
    entries = _provider(PROVIDERS[provider].prices).models
    return tuple(entry.id for entry in entries if not entry.deprecated and entry.context_window)
