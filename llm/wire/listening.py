"""What has come of an answer yet, and for how long nothing may come."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from llm.errors import Failure, ProviderFailed
from llm.exchange import Endpoint
from llm.wire.http import on_accepted

UNACCEPTED_SECONDS = 30.0  # within which a stream's headers are to come, however long the model thinks after them


class Listening:
    """To one call. Whole answers send nothing before they are ready: only the client's read time-out bounds their silence.

    A stream's silence goes by its parsed events, since a ping or a comment of a proxy is a byte, too. `timeout` and
    `silence` are in seconds; a silence as long as the timeout is not bounded.
    """

    def __init__(self, *, streamed: bool, timeout: float, silence: float) -> None:
        self._streamed = streamed
        self._silence = silence
        self._is_bounded = streamed and silence < timeout
        self._quiet = asyncio.timeout(UNACCEPTED_SECONDS if self._is_bounded else None)
        self._accepted = False  # the headers of a good answer have come
        self._began = False  # and something of what the model says

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Raises `TimeoutError` when it has been quiet for too long."""
        token = on_accepted.set(self._accept)
        try:
            async with self._quiet:
                yield
        finally:
            on_accepted.reset(token)

    def heard(self) -> None:
        """An event of the stream has come."""
        self._began = True
        self._go_on()

    def _accept(self) -> None:
        self._accepted = True
        self._began = not self._streamed
        self._go_on()

    def _go_on(self) -> None:
        if self._is_bounded and not self._quiet.expired():
            self._quiet.reschedule(asyncio.get_running_loop().time() + self._silence)

    def silence_of(self, endpoint: Endpoint) -> ProviderFailed | None:
        """The failure, where it was the silence that ended the call."""
        if not self._quiet.expired():
            return None
        seconds = self._silence if self._accepted else UNACCEPTED_SECONDS
        return ProviderFailed(Failure.TIMEOUT, f"{endpoint.provider} said nothing for {seconds:g} seconds.")

    def noted(self, failure: ProviderFailed) -> ProviderFailed:
        """The failure, with what had come before it."""
        failure.accepted, failure.began = self._accepted, self._began
        return failure
