"""Asking a model server through the real SDKs."""

import asyncio
from typing import Any

import pytest

from llm.errors import ProviderFailed
from llm.exchange import Answer, Endpoint, Request, UserMessage
from llm.wire import call, close_clients
from tests.llm.model_server import ModelServer

KEY = "sk-secret-0123456789abcdef"
KINDS = ("anthropic", "openai", "openai-responses")
MODELS = {"anthropic": "claude-sonnet-4-5", "openai": "gpt-4o-mini", "openai-responses": "gpt-4o-mini"}
PROVIDERS = {"anthropic": "anthropic", "openai": "openai", "openai-responses": "openai"}
EACH_KIND = pytest.mark.parametrize("kind", KINDS)
SAYS = pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
QUESTION = (UserMessage("What is the answer?"),)


def at(server: ModelServer, kind: Any = "openai", **other: Any) -> Endpoint:
    url = server.url if kind == "anthropic" else f"{server.url}/v1"
    values = {"provider": PROVIDERS[kind], "model": MODELS[kind], "base_url": url, "api_key": KEY, **other}
    return Endpoint(id="row-1", kind=kind, **values)


def ask(
    endpoint: Endpoint,
    request: Request | None = None,
    *,
    heard: list[str] | None = None,
    timeout: float = 5.0,
    silence: float | None = None,
    **of: Any,
) -> Answer:
    request = request or Request(endpoint.model, **{"messages": QUESTION, **of})

    async def run() -> Answer:
        try:
            on_text = None if heard is None else heard.append
            return await call(endpoint, request, on_text=on_text, timeout=timeout, silence=silence)
        finally:
            await close_clients()

    return asyncio.run(run())


def failure(endpoint: Endpoint, **of: Any) -> ProviderFailed:
    with pytest.raises(ProviderFailed) as caught:
        ask(endpoint, **of)
    return caught.value
