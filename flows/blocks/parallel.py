"""Several calls of a block at once."""

import asyncio
from collections.abc import Awaitable, Callable


async def in_parallel(run: Callable[[int], Awaitable[bool]], count: int, limit: int) -> None:
    """`run` every index below `count`, `limit` at once, until one says False.

    What is under way is always awaited, not cancelled: its effects go on record. Any exception is raised after that.
    """
    indices = iter(range(count))
    going_on = True

    async def work() -> None:
        nonlocal going_on
        for index in indices:
            if not going_on:
                return
            if not await run(index):
                going_on = False

    workers = [asyncio.create_task(work()) for _ in range(min(limit, count))]
    try:
        if workers:
            await asyncio.wait(workers)
    finally:
        for worker in workers:
            worker.cancel()  # only has an effect when this task itself was cancelled
        outcomes = await asyncio.gather(*workers, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
