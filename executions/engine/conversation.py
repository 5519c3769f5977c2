"""What the record shows of a block's questions to models and their answers. Pure: no database, no clock."""

from typing import Any

from llm.exchange import Answer, AssistantMessage, Message, Request, ToolCall, ToolResult, UserMessage


class Told:
    """All that one step has said to models so far. An agent tells it all anew at each turn; the record repeats none of it."""

    def __init__(self) -> None:
        self._messages: tuple[Message, ...] = ()
        self._settings: dict[str, Any] = {}

    def new_in(self, request: Request) -> dict[str, Any]:
        """What `request` tells beyond the last one and its answer, as JSON."""
        known = _common(self._messages, request.messages)
        settings = {name: value for name, value in _settings(request).items() if self._settings.get(name) != value}
        earlier = {"earlierMessages": known} if known else {}
        new = [_message(message) for message in request.messages[known:]]
        return {"model": request.model, **settings, **earlier, "messages": new}

    def add(self, request: Request, answer: Answer) -> None:
        self._messages, self._settings = (*request.messages, answer.message), _settings(request)


def _common(before: tuple[Message, ...], now: tuple[Message, ...]) -> int:
    """How many messages both begin with."""
    for count, (one, other) in enumerate(zip(before, now, strict=False)):
        if one != other:
            return count
    return min(len(before), len(now))


def _settings(request: Request) -> dict[str, Any]:
    """What is set of them, beside the model."""
    settings = {
        "system": request.system or None,
        "tools": [tool.name for tool in request.tools] or None,
        "schema": request.schema,
        "temperature": request.temperature,
        "maxTokens": request.max_tokens,
    }
    return {name: value for name, value in settings.items() if value is not None}


def _message(message: Message) -> dict[str, Any]:
    match message:
        case UserMessage():
            return {"role": message.role, "text": message.text}
        case AssistantMessage():
            return {"role": message.role, **said(message.text, message.calls)}
        case ToolResult():
            result = {"callId": message.call_id, "name": message.name, "content": message.content}
            return {"role": message.role, **result, **({"isError": True} if message.is_error else {})}


def said(text: str, calls: tuple[ToolCall, ...]) -> dict[str, Any]:
    """What a model said, as JSON."""
    return {"text": text, "calls": [{"id": call.id, "name": call.name, "arguments": call.arguments} for call in calls]}


def call_of(answer: Answer) -> dict[str, Any]:
    """How an answer came to be: `Step.model_call`."""
    names = ("model", "provider", "own_key", "cost", "latency_ms", "cached", "stop", "path")
    values = answer.as_json()
    return {name: values[name] for name in names}
