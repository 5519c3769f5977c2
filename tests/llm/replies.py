"""What the model server can be told to answer."""

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, Self

Wire = Literal["chat", "responses", "messages", "models"]


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer of the server, whatever wire format it is asked in. `as_json` of it is what `POST /_script` takes."""

    text: str = ""
    calls: tuple[tuple[str, dict[str, Any] | str], ...] = ()  # (tool, arguments); a text goes out as it is, JSON or not
    stop: Literal["", "length", "refused"] = ""  # "" is whatever fits: "stop", or the wire's word for tool calls
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: Any = None  # of a failure; None is the wire's own error body for `status` and `code`
    code: str = ""  # the error's code in that body
    message: str = "scripted failure"
    delay: float = 0.0  # seconds before the first byte
    pause: float = 0.0  # seconds between two pieces of a stream
    broken: Literal["", "cut", "unfinished", "garbage", "error_event"] = ""
    tokens_in: int | None = None  # None is a quarter of the characters
    tokens_out: int | None = None
    cached: int = 0  # of those in
    says_usage: bool = True  # False in chat completions only, as some compatible servers do

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Fields that are left out have their defaults: `{"text": "hello"}` will do."""
        return cls(**{**value, "calls": tuple((tool, arguments) for tool, arguments in value.get("calls", ()))})


def text(what: str, **more: Any) -> Reply:
    """A text; `more` are other fields of a `Reply`, as `tokens_in=100` or `stop="length"`."""
    return Reply(what, **more)


def calls(wanted: list[tuple[str, dict[str, Any] | str]], said: str = "", **more: Any) -> Reply:
    """Tool calls: `calls([("search", {"q": "x"}), ("add", {"a": 1})])`, and a text before them."""
    return Reply(said, tuple(wanted), **more)


def fail(status: int, headers: dict[str, str] | None = None, body: Any = None, **more: Any) -> Reply:
    """An error: `fail(429, {"Retry-After": "7"})`, `fail(429, code="insufficient_quota")`, `fail(502, body="<html>")`."""
    return Reply(status=status, headers=headers or {}, body=body, **more)


def slow(seconds: float, reply: Reply | None = None) -> Reply:
    """`reply` (default: a text) after `seconds`."""
    return replace(reply or text("at last"), delay=seconds)


def cut(said: str = "This sentence has no", **more: Any) -> Reply:
    """The connection ends in the middle of the answer, streamed or not."""
    return Reply(said, broken="cut", **more)


def unfinished(said: str = "This sentence has no") -> Reply:
    """A stream that ends in the middle of the answer, as a proxy ends it; cut where no stream is asked for."""
    return Reply(said, broken="unfinished")


def garbage() -> Reply:
    """Status 200, the right content type, and no JSON."""
    return Reply(broken="garbage")


def error_event(code: str = "overloaded_error", said: str = "Half an", **more: Any) -> Reply:
    """A stream that begins well and then brings the wire's error event; where no stream is asked for, status 529."""
    return Reply(said, broken="error_event", code=code, **more)
