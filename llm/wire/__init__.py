"""One request to one endpoint, in the provider's own wire format, through its SDK and the guarded transport.

The only place that knows pydantic-ai and the SDKs. They cost 76 MB and some seconds to import, so this package itself
imports none of them: the first call does, or a worker that calls `warm_up` before. Web processes check keys, and stay
small.
"""

import asyncio
import importlib

from llm.exchange import Answer, Endpoint, OnText, Request
from llm.wire.http import close_clients
from llm.wire.keys import check_key

__all__ = ["call", "check_key", "close_clients", "warm_up"]

_is_warm = False  # not `in sys.modules`: a module is there before it is whole, and then importing it waits


async def warm_up() -> None:
    """Import the SDKs, in a thread: an event loop that does not tick for seconds is taken for a dead one."""
    global _is_warm
    if not _is_warm:
        await asyncio.to_thread(importlib.import_module, "llm.wire.turn")
        _is_warm = True


async def call(
    endpoint: Endpoint,
    request: Request,
    *,
    on_text: OnText | None = None,
    timeout: float,
    silence: float | None = None,
) -> Answer:
    """What `endpoint` says to `request`; streamed where `on_text` is given, which then hears each piece of text.

    `timeout` is in seconds, for everything together; `silence` for what may pass without a word: without an event of a
    stream, whose headers must come within `listening.UNACCEPTED_SECONDS`, or without a byte of a whole answer. One
    attempt: retries and other endpoints are the caller's. An answer that was cut off at `max_tokens` or refused half-way
    is an `Answer` all the same (`stop` says so), because it was paid for. `usage` is estimated where the provider reports
    none; `cost` is None where no price is known; `path` is left to the caller. Raises `ProviderFailed`, whose message
    holds no key.
    """
    await warm_up()
    from llm.wire.turn import ask

    return await ask(endpoint, request, on_text=on_text, timeout=timeout, silence=silence or timeout)
