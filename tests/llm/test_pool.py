"""Which endpoint is asked, and who waits for it, in memory and on Redis."""

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from bloxserver.core.loops import PerLoop, background_done
from llm.exchange import Endpoint
from llm.path import pool
from llm.path.breakers import FAILURES, OPEN_SECONDS, Outcome
from llm.path.pool import Passed, Slot, acquire, ordered
from llm.path.shared import LEASE_SECONDS, LEAVE, PREFIX, Call, Script, Shared
from tests.llm.stores import Store, endpoint

A, B = endpoint("a", concurrency=1), endpoint("b", concurrency=1)
UNBOUNDED = endpoint("c")


async def take(store: Store, endpoints: Sequence[Endpoint] = (A,), wait: float = 0.0) -> Slot:
    slot, _ = await acquire(store.shared, endpoints, wait=wait)
    assert slot is not None
    return slot


async def refused(store: Store, endpoints: Sequence[Endpoint], wait: float = 0.0) -> list[Passed]:
    slot, passed = await acquire(store.shared, endpoints, wait=wait)
    assert slot is None
    await background_done()
    return passed


async def open_breaker(store: Store, which: Endpoint) -> None:
    for _ in range(FAILURES):
        await (await take(store, [which])).give_back(Outcome.FAILED)


# The order. -------------------------------------------------------------------------------------------------------
@pytest.mark.once
def test_own_keys_come_first_then_priority() -> None:
    own = endpoint("own", own_key=True, priority=9)
    first, second = endpoint("first", priority=1), endpoint("second", priority=2)
    assert [each.id for each in ordered([second, first, own], random.Random(1))] == ["own", "first", "second"]


@pytest.mark.once
def test_among_equals_each_is_first_as_often_as_its_weight_says() -> None:
    rng = random.Random(1)
    light, heavy, off = endpoint("light", weight=1), endpoint("heavy", weight=3), endpoint("off", weight=0)
    firsts = Counter(ordered([light, heavy, off], rng)[0].id for _ in range(4_000))
    assert firsts["heavy"] == pytest.approx(3_000, abs=150) and firsts["off"] == 0


# Slots and breakers. ----------------------------------------------------------------------------------------------
def test_a_full_endpoint_is_passed_by_for_the_next(store: Store) -> None:
    async def run() -> None:
        first, second = await take(store, [A, B]), await take(store, [A, B])
        assert (first.endpoint.id, second.endpoint.id) == ("a", "b")
        assert [passed.why for passed in await refused(store, [A, B])] == ["full", "full"]
        await first.give_back(Outcome.ANSWERED)
        assert (await take(store, [A, B])).endpoint.id == "a"

    store.run(run())


def test_an_open_breaker_is_passed_by_and_holds_no_slot(store: Store) -> None:
    async def run() -> None:
        await open_breaker(store, A)
        slot, passed = await acquire(store.shared, [A, B], wait=0)
        assert slot is not None and slot.endpoint.id == "b"
        assert [(each.why, each.wait) for each in passed] == [("open", OPEN_SECONDS)]
        for _ in range(3):
            assert [each.why for each in await refused(store, [A])] == ["open"]
        store.now += OPEN_SECONDS
        assert (await take(store, [A])).permit.state == "probing"

    store.run(run())


def test_a_probe_that_finds_no_slot_is_left_to_another(store: Store) -> None:
    async def run() -> None:
        await open_breaker(store, endpoint("a"))
        store.now += OPEN_SECONDS
        assert [each.why for each in await refused(store, [endpoint("a", concurrency=0)])] == ["full"]
        assert (await take(store, [A])).permit.state == "probing"

    store.run(run())


def test_a_killed_workers_slot_is_free_when_its_lease_has_run_out(store: Store) -> None:
    async def run() -> None:
        await take(store)
        store.now += LEASE_SECONDS
        await take(store)

    store.run(run())


def test_an_endpoint_without_a_bound_needs_no_slot(store: Store) -> None:
    async def run() -> None:
        for _ in range(100):
            await take(store, [UNBOUNDED])

    store.run(run())


# Waiting. ---------------------------------------------------------------------------------------------------------
def test_a_call_waits_for_a_slot_and_is_woken_when_one_is_given_back(store: Store) -> None:
    async def run() -> float:
        held = await take(store)
        waiting = asyncio.create_task(take(store, wait=5))
        await asyncio.sleep(0.02)
        started = asyncio.get_running_loop().time()
        await held.give_back(Outcome.ANSWERED)
        await waiting
        return asyncio.get_running_loop().time() - started

    assert store.run(run()) < pool.POLL_SECONDS / 2


def test_who_waits_too_long_is_told_that_all_are_full(store: Store) -> None:
    async def run() -> None:
        await take(store)
        assert [each.why for each in await refused(store, [A], wait=0.05)] == ["full"]

    store.run(run())


def test_calls_are_served_in_the_order_in_which_they_came(store: Store) -> None:
    served: list[int] = []

    async def one(number: int) -> None:
        slot = await take(store, wait=5)
        served.append(number)
        await asyncio.sleep(0.001)
        await slot.give_back(Outcome.ANSWERED)

    async def run() -> None:
        held = await take(store)
        tasks = []
        for number in range(20):
            tasks.append(asyncio.create_task(one(number)))
            await asyncio.sleep(0.005)
        await held.give_back(Outcome.ANSWERED)
        await asyncio.gather(*tasks)

    store.run(run())
    assert served == list(range(20))


def test_a_call_that_is_given_up_leaves_no_slot_behind(store: Store) -> None:
    async def run() -> None:
        for _ in range(20):
            trying = asyncio.create_task(take(store))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            trying.cancel()
            await asyncio.gather(trying, return_exceptions=True)
            if not trying.cancelled():
                await trying.result().give_back(Outcome.UNKNOWN)
        await background_done()
        await take(store)

    store.run(run())


def slow_down(store: Store, script: Script, seconds: float) -> None:
    """Each trip that brings `script` takes so long, there and back."""
    run = store.shared.run

    async def slow(*calls: Call) -> list[Any]:
        results = await run(*calls)
        if any(call.script is script for call in calls):
            await asyncio.sleep(seconds)
        return results

    store.shared.run = slow  # type: ignore[method-assign]


def test_a_call_that_is_given_up_when_it_has_its_slot_and_leaves_the_line_keeps_none(store: Store) -> None:
    async def run() -> None:
        held = [await take(store, [A]), await take(store, [B])]
        waiting = asyncio.create_task(take(store, [A, B], wait=5))
        await asyncio.sleep(0.02)
        slow_down(store, LEAVE, 0.02)
        await held[1].give_back(Outcome.ANSWERED)
        renewed = store.shared._keepers.get()._held
        while len(renewed) < 2:
            await asyncio.sleep(0.001)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        if not waiting.cancelled():
            await waiting.result().give_back(Outcome.UNKNOWN)
        assert renewed == {(f"{PREFIX}slots:a", held[0].permit.call_id)}

    store.run(run())


@pytest.mark.redis
def test_a_slot_goes_to_who_waits_in_another_process_before_who_comes_by(redis_store: Store) -> None:
    other = Shared(redis_store.redis_url, clock=lambda: redis_store.now)  # its line is apart, as another process's is

    async def run() -> None:
        held = await take(redis_store)
        mine = pool._lines
        pool._lines = PerLoop(pool._Lines)
        waiting = asyncio.create_task(acquire(other, [A], wait=5))
        await asyncio.sleep(0.02)
        pool._lines = mine
        await redis_store.shared.run(*held.giving_back(Outcome.ANSWERED))  # nobody is woken: it was another process
        assert [each.why for each in await refused(redis_store, [A])] == ["full"]
        slot, _ = await waiting
        assert slot is not None
        await other.close()

    redis_store.run(run())


@pytest.mark.redis
def test_who_waited_and_is_gone_holds_nobody_up(redis_store: Store) -> None:
    async def run() -> None:
        held = await take(redis_store)
        waiting = asyncio.create_task(take(redis_store, wait=5))
        await asyncio.sleep(0.02)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await held.give_back(Outcome.ANSWERED)
        redis_store.now += pool.IN_LINE_SECONDS
        await take(redis_store)

    redis_store.run(run())
