"""A block of another package that asks a model, again and again, as an agent does."""

from collections.abc import Mapping
from typing import Any, ClassVar

from flows.blocks.base import JSON, Block, BlockConfig, BlockError, Context, Effects
from llm.exchange import Message, Request, UserMessage


class AskerConfig(BlockConfig):
    model: str = "acme:echo-1"
    fallback: list[str] = []
    system: str = ""
    turns: int = 1
    tool: str = ""  # a peer that is called after each turn but the last, with what the model said
    then: str = ""  # what it fails with after the last


class Asker(Block):
    name = "acme.asker"
    title = "Asker"
    description = "Asks a model."
    category = "data"
    Config = AskerConfig
    example: ClassVar[str] = "- {name: ask, handler: acme.asker, config: {model: acme:echo-1}}\n"

    def effects(self, config: Mapping[str, Any]) -> Effects:
        return Effects.REPEATABLE

    def called_peers(self, config: Mapping[str, Any]) -> list[str]:
        return [config["tool"]] if "tool" in config else []

    async def run(self, ctx: Context, config: AskerConfig, payload: JSON) -> JSON:
        messages: list[Message] = []
        answers: list[str] = []
        told: JSON = payload
        for turn in range(config.turns):
            messages.append(UserMessage(f"{turn + 1}: {told}"))
            request = Request(
                config.model,
                tuple(messages),
                system=config.system,
                fallback=tuple(config.fallback),
                cache="off",
            )
            answer = await ctx.ask_model(request)
            messages.append(answer.message)
            answers.append(answer.text)
            if config.tool and turn + 1 < config.turns:
                told = await ctx.call(config.tool, answer.text)
        if config.then:
            raise BlockError(config.then)
        return answers
