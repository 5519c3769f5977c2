"""What a block is, and what it may ask of the run that it is part of.

A block is a class with a Pydantic `Config`: the catalogue's JSON Schema, the error texts and the docs come from it.
`run` gets its config with every placeholder already rendered, and the payload that was delivered to its listener.
The engine (`executions.engine`) implements `Context`.
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Protocol, TypeAlias
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, WithJsonSchema

if TYPE_CHECKING:
    from bloxserver.core.safe_http import GuardedClient
    from llm.exchange import Answer as ModelAnswer
    from llm.exchange import Request

JSON: TypeAlias = Any  # None, bool, int, float, str, list or dict of these


def _is_expression(value: Any) -> Any:
    if not isinstance(value, str) and not hasattr(value, "evaluate"):
        raise ValueError('must be a CEL expression, written as a text: "payload.total > 100"')
    return value


# A config field named in `expression_paths`: CEL text in the YAML, a `Condition` once rendered.
Expression: TypeAlias = Annotated[
    Any,
    BeforeValidator(_is_expression),
    WithJsonSchema({"type": "string", "description": "A CEL expression, without braces."}),
]


class Effects(StrEnum):
    """What running a block does to the world; it decides what is on record before and what a crash may repeat."""

    NONE = "none"  # nothing: running it again changes nothing
    OURS = "ours"  # rows of our own database, written through `ctx.transact`
    REPEATABLE = "repeatable"  # an outside effect that may be repeated: GET, PUT, a model call
    ONCE = "once"  # an outside effect that must not be: POST, mail


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a question: `by` says who answered it, and is "timeout" where nobody did in time."""

    approved: bool
    by: str
    comment: str = ""


class BlockConfig(BaseModel):
    """Unknown keys are errors: a misspelt option must not be silently without effect."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=False)


@dataclass(frozen=True, slots=True)
class Output:
    """A block's result when it chooses who gets it; `to=None` is every peer."""

    value: JSON
    to: tuple[str, ...] | None = None


class BlockError(Exception):
    """A failure that the flow's author can understand and act on.

    `code` is stable and snake_case. `retryable` is False where trying again cannot help. `repeat_is_safe` is True
    where the effect surely did not happen (not sent, or refused with 429 or 503), so that even a block with effects
    `once` may be tried again. `retry_after` is in seconds, as the other side asked. `counts` is False where nobody was
    asked, since it was not this one's turn: the step waits and is run again, and none of its attempts is used up.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str = "block_failed",
        retryable: bool = True,
        repeat_is_safe: bool = False,
        retry_after: float | None = None,
        counts: bool = True,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.retryable = retryable
        self.repeat_is_safe = repeat_is_safe
        self.retry_after = retry_after
        self.counts = counts


@dataclass(frozen=True, slots=True)
class PeerTool:
    """A peer as an agent's model sees it. `input_schema` is the JSON Schema of an object.

    `wraps`: the peer takes a value that is no object, so it stands in the object as `input`.
    """

    name: str
    description: str
    input_schema: dict[str, Any]
    wraps: bool = False


@dataclass(frozen=True, slots=True)
class Remark:
    """What a block says of a config, beyond what its `Config` checks; `path` leads to the place."""

    path: tuple[str | int, ...]
    message: str


class Context(Protocol):
    """What a block may ask of its run.

    `call`, `record`, `ask_model`, `transact`, `sleep_until`, `ask`, `start_flow` and `wait_for_execution` are journalled
    by position in the block's run (or by `position`, where the order of calls is not fixed): a block that runs again
    after a crash or a wait gets the recorded answers, and pays or acts no second time. So a block must ask in the same
    order each time it is run with the same config and payload.
    """

    execution_id: UUID
    flow_id: UUID
    user_id: UUID
    listener: str
    peers: tuple[str, ...]
    tools: tuple[PeerTool, ...]  # the peers as tools, for a block whose peers are that
    attempt: int  # 1 for the first
    idempotency_key: str  # the same for every attempt of this step

    @property
    def http(self) -> "GuardedClient":
        """The client for whatever a tenant's request leads to."""

    async def call(self, peer: str, payload: JSON, *, position: str | None = None, keep_failure: bool = False) -> JSON:
        """Run what lies behind `peer`, as a scope of its own, and give its result. Raises `BlockError` if it failed.

        A failed call is made again by the block's next attempt, unless `keep_failure` puts the failure on record: it is
        then raised again as it was. For a block that has acted on it.
        """

    async def record(self, fn: Callable[[], Awaitable[JSON]], *, position: str | None = None) -> JSON:
        """Do one effect and keep its result."""

    async def transact(self, fn: Callable[[], JSON], *, position: str | None = None) -> JSON:
        """Run `fn`, which is synchronous and touches only our database, in the transaction that records its result."""

    async def sleep_until(self, moment: datetime, *, position: str | None = None) -> None:
        """Wait. A long wait parks the execution and holds no worker.

        The moment of the first run is the one that counts: it is on record by then, and a block that runs again and
        reckons a later one (now + 60 s) still wakes at the first.
        """

    async def ask(
        self, message: str, *, until: datetime | None, notify: Sequence[str] = (), position: str | None = None
    ) -> Answer:
        """Park until a person answers; from `until` on (that of the first run) the answer is a no by "timeout".

        Each address of `notify` gets a mail with a link to answer by, once it is on record that it was asked. Raises
        `BlockError` when such a mail cannot be sent; who was written to already is not written to again.
        """

    async def start_flow(self, flow: str, payload: JSON, *, position: str | None = None) -> UUID:
        """Accept an execution of another flow of the same tenant (by id or name) and give its id."""

    async def wait_for_execution(self, execution_id: UUID, *, position: str | None = None) -> JSON:
        """Park until it ends, and give its output. Raises `BlockError` when it did not succeed."""

    async def ask_model(self, request: "Request", *, position: str | None = None) -> "ModelAnswer":
        """One turn of a model: metered, a step of its own in the trace, its text streamed to who watches.

        The answer is journalled, so a block that runs again pays for no second one. Raises `BlockError` with the code
        of the `llm.errors.ModelError` behind it.
        """

    async def respond(self, status: int, headers: Mapping[str, str], body: JSON) -> None:
        """What a webhook that waits for the result is answered."""

    def log(self, level: str, message: str) -> None:
        """A line in the worker's log, marked with the execution and the listener."""


class Block(ABC):
    """One kind of listener. Stateless: one instance serves every listener of the kind, in every execution."""

    name: ClassVar[str]  # as a handler names it: "blox.http"
    title: ClassVar[str]
    description: ClassVar[str]
    category: ClassVar[str]  # "data", "flow", "network", "state", "output", ...
    Config: ClassVar[type[BlockConfig]]
    input_schema: ClassVar[dict[str, Any]] = {}  # JSON Schema of the payload; {} is any
    example: ClassVar[str]  # YAML of one listener

    # Config fields (top level) whose placeholders may use `secrets.NAME`.
    secret_fields: ClassVar[frozenset[str]] = frozenset()
    # Paths of config fields that hold a bare CEL expression, "*" for any item: ("cases", "*", "when"). Rendering
    # makes a `flows.organism.expressions.Condition` of each, which the block evaluates when it needs the value.
    expression_paths: ClassVar[frozenset[tuple[str, ...]]] = frozenset()
    # Config fields (top level) left unrendered: given to the block as they stand in the YAML.
    raw_fields: ClassVar[frozenset[str]] = frozenset()

    # Keys of the listener that are options of this block: they may stand there or in `config`.
    listener_keys: ClassVar[frozenset[str]] = frozenset()
    # Whether its peers are tools, reached through `ctx.call` alone, and its output goes to the listener's `next`.
    peers_are_tools: ClassVar[bool] = False

    # Whether `run` ever waits for something. Where it never does, a step's timeout has nothing to end, and is not set.
    waits: ClassVar[bool] = True
    default_attempts: ClassVar[int] = 1
    default_timeout: ClassVar[float] = 30.0  # seconds a step

    def effects(self, config: Mapping[str, Any]) -> Effects:
        """The effects of a listener with this config (as in the YAML, before rendering)."""
        return Effects.NONE

    def named_peers(self, config: Mapping[str, Any]) -> list[tuple[tuple[str | int, ...], str]]:
        """(path in the config, listener name) for each place where the config names a peer; validation checks them."""
        return []

    def called_peers(self, config: Mapping[str, Any]) -> list[str]:
        """The peers that it reaches through `ctx.call` alone: its output does not go to them."""
        return []

    def tool_schema(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """JSON Schema of the payload that an agent gives a listener with this config; {} where the block has none."""
        return self.input_schema

    def remarks(self, config: Mapping[str, Any]) -> list[Remark]:
        """What else is wrong with a config (as in the YAML, before rendering): each an error at its place."""
        return []

    def is_merge(self) -> bool:
        """Whether it waits for all that can still reach it. Its payload is then a list of `Arrival`."""
        return False

    @abstractmethod
    async def run(self, ctx: Context, config: Any, payload: JSON) -> JSON | Output:
        """Do the work: `config` is an instance of `Config`. Raises `BlockError`."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """One message that a merge collected."""

    sender: str
    payload: JSON = field(default=None)
