"""Work done in batches: alone at once, together while one is being done, and each with its own outcome."""

import asyncio
from collections.abc import Awaitable, Coroutine
from threading import Semaphore
from typing import Any, TypeVar

import pytest

from bloxserver.core.batching import Batcher

pytestmark = pytest.mark.once

Result = TypeVar("Result")
SECONDS = 5  # an item that is forgotten is a failure, and not a test that does not end


def run(coroutine: Coroutine[Any, Any, Result]) -> Result:
    return asyncio.run(asyncio.wait_for(coroutine, SECONDS))


def gathered(batcher: Batcher[int, int], items: range) -> list[int | BaseException]:
    async def submit() -> list[int | BaseException]:
        futures: list[Awaitable[int]] = [batcher.submit(item) for item in items]
        return await asyncio.gather(*futures, return_exceptions=True)

    return run(submit())


def test_each_item_gets_its_own_result_and_a_batch_has_a_bound() -> None:
    batches: list[list[int]] = []

    def double(items: list[int]) -> list[int]:
        batches.append(items)
        return [2 * item for item in items]

    assert gathered(Batcher(double, most=4, name="test"), range(10)) == [2 * item for item in range(10)]
    assert batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_what_comes_while_a_batch_is_done_waits_for_the_next_one() -> None:
    batches: list[list[int]] = []
    begun, may_end = Semaphore(0), Semaphore(0)

    def work(items: list[int]) -> list[int]:
        batches.append(items)
        begun.release()
        assert may_end.acquire(timeout=SECONDS)
        return items

    async def a_batch_has_begun() -> None:
        assert await asyncio.to_thread(begun.acquire, timeout=SECONDS)

    async def submit() -> None:
        batcher = Batcher(work, most=100, name="test")
        futures = [batcher.submit(0)]
        await a_batch_has_begun()
        for items in ([1, 2, 3], [4, 5]):
            for item in items:
                futures.append(batcher.submit(item))
                await asyncio.sleep(0)  # the loop goes on between them
            assert len(batcher) == len(items)
            may_end.release()
            await a_batch_has_begun()
        may_end.release()
        await asyncio.gather(*futures)

    run(submit())
    assert batches == [[0], [1, 2, 3], [4, 5]]


def test_a_batch_that_fails_fails_for_all_its_items_and_not_for_the_next() -> None:
    def work(items: list[int]) -> list[int]:
        if 0 in items:
            raise ValueError("no")
        return items

    outcomes = gathered(Batcher(work, most=2, name="test"), range(4))
    assert [type(outcome) for outcome in outcomes] == [ValueError, ValueError, int, int]


def test_an_item_whose_caller_has_left_does_not_keep_the_others_from_theirs() -> None:
    async def submit() -> int:
        batcher: Batcher[int, int] = Batcher(lambda items: items, most=10, name="test")
        left, stays = batcher.submit(1), batcher.submit(2)
        left.cancel()
        return await stays

    assert run(submit()) == 2


def test_it_rests_and_starts_again() -> None:
    batcher: Batcher[int, int] = Batcher(lambda items: items, most=10, name="test")

    async def submit() -> list[int]:
        return [await batcher.submit(item) for item in range(3)]

    assert run(submit()) == [0, 1, 2]
