"""What is asked of a model and what comes back, whichever provider answers. Plain values, no Django."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from typing import Any, Literal, Self, TypeAlias
from uuid import UUID

from llm.kinds import Wire

CacheMode: TypeAlias = Literal["exact", "semantic", "off"]
Cached: TypeAlias = Literal["", "exact", "semantic"]
Stop: TypeAlias = Literal["stop", "tools", "length", "refused"]
OnText: TypeAlias = Callable[[str], None]  # hears each piece of text as the model says it; must not wait


@dataclass(frozen=True, slots=True)
class Tool:
    """What the model may call. `input_schema` is the JSON Schema of an object."""

    name: str
    description: str
    input_schema: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model asks for. `arguments` is text where the model's JSON was none: the caller answers with an error."""

    id: str
    name: str
    arguments: dict[str, Any] | str


@dataclass(frozen=True, slots=True)
class UserMessage:
    text: str
    role: Literal["user"] = "user"


@dataclass(frozen=True, slots=True)
class AssistantMessage:
    text: str = ""
    calls: tuple[ToolCall, ...] = ()
    role: Literal["assistant"] = "assistant"


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a call gave; `content` is text (JSON text of a value that is none)."""

    call_id: str
    name: str
    content: str
    is_error: bool = False
    role: Literal["tool"] = "tool"


Message: TypeAlias = UserMessage | AssistantMessage | ToolResult


@dataclass(frozen=True, slots=True)
class Request:
    """One turn. `model` is `provider:model`, or a bare model that the pool resolves."""

    model: str
    messages: tuple[Message, ...]
    system: str = ""
    tools: tuple[Tool, ...] = ()
    schema: dict[str, Any] | None = None  # the answer's text is to be JSON that fits this JSON Schema
    temperature: float | None = None  # None: the provider's default
    max_tokens: int | None = None  # of the answer, as its author wants it
    bound: int | None = None  # of the answer, where a budget has less room; an answer that it cuts is not the author's
    fallback: tuple[str, ...] = ()  # models to ask, in this order, when no provider of `model` answers
    cache: CacheMode = "exact"
    cache_threshold: float = 0.92  # cosine of two prompts from which on `semantic` takes them for the same
    # Whether an answer's text is what is wanted: one that is not must not be given again. None: any is.
    fits: Callable[[str], bool] | None = field(default=None, repr=False, compare=False)

    @property
    def most_tokens(self) -> int | None:
        """Of the answer; None where nothing bounds it."""
        return self.max_tokens if self.bound is None else self.bound


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a user may: None is unlimited. `name` tells one user's several allowances apart, and is said in refusals."""

    name: str
    requests: int | None  # a minute
    tokens: int | None  # a minute
    at_once: int
    remedy: str = ""  # what lifts it, as a sentence


@dataclass(frozen=True, slots=True)
class Caller:
    """Whom a call is made for and counted on. `allowance` is what the user may on the platform's keys."""

    user_id: UUID
    tier: str
    allowance: Allowance
    flow_id: UUID | None = None
    execution_id: UUID | None = None
    listener: str = ""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens. `cached` of those in were read from the provider's own prompt cache, and cost less."""

    tokens_in: int = 0
    tokens_out: int = 0
    cached: int = 0


@dataclass(frozen=True, slots=True)
class Hop:
    """One provider that was asked on the way to an answer, and what became of it: "answered" or why not."""

    provider: str
    model: str
    outcome: str
    ms: int
    may_be_charged: bool = False  # it may have worked on an answer that never came


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said. `cost` is in US dollars; None where no price is known, which is never taken as zero."""

    text: str
    calls: tuple[ToolCall, ...] = ()
    usage: Usage = field(default_factory=Usage)
    model: str = ""  # as the provider names it
    provider: str = ""
    own_key: bool = False  # asked with the user's own key
    cost: Decimal | None = None
    latency_ms: int = 0
    cached: Cached = ""
    stop: Stop = "stop"
    path: tuple[Hop, ...] = ()

    @property
    def message(self) -> AssistantMessage:
        return AssistantMessage(self.text, self.calls)

    def as_json(self) -> dict[str, Any]:
        """For the journal; `cost` as text."""
        return {**asdict(self), "cost": None if self.cost is None else str(self.cost)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        cost = value["cost"]
        return cls(
            **{
                **value,
                "calls": tuple(ToolCall(**call) for call in value["calls"]),
                "usage": Usage(**value["usage"]),
                "cost": None if cost is None else Decimal(cost),
                "path": tuple(Hop(**hop) for hop in value["path"]),
            }
        )


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One place that serves a model: a row of the operator's pool, or a user's own key for a provider."""

    id: str  # the row's, or "own:" and the key's: what breakers, slots and the failover path go by
    provider: str  # "anthropic", "openai", "xai", "together", or the name of an operator's own
    kind: Wire
    model: str  # as the provider names it
    base_url: str  # "" is the SDK's own
    api_key: str = field(repr=False)
    priority: int = 0  # the lowest is asked first
    weight: int = 1  # the share of calls among equals
    concurrency: int | None = None  # calls at once, all workers together; None is unlimited
    own_key: bool = False
