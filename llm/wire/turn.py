"""One turn: our request as pydantic-ai's, and its response as our answer."""

import asyncio
import json
import re
import time
from datetime import UTC, datetime
from typing import Any

import httpx2
from pydantic_ai import direct
from pydantic_ai.messages import (
    InstructionPart,
    ModelMessage,
    ModelRequest,
    ModelRequestPart,
    ModelResponse,
    PartDeltaEvent,
    PartStartEvent,
    TextPart,
    TextPartDelta,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models import Model, ModelRequestParameters
from pydantic_ai.models.openai import OpenAIResponsesModelSettings
from pydantic_ai.output import OutputObjectDefinition
from pydantic_ai.settings import ModelSettings, merge_model_settings
from pydantic_ai.tools import ToolDefinition

from bloxserver.core import json_text
from bloxserver.core.guarded_transport import CONNECT_TIMEOUT
from llm import catalogue
from llm.errors import Failure, ProviderFailed
from llm.exchange import (
    Answer,
    AssistantMessage,
    Endpoint,
    Message,
    OnText,
    Request,
    Stop,
    ToolCall,
    ToolResult,
    Usage,
    UserMessage,
)
from llm.wire.failures import failure_of
from llm.wire.listening import Listening
from llm.wire.models import model_of

BY_PROMPT = "Answer with JSON that fits this JSON Schema, and with nothing else:\n{schema}"

MAX_TOKENS = 2**31 - 1  # of one answer, in the database's integer
MAX_NAME = 200  # characters
NOT_KEPT = OpenAIResponsesModelSettings(openai_store=False)  # responses are stored there by default

_FENCED = re.compile(r"\s*```(?:json)?\s*\n(.*?)\n?\s*```\s*", re.DOTALL)


async def ask(
    endpoint: Endpoint, request: Request, *, on_text: OnText | None, timeout: float, silence: float
) -> Answer:
    """See `llm.wire.call`. Raises `ProviderFailed`."""
    outcome = await _outcome(endpoint, request, on_text, timeout, silence)
    if isinstance(outcome, ProviderFailed):
        raise outcome
    return outcome


async def _outcome(
    endpoint: Endpoint, request: Request, on_text: OnText | None, timeout: float, silence: float
) -> Answer | ProviderFailed:
    """A failure is returned and not raised here, for it to have no context: the libraries' errors hold requests and keys."""
    started = time.monotonic()
    listening = Listening(streamed=on_text is not None, timeout=timeout, silence=silence)
    try:
        async with asyncio.timeout(timeout), listening.listening():
            settings = _settings(endpoint, request, httpx2.Timeout(timeout, connect=CONNECT_TIMEOUT, read=silence))
            response = await _exchange(model_of(endpoint), request, settings, on_text, listening)
        return _answer(endpoint, request, response, latency_ms=round((time.monotonic() - started) * 1000))
    except ProviderFailed as failure:
        return listening.noted(failure)
    except Exception as error:
        return listening.noted(listening.silence_of(endpoint) or failure_of(error, endpoint, timeout, silence))


async def _exchange(
    model: Model, request: Request, settings: ModelSettings, on_text: OnText | None, listening: Listening
) -> ModelResponse:
    messages, parameters = _messages(request.messages), _parameters(model, request)
    if on_text is None:
        return await direct.model_request(
            model, messages, model_settings=settings, model_request_parameters=parameters, instrument=False
        )
    async with direct.model_request_stream(
        model, messages, model_settings=settings, model_request_parameters=parameters, instrument=False
    ) as stream:
        async for event in stream:
            listening.heard()
            match event:
                case (
                    PartStartEvent(part=TextPart(content=said))
                    | PartDeltaEvent(delta=TextPartDelta(content_delta=said))
                ):
                    if said:
                        on_text(said)
        return stream.get()


def _settings(endpoint: Endpoint, request: Request, timeout: httpx2.Timeout) -> ModelSettings:
    # The model's profile knows whether it takes a temperature; it is left out of the request where it does not.
    settings = ModelSettings(timeout=timeout)
    if endpoint.kind == "openai-responses":
        settings = merge_model_settings(settings, NOT_KEPT) or settings
    if request.temperature is not None:
        settings["temperature"] = request.temperature
    if request.most_tokens is not None:
        settings["max_tokens"] = request.most_tokens
    return settings


def _parameters(model: Model, request: Request) -> ModelRequestParameters:
    tools = [
        ToolDefinition(name=tool.name, description=tool.description, parameters_json_schema=tool.input_schema)
        for tool in request.tools
    ]
    instructions = [request.system] if request.system else []
    mode: dict[str, Any] = {}
    if request.schema is not None:
        if request.schema.get("type") != "object":  # the providers' own modes take objects only
            instructions.append(BY_PROMPT.format(schema=json.dumps(request.schema, ensure_ascii=False)))
        else:
            native = model.profile.get("supports_json_schema_output", False)
            mode["output_mode"] = "native" if native else "prompted"
            mode["output_object"] = OutputObjectDefinition(json_schema=request.schema)
    return ModelRequestParameters(
        function_tools=tools,
        instruction_parts=[InstructionPart(content=instruction) for instruction in instructions] or None,
        **mode,
    )


def _messages(messages: tuple[Message, ...]) -> list[ModelMessage]:
    """What follows one another from the user's side, results of tools above all, is one message to a provider."""
    found: list[ModelMessage] = []
    ours: list[ModelRequestPart] = []
    for message in messages:
        if isinstance(message, AssistantMessage):
            if ours:
                found.append(ModelRequest(parts=ours))
                ours = []
            found.append(_response(message))
        else:
            ours.append(_part(message))
    if ours:
        found.append(ModelRequest(parts=ours))
    return found


def _part(message: UserMessage | ToolResult) -> ModelRequestPart:
    if isinstance(message, UserMessage):
        return UserPromptPart(message.text)
    return ToolReturnPart(
        message.name, message.content, message.call_id, outcome="failed" if message.is_error else "success"
    )


def _response(message: AssistantMessage) -> ModelResponse:
    said = [TextPart(message.text)] if message.text else []
    # Arguments that were no JSON go back as an object: Anthropic takes nothing else, and others refuse the turn, too.
    calls = [
        ToolCallPart(
            call.name, call.arguments if isinstance(call.arguments, dict) else {"text": call.arguments}, call.id
        )
        for call in message.calls
    ]
    return ModelResponse(parts=[*said, *calls])


def _answer(endpoint: Endpoint, request: Request, response: ModelResponse, *, latency_ms: int) -> Answer:
    """Raises `ProviderFailed` where the response is none."""
    # Half of a surrogate pair, which some models say, could not be sent back to them.
    text = json_text.clean("".join(part.content for part in response.parts if isinstance(part, TextPart)))
    calls = tuple(_call(part) for part in response.parts if isinstance(part, ToolCallPart))
    if response.finish_reason in (None, "error"):
        message = f"{endpoint.provider} broke off in the middle of the answer of {endpoint.model}."
        raise ProviderFailed(Failure.UNAVAILABLE, message)
    stop: Stop = "tools" if calls else _STOPS.get(response.finish_reason, "stop")
    usage = _usage(request, response, text, calls)
    return Answer(
        text=_unfenced(text) if request.schema is not None else text,
        calls=calls,
        usage=usage,
        model=(response.model_name or endpoint.model)[:MAX_NAME],
        provider=endpoint.provider,
        own_key=endpoint.own_key,
        cost=catalogue.cost(endpoint.provider, endpoint.model, usage, at=datetime.now(UTC)),
        latency_ms=latency_ms,
        stop=stop,
    )


_STOPS: dict[str, Stop] = {"length": "length", "content_filter": "refused"}


def _call(part: ToolCallPart) -> ToolCall:
    try:
        said = part.args if isinstance(part.args, str) else json.dumps(part.args or {}, ensure_ascii=False)
    except RecursionError:
        return ToolCall(part.tool_call_id, part.tool_name, "(nested too deep)")
    try:
        arguments = json_text.cleaned(json_text.strict_loads(said or "{}"))
    except ValueError:
        arguments = None
    return ToolCall(
        part.tool_call_id, part.tool_name, arguments if isinstance(arguments, dict) else json_text.clean(said)
    )


def _usage(request: Request, response: ModelResponse, text: str, calls: tuple[ToolCall, ...]) -> Usage:
    """As reported; estimated where nothing was: a server that reports none must not be free, nor without limits."""
    used = response.usage
    if used.input_tokens or used.output_tokens:
        return Usage(*map(_count, (used.input_tokens, used.output_tokens, used.cache_read_tokens)))
    said = text + "".join(json.dumps(call.arguments) for call in calls)
    return Usage(catalogue.estimate_tokens(request), catalogue.estimate_text(said))


def _count(tokens: int) -> int:
    """What a server reports is not to be trusted: a number below zero would be credit, a huge one no column takes."""
    return min(max(tokens, 0), MAX_TOKENS)


def _unfenced(text: str) -> str:
    """Models that were asked for JSON in words like to put it into a Markdown fence."""
    fenced = _FENCED.fullmatch(text)
    return fenced[1] if fenced else text
