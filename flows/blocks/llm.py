"""`blox.llm`: one question to a model."""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from flows.blocks.asking import (
    LISTENER_KEYS,
    PROMPT_INPUT,
    AnswerDoesNotFit,
    AskingConfig,
    Prompt,
    check_stop,
    fitting,
    given_up,
    repair_turn,
    schema_remarks,
    user_text,
    value_of,
)
from flows.blocks.base import JSON, Block, Context, Effects, Remark
from llm.exchange import Message, Request, UserMessage


class LlmConfig(AskingConfig):
    system: Prompt = Field("", description="Instructions that stand before the question.")
    prompt: Prompt = Field("", description="The question; the payload when left out. May stand on the listener.")
    max_tokens: int | None = Field(
        None, ge=1, le=1_000_000, description="Of the answer; one that is cut there is an error."
    )


class Llm(Block):
    name = "blox.llm"
    title = "Language model"
    description = (
        "Asks a model once, and gives its answer: text, or by `schema` an object. An answer that does not fit the schema is"
        " sent back once with what is wrong; then the step fails (`answer_does_not_fit`). Metered, and tried three times when"
        " left without `retry`; an answer that came is never asked for again, whatever crashes."
    )
    category = "ai"
    Config = LlmConfig
    raw_fields: ClassVar[frozenset[str]] = frozenset({"schema"})
    listener_keys: ClassVar[frozenset[str]] = LISTENER_KEYS
    default_attempts: ClassVar[int] = 3
    default_timeout: ClassVar[float] = 120.0
    example: ClassVar[str] = """\
- name: sort_mail
  handler: blox.llm
  config:
    model: anthropic:claude-haiku-4-5
    system: You sort a shop's mail.
    prompt: "{{ payload.subject }}: {{ payload.text }}"
    temperature: 0
    schema:
      type: object
      properties:
        kind: {enum: [order, complaint, other]}
        urgent: {type: boolean}
      required: [kind, urgent]
  peers: [route]
"""

    def effects(self, config: Mapping[str, Any]) -> Effects:
        return Effects.REPEATABLE

    def tool_schema(self, config: Mapping[str, Any]) -> dict[str, Any]:
        return {} if config.get("prompt") else PROMPT_INPUT

    def remarks(self, config: Mapping[str, Any]) -> list[Remark]:
        return schema_remarks(config)

    async def run(self, ctx: Context, config: LlmConfig, payload: JSON) -> JSON:
        question = UserMessage(config.prompt or user_text(payload))
        answer = await ctx.ask_model(_request(config, question))
        check_stop(answer)
        try:
            return value_of(answer, config.schema_)
        except AnswerDoesNotFit as problem:
            repair = repair_turn(answer, problem)
        answer = await ctx.ask_model(_request(config, question, *repair))
        check_stop(answer)
        try:
            return value_of(answer, config.schema_)
        except AnswerDoesNotFit as problem:
            raise given_up(problem) from None


def _request(config: LlmConfig, *messages: Message) -> Request:
    return Request(
        model=config.model,
        messages=messages,
        system=config.system,
        schema=config.schema_,
        fits=fitting(config.schema_),
        temperature=config.temperature,
        max_tokens=config.max_tokens,
        fallback=tuple(config.fallback),
        **config.cache_options(),
    )
