"""What belongs to one event loop."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class PerLoop(Generic[T]):
    """One T for each event loop, made at its first use: connections and events are bound to the loop they were made in."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._made: dict[asyncio.AbstractEventLoop, T] = {}

    def get(self) -> T:
        """The running loop's."""
        loop = asyncio.get_running_loop()
        if loop not in self._made:
            for ended in [known for known in self._made if known.is_closed()]:
                del self._made[ended]
            self._made[loop] = self._make()
        return self._made[loop]

    def pop(self) -> T | None:
        return self._made.pop(asyncio.get_running_loop(), None)


_kept: PerLoop[set[asyncio.Task[Any]]] = PerLoop(set)  # a loop holds its tasks weakly


def in_background(work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
    """Run to its end, whoever is cancelled meanwhile: for what gives back. `background_done` waits for it."""
    kept, task = _kept.get(), asyncio.create_task(work)
    kept.add(task)
    task.add_done_callback(kept.discard)
    return task


def background() -> frozenset["asyncio.Task[Any]"]:
    """What `in_background` runs in this loop: not to be cancelled with what else is left in it."""
    return frozenset(_kept.get())


async def background_done() -> None:
    """Wait for what `in_background` runs in this loop: for whoever made the loop, before it ends."""
    while kept := _kept.get():
        await asyncio.wait(kept)


async def or_undone(work: Coroutine[Any, Any, T], undo: Callable[[T], Awaitable[object]]) -> T:
    """What `work`, which takes something, gives. Who is cancelled meanwhile leaves at once; it is undone when it is there."""
    task = in_background(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        in_background(_undone(task, undo))
        raise


async def _undone(task: "asyncio.Task[T]", undo: Callable[[T], Awaitable[object]]) -> None:
    await undo(await task)
