"""Work that comes in one by one on an event loop, done together in one thread: what a batch costs is shared by its items."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher(Generic[Item, Result]):
    """A lone item is done at once; what comes while a batch is being done makes the next one, of up to `most` items.

    `work` gets the items and gives a result for each. To be used from one event loop.
    """

    def __init__(self, work: Callable[[list[Item]], list[Result]], *, most: int, name: str) -> None:
        self._work = work
        self._most = most
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._waiting: list[tuple[Item, asyncio.Future[Result]]] = []
        self._is_busy = False

    def __len__(self) -> int:
        """How many wait for the next batch."""
        return len(self._waiting)

    def submit(self, item: Item) -> "asyncio.Future[Result]":
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        self._waiting.append((item, future))
        if not self._is_busy:
            # With what else has come in by now, once the loop has looked at it all.
            self._is_busy = True
            loop.call_soon(self._start)
        return future

    def _start(self) -> None:
        batch, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
        work = asyncio.get_running_loop().run_in_executor(self._thread, self._work, [item for item, _ in batch])
        work.add_done_callback(lambda done: self._finish([future for _, future in batch], done))

    def _finish(self, futures: "list[asyncio.Future[Result]]", work: "asyncio.Future[list[Result]]") -> None:
        failure = work.exception()
        for at, future in enumerate(futures):
            if future.cancelled():
                continue
            if failure is not None:
                future.set_exception(failure)
            else:
                future.set_result(work.result()[at])
        self._is_busy = bool(self._waiting)
        if self._is_busy:
            self._start()
