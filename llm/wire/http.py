"""The HTTP client that the SDKs are given: one for each event loop, guarded and bounded."""

from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import aclosing
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import httpx2

from bloxserver.core.guarded_transport import GuardedTransport
from bloxserver.core.loops import PerLoop

MAX_ANSWER_BYTES = 32 * 1024 * 1024  # a stream repeats much around each piece of text

# What goes out. The SDKs add more, some of it from variables that an operator has set for himself
# (OPENAI_ORG_ID, ANTHROPIC_CUSTOM_HEADERS): those are no business of an endpoint that a tenant has named.
_SENT_HEADERS = frozenset(
    {
        "host",
        "connection",
        "accept",
        "accept-encoding",
        "authorization",
        "content-length",
        "content-type",
        "user-agent",
        "x-api-key",
        "anthropic-version",
        "anthropic-beta",
    }
)

# Told, within a call, that the headers of a good answer have come; the SDKs do not tell.
on_accepted: ContextVar[Callable[[], None] | None] = ContextVar("on_accepted", default=None)


class AnswerTooLarge(httpx2.ReadError):
    """The answer is larger than any that a model gives."""


class _Bounded(httpx2.AsyncByteStream):
    """An answer's bytes, as long as they are not too many."""

    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = MAX_ANSWER_BYTES
        async with aclosing(aiter(self._stream)) as chunks:  # type: ignore[type-var]
            async for chunk in chunks:
                left -= len(chunk)
                if left < 0:
                    raise AnswerTooLarge(f"the answer is larger than {MAX_ANSWER_BYTES:,} bytes")
                yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


class _ModelTransport(GuardedTransport):
    """The guarded transport, for answers of models: bounded, and never compressed, so that what is counted is all."""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        for name in [name for name in request.headers if name.lower() not in _SENT_HEADERS]:
            del request.headers[name]
        request.headers["accept-encoding"] = "identity"
        response = await super().handle_async_request(request)
        if response.headers.get("content-encoding", "identity") != "identity":
            await response.aclose()
            raise httpx2.RemoteProtocolError("the answer is compressed, which was not asked for")
        response.stream = _Bounded(response.stream)  # type: ignore[arg-type]
        if response.is_success and (tell := on_accepted.get()) is not None:
            tell()
        return response


@dataclass(slots=True)
class LoopClient:
    """What belongs to one event loop: its connections, and the SDK's models that were made on them."""

    http: httpx2.AsyncClient
    models: OrderedDict[Hashable, Any] = field(default_factory=OrderedDict)  # the one used last is the last


def _made() -> LoopClient:
    # No redirects: a provider does not send them, and the key must not follow one.
    return LoopClient(httpx2.AsyncClient(transport=_ModelTransport(), trust_env=False, follow_redirects=False))


_clients: PerLoop[LoopClient] = PerLoop(_made)
loop_client = _clients.get  # the running event loop's


async def close_clients() -> None:
    """Close the running loop's connections to providers; whoever made the loop calls it before the loop ends."""
    if (client := _clients.pop()) is not None:
        await client.http.aclose()
