"""What the blocks that ask a model share: their options, and what is made of an answer."""

import json
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag

from flows.blocks.base import JSON, BlockConfig, BlockError, Remark
from flows.json_schemas import misfit, schema_problem
from flows.organism.templates import as_text
from llm.exchange import Answer, AssistantMessage, CacheMode, Message, UserMessage

MAX_FALLBACKS = 10
MAX_PROMPT = 1_000_000  # characters, once rendered; what a model takes is less, and its provider says so
NO_INPUT = "(no input)"  # providers refuse an empty message
LISTENER_KEYS = frozenset({"model", "prompt", "fallback", "cache"})

_MODEL_NAME = re.compile(r"(?:[A-Za-z][A-Za-z0-9_.-]*:)?[^\s:{}][^\s{}]*")
_FENCED = re.compile(r"```(?:json)?\s*\n(.*)\n\s*```", re.DOTALL)


def _model_name(name: str) -> str:
    if not _MODEL_NAME.fullmatch(name):
        raise ValueError(f"{name[:80]!r} is no model; write provider:model, as in anthropic:claude-sonnet-4-5")
    return name


ModelName: TypeAlias = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_model_name)]
Prompt: TypeAlias = Annotated[str, BeforeValidator(as_text), Field(max_length=MAX_PROMPT)]


class CacheConfig(BlockConfig):
    mode: CacheMode = Field(description="As `cache` by itself.")
    threshold: float = Field(
        0.92, ge=0.5, le=1, description="For `semantic`: how alike two requests must be, 0.5 to 1."
    )


def word_or_options(value: Any) -> str:
    """Which of an option's two forms a value has, so that what is wrong with it is said of that form alone."""
    return "word" if isinstance(value, str) else "options"


class AskingConfig(BlockConfig):
    """What any question to a model may say."""

    model: ModelName = Field(description="`provider:model`, or a bare model. May stand on the listener.")
    fallback: list[ModelName] = Field(
        [],
        max_length=MAX_FALLBACKS,
        description="Models that are asked, in this order, when no provider of `model` answers. May stand on the listener.",
    )
    cache: Annotated[
        Annotated[CacheMode, Tag("word")] | Annotated[CacheConfig, Tag("options")], Discriminator(word_or_options)
    ] = Field(
        "exact",
        description="`exact`: an answer to the same request is given again, for a time that shrinks with the temperature,"
        " and never without one; `semantic`: also one to a request that is nearly the same, or `{mode: semantic,"
        " threshold}`; `off`. May stand on the listener.",
    )
    temperature: float | None = Field(None, ge=0, le=2, description="The provider's default when left out.")
    schema_: dict[str, Any] | None = Field(
        None,
        alias="schema",
        description="The JSON Schema of the answer, which is then an object by it. Placeholders in it are not filled in.",
    )

    def cache_options(self) -> dict[str, Any]:
        """`cache` as arguments of a `Request`."""
        if isinstance(self.cache, CacheConfig):
            return {"cache": self.cache.mode, "cache_threshold": self.cache.threshold}
        return {"cache": self.cache}


def schema_remarks(config: Mapping[str, Any]) -> list[Remark]:
    """What is wrong with the config's `schema`."""
    schema = config.get("schema")
    problem = schema_problem(schema) if isinstance(schema, dict) else None
    if problem is None and isinstance(schema, dict) and schema.get("type") != "object":
        problem = (), 'The schema of an answer has "type: object": providers take no other. Put a list into a property.'
    return [] if problem is None else [Remark(("schema", *problem[0]), problem[1])]


PROMPT_INPUT: dict[str, Any] = {
    "type": "object",
    "properties": {"prompt": {"type": "string", "description": "What is asked, with all that is needed to answer it."}},
    "required": ["prompt"],
}


def user_text(payload: JSON) -> str:
    """A payload as what the user says: a text as it is, {prompt} as its text, anything else as JSON."""
    if isinstance(payload, dict) and payload.keys() == {"prompt"} and isinstance(payload["prompt"], str):
        payload = payload["prompt"]
    return as_text(payload) or NO_INPUT


class AnswerDoesNotFit(Exception):
    """An answer is no JSON that fits the schema; the message says where and why."""


def value_of(answer: Answer, schema: dict[str, Any] | None) -> JSON:
    """The answer's text, or with a schema the value that it is. Raises `AnswerDoesNotFit`."""
    if schema is None:
        return answer.text
    text = answer.text.strip()
    if fenced := _FENCED.fullmatch(text):
        text = fenced[1]
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise AnswerDoesNotFit(f"It is no JSON: {error}") from None
    if reason := misfit(value, schema):
        raise AnswerDoesNotFit(reason)
    return value


def fitting(schema: dict[str, Any] | None) -> Callable[[str], bool] | None:
    """A request's `fits`: whether a text is an answer that `value_of` takes."""
    if schema is None:
        return None

    def fits(text: str) -> bool:
        try:
            value_of(Answer(text), schema)
        except AnswerDoesNotFit:
            return False
        return True

    return fits


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def repair_turn(answer: Answer, problem: AnswerDoesNotFit) -> tuple[Message, Message]:
    """The answer that does not fit, and what the model is told of it."""
    said = AssistantMessage(answer.text or "(nothing)")
    return said, UserMessage(
        f"This answer does not fit the JSON Schema. {problem}. Answer again, with nothing but JSON that fits it."
    )


def given_up(problem: AnswerDoesNotFit) -> BlockError:
    """The answer did not fit, and neither did the second. Its attempts would find both on record."""
    return BlockError(
        f"The model's answer does not fit the schema, also when asked again. {problem}. Say in the prompt what is wanted, "
        "make the schema simpler, or take another model.",
        code="answer_does_not_fit",
        retryable=False,
    )


def check_stop(answer: Answer) -> None:
    """Raises `BlockError` for an answer that is not whole."""
    if answer.stop == "length":
        raise BlockError(
            f"The model's answer was cut after {answer.usage.tokens_out:,} tokens. Raise max_tokens, or ask for less.",
            code="answer_cut",
            retryable=False,
        )
    if answer.stop == "refused":
        said = f": {answer.text[:300]}" if answer.text else "."
        raise BlockError(f"The model refused to answer{said}", code="content_refused", retryable=False)
