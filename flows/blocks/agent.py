"""`blox.agent`: a model that calls tools until it has an answer."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag

from flows.blocks.asking import LISTENER_KEYS, PROMPT_INPUT, AskingConfig, Prompt, schema_remarks, word_or_options
from flows.blocks.base import JSON, Block, BlockConfig, Context, Effects, Remark
from flows.blocks.conversation import Conversation
from flows.organism.templates import as_text

MAX_MEMORY_KEY = 255  # characters
MAX_REMEMBERED = 50  # exchanges


class MemoryConfig(BlockConfig):
    kind: Literal["execution", "flow"] = Field(description="How long it lasts.")
    key: Annotated[str, BeforeValidator(as_text)] = Field(
        "",
        max_length=MAX_MEMORY_KEY,
        description="Whose memory it is, as `{{ payload.customer }}`; all share one without.",
    )
    max_turns: int = Field(
        20,
        ge=1,
        le=MAX_REMEMBERED,
        description="How many of the latest exchanges (message and answer) the model is given.",
    )


class AgentConfig(AskingConfig):
    prompt: Prompt = Field(
        "", description="The instructions; what the agent is asked is the payload. May stand on the listener."
    )
    max_turns: int = Field(20, ge=1, le=200, description="How often the model is asked at most.")
    max_tokens: int | None = Field(
        None,
        ge=1,
        le=100_000_000,
        description="Tokens in and out, all turns together; each answer is bounded by what is left. Tools that are agents"
        " have their own.",
    )
    max_cost: Decimal | None = Field(
        None,
        gt=0,
        le=100_000,
        description="US dollars, all turns together; each answer is bounded by what is left. A model whose price is not known"
        " ends the agent (`cost_unknown`).",
    )
    approve: list[str] = Field([], description="The tools that wait for a person's yes before each call, for a week.")
    memory: Annotated[
        Annotated[Literal["execution", "flow"], Tag("word")] | Annotated[MemoryConfig, Tag("options")],
        Discriminator(word_or_options),
    ] = Field(
        "execution",
        description="`execution`: it begins anew with each message that reaches it; `flow`: it is given what was said and"
        " answered in earlier executions, or `{kind: flow, key, max_turns}`. May stand on the listener.",
    )

    @property
    def flow_memory(self) -> MemoryConfig | None:
        """How it remembers from one execution to the next; None where it does not."""
        memory = MemoryConfig(kind=self.memory) if isinstance(self.memory, str) else self.memory  # type: ignore[call-arg]
        return memory if memory.kind == "flow" else None


class Agent(Block):
    name = "blox.agent"
    title = "Agent"
    description = (
        "Asks a model, runs the tools that it calls (the listener's peers, in parallel) and gives it their results, until it"
        " answers without a call: text, or by `schema` an object, which goes to the listener's `next`. Turns and results are"
        " on record: after a crash, a wait or a failed attempt it goes on where it was and pays for nothing twice."
    )
    category = "ai"
    Config = AgentConfig
    raw_fields: ClassVar[frozenset[str]] = frozenset({"schema"})
    listener_keys: ClassVar[frozenset[str]] = LISTENER_KEYS | {"memory"}
    peers_are_tools: ClassVar[bool] = True
    default_attempts: ClassVar[int] = 3
    default_timeout: ClassVar[float] = 600.0
    example: ClassVar[str] = """\
- name: answer_customer
  handler: blox.agent
  agent: true
  model: anthropic:claude-sonnet-4-5
  prompt: You answer customers of a shop. Look an order up before you speak of it.
  config:
    max_turns: 10
    max_tokens: 50000
    approve: [refund]
  peers: [find_order, refund]
  next: [send_answer]
"""

    def effects(self, config: Mapping[str, Any]) -> Effects:
        return Effects.REPEATABLE

    def named_peers(self, config: Mapping[str, Any]) -> list[tuple[tuple[str | int, ...], str]]:
        approve = config.get("approve")
        names = enumerate(approve if isinstance(approve, list) else ())
        return [(("approve", index), name) for index, name in names if isinstance(name, str)]

    def tool_schema(self, config: Mapping[str, Any]) -> dict[str, Any]:
        return PROMPT_INPUT

    def remarks(self, config: Mapping[str, Any]) -> list[Remark]:
        return schema_remarks(config)

    async def run(self, ctx: Context, config: AgentConfig, payload: JSON) -> JSON:
        return await Conversation(ctx, config, payload).run()
