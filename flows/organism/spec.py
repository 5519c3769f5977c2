"""What an organism says, once it has been read and found valid. Plain values, safe to share between executions."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from flows.blocks.base import Block, PeerTool
    from flows.organism.templates import CompiledConfig

DEFAULT_MAX_MESSAGES = 1000
OnCrash = Literal["retry", "fail", "ask"]
Overlap = Literal["queue", "skip", "cancel"]
OnFailureKind = Literal["email", "flow", "url"]


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    max_attempts: int = 1
    backoff: float = 2.0  # the wait doubles (by this factor) from one second on, with jitter
    max_delay: float = 60.0  # seconds
    explicit: bool = False  # the author wrote it: consent to repeat an effect whose outcome is unknown


@dataclass(frozen=True, slots=True)
class Concurrency:
    limit: int  # executions of the flow that may be worked on at once
    overlap: Overlap = "queue"  # what becomes of a firing while that many are alive: it waits, is refused, or cancels


@dataclass(frozen=True, slots=True)
class Listener:
    name: str
    block: "Block"
    config: "CompiledConfig"
    description: str = ""
    peers: tuple[str, ...] = ()
    next: tuple[str, ...] = ()  # an agent's onward peers; elsewhere empty
    on_error: str | None = None
    on_crash: OnCrash | None = None  # None: by the block's effects
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    timeout: float = 30.0  # seconds a step
    input: dict[str, Any] | None = None  # JSON Schema of the payload, as the author gives it
    tools: tuple["PeerTool", ...] = ()  # an agent's peers, as its model sees them

    @property
    def onward(self) -> tuple[str, ...]:
        """Where its output goes when the block does not choose: not to the peers that the block only calls."""
        if self.block.peers_are_tools:
            return self.next
        called = self.block.called_peers(self.config.raw)
        return tuple(peer for peer in self.peers if peer not in called)

    @property
    def edges(self) -> tuple[str, ...]:
        """Every listener that a message here can lead to next."""
        extra = (self.on_error,) if self.on_error else ()
        return tuple(dict.fromkeys((*self.peers, *self.next, *extra)))


@dataclass(frozen=True, slots=True)
class OnFailure:
    """What is done when an execution fails: a mail, another flow, a signed POST."""

    kind: OnFailureKind
    target: str  # addresses with commas between them; the id or name of a flow of the same owner; an http(s) URL


@dataclass(frozen=True, slots=True)
class Organism:
    """A valid organism. `listeners` keeps the order of the file."""

    name: str
    entry: str
    listeners: dict[str, Listener]
    timeout: float | None = None  # seconds of work; the tier caps it
    max_messages: int = DEFAULT_MAX_MESSAGES
    concurrency: Concurrency | None = None
    on_failure: OnFailure | None = None
    # What `graph.reachable_from` has found so far: it follows from the listeners, so any thread may fill it in.
    reaches: dict[str, frozenset[str]] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a YAML text, where it stands, and what to do about it. Lines and columns count from 1."""

    path: str  # "listeners[2].config.url"
    line: int
    column: int
    message: str

    def as_dict(self) -> dict[str, Any]:
        return {"path": self.path, "line": self.line, "column": self.column, "message": self.message}


@dataclass(frozen=True, slots=True)
class NamedModel:
    """A model that a listener names, and where."""

    name: str
    path: str
    line: int
    column: int
    tokens: int = 0  # at most, of what it is told each time, whatever the placeholders give
    needs_price: bool = False  # the listener bounds what it costs

    def problem(self, message: str) -> Problem:
        return Problem(self.path, self.line, self.column, message)


@dataclass(frozen=True, slots=True)
class Validation:
    """What `flows.organism.validate` found."""

    errors: list[Problem]
    warnings: list[Problem]
    graph: dict[
        str, Any
    ]  # {"nodes": [...], "edges": [...]} for a canvas; what could be read of it when there are errors
    organism: Organism | None  # None when there are errors
    models: tuple[NamedModel, ...] = ()  # but those that a placeholder gives

    @property
    def valid(self) -> bool:
        return not self.errors
