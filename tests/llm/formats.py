"""A reply in the providers' wire formats: OpenAI's chat completions and responses, and Anthropic's messages."""

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.llm.replies import Reply, Wire

PIECES = 4  # that a streamed text comes in
CREATED = 1_800_000_000

_numbers = itertools.count(1)

Event = tuple[str, Any]  # the SSE event's name ("" for none) and its data


@dataclass(frozen=True, slots=True)
class Usage:
    tokens_in: int
    tokens_out: int
    cached: int


def usage(reply: Reply, asked: dict[str, Any]) -> Usage:
    guessed_in = len(json.dumps(asked.get("messages") or asked.get("input") or "")) // 4 + 1
    said = reply.text + "".join(arguments(value) for _, value in reply.calls)
    return Usage(
        guessed_in if reply.tokens_in is None else reply.tokens_in,
        len(said) // 4 + 1 if reply.tokens_out is None else reply.tokens_out,
        reply.cached,
    )


def arguments(value: dict[str, Any] | str) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def pieces(text: str) -> list[str]:
    size = max(1, -(-len(text) // PIECES))
    return [text[start : start + size] for start in range(0, len(text), size)]


def new_id(prefix: str) -> str:
    return f"{prefix}_{next(_numbers):08d}"


def body(wire: Wire, reply: Reply, asked: dict[str, Any]) -> dict[str, Any]:
    """The answer as one JSON object."""
    return {"chat": _chat, "responses": _responses, "messages": _messages}[wire](reply, asked)


def events(wire: Wire, reply: Reply, asked: dict[str, Any]) -> Iterator[Event]:
    """The answer as a stream."""
    return {"chat": _chat_events, "responses": _responses_events, "messages": _messages_events}[wire](reply, asked)


def error_body(wire: Wire, status: int, code: str, message: str) -> dict[str, Any]:
    if wire == "messages":
        return {
            "type": "error",
            "error": {"type": code or _ANTHROPIC_ERRORS.get(status, "api_error"), "message": message},
        }
    kind = {401: "invalid_request_error", 429: "rate_limit_error"}.get(status, "server_error" if status >= 500 else "")
    return {"error": {"message": message, "type": kind or "invalid_request_error", "param": None, "code": code or None}}


_ANTHROPIC_ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}


def error_events(wire: Wire, code: str, message: str) -> Iterator[Event]:
    """What a stream brings that breaks with word of why."""
    if wire == "responses":
        yield "error", {"type": "error", "code": code, "message": message, "param": None, "sequence_number": 99}
    else:
        yield "error" if wire == "messages" else "", error_body(wire, 500, code, message)


def models(names: tuple[str, ...]) -> dict[str, Any]:
    """The list that both OpenAI's and Anthropic's clients read."""
    rows = [
        {"id": name, "object": "model", "type": "model", "created": CREATED, "owned_by": "tests", "display_name": name,
         "created_at": "2026-01-01T00:00:00Z"}
        for name in names
    ]  # fmt: skip
    return {"object": "list", "data": rows, "has_more": False, "first_id": None, "last_id": None}


# OpenAI's chat completions


def _chat_usage(used: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": used.tokens_in,
        "completion_tokens": used.tokens_out,
        "total_tokens": used.tokens_in + used.tokens_out,
        "prompt_tokens_details": {"cached_tokens": used.cached},
    }


def _chat_finish(reply: Reply) -> str:
    return {"length": "length", "refused": "content_filter"}.get(reply.stop, "tool_calls" if reply.calls else "stop")


def _chat_calls(reply: Reply) -> list[dict[str, Any]]:
    return [
        {"id": new_id("call"), "type": "function", "function": {"name": tool, "arguments": arguments(value)}}
        for tool, value in reply.calls
    ]


def _chat(reply: Reply, asked: dict[str, Any]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": reply.text or None, "refusal": None}
    if reply.calls:
        message["tool_calls"] = _chat_calls(reply)
    return {
        "id": new_id("chatcmpl"),
        "object": "chat.completion",
        "created": CREATED,
        "model": asked["model"],
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": _chat_finish(reply)}],
        "usage": _chat_usage(usage(reply, asked)) if reply.says_usage else None,
    }


def _chat_events(reply: Reply, asked: dict[str, Any]) -> Iterator[Event]:
    head = {"id": new_id("chatcmpl"), "object": "chat.completion.chunk", "created": CREATED, "model": asked["model"]}

    def chunk(delta: dict[str, Any], finish: str | None = None) -> Event:
        return "", {**head, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]}

    yield chunk({"role": "assistant", "content": ""})
    for piece in pieces(reply.text):
        yield chunk({"content": piece})
    for index, call in enumerate(_chat_calls(reply)):
        said = call["function"]["arguments"]
        yield chunk({"tool_calls": [{**call, "index": index, "function": {**call["function"], "arguments": ""}}]})
        for piece in pieces(said):
            yield chunk({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
    yield chunk({}, _chat_finish(reply))
    if reply.says_usage and (asked.get("stream_options") or {}).get("include_usage"):
        yield "", {**head, "choices": [], "usage": _chat_usage(usage(reply, asked))}
    yield "", "[DONE]"


# OpenAI's responses


def _responses_items(reply: Reply) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    if reply.text or not reply.calls:
        part = {"type": "output_text", "text": reply.text, "annotations": [], "logprobs": []}
        items.append(
            {"id": new_id("msg"), "type": "message", "role": "assistant", "status": "completed", "content": [part]}
        )
    for tool, value in reply.calls:
        items.append(
            {"id": new_id("fc"), "type": "function_call", "call_id": new_id("call"), "name": tool,
             "arguments": arguments(value), "status": "completed"}
        )  # fmt: skip
    return items


def _responses_shell(asked: dict[str, Any], status: str) -> dict[str, Any]:
    return {
        "id": new_id("resp"),
        "object": "response",
        "created_at": CREATED,
        "status": status,
        "error": None,
        "incomplete_details": None,
        "instructions": asked.get("instructions"),
        "model": asked["model"],
        "output": [],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "metadata": {},
        "temperature": asked.get("temperature"),
        "top_p": None,
        "usage": None,
    }


def _responses_full(shell: dict[str, Any], items: list[Any], reply: Reply, asked: dict[str, Any]) -> dict[str, Any]:
    used = usage(reply, asked)
    reason = {"length": "max_output_tokens", "refused": "content_filter"}.get(reply.stop)
    return {
        **shell,
        "status": "incomplete" if reason else "completed",
        "incomplete_details": {"reason": reason} if reason else None,
        "output": items,
        "usage": {
            "input_tokens": used.tokens_in,
            "input_tokens_details": {"cached_tokens": used.cached, "cache_write_tokens": 0},
            "output_tokens": used.tokens_out,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": used.tokens_in + used.tokens_out,
        },
    }


def _responses(reply: Reply, asked: dict[str, Any]) -> dict[str, Any]:
    return _responses_full(_responses_shell(asked, "completed"), _responses_items(reply), reply, asked)


def _responses_events(reply: Reply, asked: dict[str, Any]) -> Iterator[Event]:
    shell, items, numbers = _responses_shell(asked, "in_progress"), _responses_items(reply), itertools.count()

    def event(kind: str, **data: Any) -> Event:
        return kind, {"type": kind, "sequence_number": next(numbers), **data}

    yield event("response.created", response=shell)
    yield event("response.in_progress", response=shell)
    for index, item in enumerate(items):
        place = {"output_index": index, "item_id": item["id"]}
        if item["type"] == "message":
            yield from _responses_message(event, item, place)
        else:
            opened = {**item, "arguments": "", "status": "in_progress"}
            yield event("response.output_item.added", output_index=index, item=opened)
            for piece in pieces(item["arguments"]):
                yield event("response.function_call_arguments.delta", **place, delta=piece)
            yield event(
                "response.function_call_arguments.done", **place, arguments=item["arguments"], name=item["name"]
            )
        yield event("response.output_item.done", output_index=index, item=item)
    full = _responses_full(shell, items, reply, asked)
    yield event(f"response.{full['status']}", response=full)


def _responses_message(event: Any, item: dict[str, Any], place: dict[str, Any]) -> Iterator[Event]:
    part = item["content"][0]
    opened = {**item, "content": [], "status": "in_progress"}
    yield event("response.output_item.added", output_index=place["output_index"], item=opened)
    yield event("response.content_part.added", **place, content_index=0, part={**part, "text": ""})
    for piece in pieces(part["text"]):
        yield event("response.output_text.delta", **place, content_index=0, delta=piece, logprobs=[])
    yield event("response.output_text.done", **place, content_index=0, text=part["text"], logprobs=[])
    yield event("response.content_part.done", **place, content_index=0, part=part)


# Anthropic's messages


def _messages_usage(used: Usage) -> dict[str, Any]:
    return {
        "input_tokens": used.tokens_in - used.cached,  # without those from the cache, as Anthropic counts
        "cache_read_input_tokens": used.cached,
        "cache_creation_input_tokens": 0,
        "output_tokens": used.tokens_out,
        "service_tier": "standard",
    }


def _messages_stop(reply: Reply) -> str:
    return {"length": "max_tokens", "refused": "refusal"}.get(reply.stop, "tool_use" if reply.calls else "end_turn")


def _messages_blocks(reply: Reply) -> list[dict[str, Any]]:
    said = [{"type": "text", "text": reply.text, "citations": None}] if reply.text or not reply.calls else []
    return said + [
        {"type": "tool_use", "id": new_id("toolu"), "name": tool, "input": value} for tool, value in reply.calls
    ]


def _messages(reply: Reply, asked: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": new_id("msg"),
        "type": "message",
        "role": "assistant",
        "model": asked["model"],
        "content": _messages_blocks(reply),
        "stop_reason": _messages_stop(reply),
        "stop_sequence": None,
        "usage": _messages_usage(usage(reply, asked)),
    }


def _messages_events(reply: Reply, asked: dict[str, Any]) -> Iterator[Event]:
    whole = _messages(reply, asked)

    def event(kind: str, **data: Any) -> Event:
        return kind, {"type": kind, **data}

    start = {**whole, "content": [], "stop_reason": None, "usage": {**whole["usage"], "output_tokens": 1}}
    yield event("message_start", message=start)
    yield event("ping")
    for index, block in enumerate(whole["content"]):
        if block["type"] == "text":
            empty, deltas = {**block, "text": ""}, [{"type": "text_delta", "text": p} for p in pieces(block["text"])]
        else:
            said = pieces(arguments(block["input"]))
            empty, deltas = {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": p} for p in said]
        yield event("content_block_start", index=index, content_block=empty)
        for delta in deltas:
            yield event("content_block_delta", index=index, delta=delta)
        yield event("content_block_stop", index=index)
    yield event(
        "message_delta",
        delta={"stop_reason": whole["stop_reason"], "stop_sequence": None},
        usage={"output_tokens": whole["usage"]["output_tokens"]},
    )
    yield event("message_stop")
