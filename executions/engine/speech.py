"""What models say, on its way from a worker's loop to who watches: gathered for a moment, and told for all turns at once."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from django.conf import settings

from bloxserver.core import json_text
from executions import speech
from executions.speech import Piece, Turn
from flows.organism.templates import longest_form, redact

# Between two tellings: a reader's eye needs no more. Each costs Redis a command, or the database a write.
WITH_REDIS_SECONDS = 0.05
WITHOUT_REDIS_SECONDS = 0.25
MAX_CHARACTERS = 1024 * 1024  # of a turn; what comes after is not shown until its end


class Saying:
    """One attempt at a turn: `hear` takes each piece of text as it comes, in the event loop, and never waits."""

    def __init__(self, turn: Turn, speaker: "Speaker", *, secrets: Sequence[str] = ()) -> None:
        self.turn = turn
        self.was_told = False
        self._secrets = secrets
        self._held_back = longest_form(secrets)
        self._speaker = speaker
        self._seq = 0
        self._told = 0  # characters
        self._texts: list[str] = []

    def hear(self, text: str) -> None:
        """Take a piece; an empty one says that the answer begins anew."""
        if not text:
            self._seq, self._texts = 0, []
        elif self._told <= MAX_CHARACTERS:
            self._told += len(text)
            self._texts.append(json_text.clean(text))
            self._speaker.tell_soon(self)

    def take(self) -> Piece | None:
        """What has come since the last time, as one piece, without the flow's secrets.

        The end of it stays back, as long as a secret may be of which the rest is yet to come: the turn's end tells all.
        """
        text = redact("".join(self._texts), self._secrets)
        end = len(text) - self._held_back
        self._texts = [text[max(0, end) :]]
        if end <= 0:
            return None
        self._seq += 1
        text = text[:end]
        self.was_told = True
        return Piece(self._seq, text)

    async def close(self) -> None:
        """The turn is over: what was not told yet needs no telling."""
        self._texts = []
        if self.was_told:
            await self._speaker.run(partial(speech.forget, self.turn))


class Speaker:
    """Of one worker. With Redis it has a thread of its own; `in_database_thread` is `Store.call`."""

    def __init__(self, in_database_thread: Callable[[Callable[[], None]], Any]) -> None:
        self._in_database_thread = in_database_thread
        self._waiting: dict[Saying, None] = {}  # in the order of their first words
        self._task: asyncio.Task[None] | None = None

    def tell_soon(self, saying: Saying) -> None:
        self._waiting[saying] = None
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._tell())

    async def run(self, fn: Callable[[], None]) -> None:
        """Run what waits for Redis or the database where the loop need not."""
        await (asyncio.to_thread(fn) if settings.REDIS_URL else self._in_database_thread(fn))

    async def _tell(self) -> None:
        while self._waiting:
            await asyncio.sleep(WITH_REDIS_SECONDS if settings.REDIS_URL else WITHOUT_REDIS_SECONDS)
            waiting, self._waiting = self._waiting, {}
            if pieces := [(saying.turn, piece) for saying in waiting if (piece := saying.take()) is not None]:
                await self.run(partial(speech.say, pieces))
