"""The whole path with the real SDKs and servers: failing over, breaking, waiting, shedding. The servers' logs bear witness."""

import asyncio
import itertools
import json
import subprocess
import sys
import threading
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import asdict
from typing import Any, TypeAlias

import pytest
from django.conf import settings as django_settings
from pytest_django import Settings

from llm import wire
from llm.ask import ask
from llm.exchange import Answer, Caller, Endpoint
from llm.path.breakers import FAILURES, OPEN_SECONDS, SUCCESSES
from tests.llm.model_server import ModelServer, Reply, cut, fail, slow, text
from tests.llm.stores import NOON, Store, caller, endpoint, question


@pytest.fixture
def servers(settings: Settings) -> Iterator[tuple[ModelServer, ModelServer]]:
    with ModelServer() as first, ModelServer() as second:
        settings.BLOX_HTTP_ALLOW = [first.host, second.host]
        yield first, second


def served(name: str, server: ModelServer, **other: Any) -> Endpoint:
    return endpoint(name, base_url=f"{server.url}/v1", **other)


def run(store: Store, work: Coroutine[Any, Any, Any]) -> Any:
    async def closing() -> Any:
        try:
            return await work
        finally:
            await wire.close_clients()

    return store.run(closing())


async def burst(
    store: Store, pool: Sequence[Endpoint], by: Sequence[Caller], prompt: str = "Go", **more: Any
) -> list[Any]:
    calls = (
        ask(question(prompt), caller=each, endpoints=[pool], timeout=60, shared=store.shared, **more) for each in by
    )
    return await asyncio.gather(*calls, return_exceptions=True)


Path: TypeAlias = list[tuple[str, str]]  # providers and what became of them


def hops(answer: Answer) -> Path:
    return [(hop.provider, hop.outcome) for hop in answer.path]


@pytest.mark.redis
def test_a_provider_that_fails_in_the_middle_of_a_burst_costs_no_answer(
    redis_store: Store, servers: tuple[ModelServer, ModelServer]
) -> None:
    store = redis_store
    first, second = servers
    first.script(*[slow(0.05, text("from the first"))] * 10, *[fail(500)] * 100)
    pool = [served("a", first), served("b", second, priority=1)]
    answers = run(store, burst(store, pool, [caller("enterprise")] * 30))
    assert sorted(answer.provider for answer in answers) == ["a"] * 10 + ["b"] * 20
    assert {request.status for request in first.log} == {200, 500} and len(second.log) == 20

    asked = len(first.log)
    [later] = run(store, burst(store, pool, [caller()]))
    assert hops(later) == [("a", "open"), ("b", "answered")] and len(first.log) == asked


@pytest.mark.once
def test_a_stream_that_is_cut_begins_anew_with_the_next_provider(servers: tuple[ModelServer, ModelServer]) -> None:
    first, second = servers
    first.script(cut("This sentence has no end and"))
    second.script(text("A whole sentence."))
    heard: list[str] = []
    with Store("") as store:
        pool = [served("a", first), served("b", second, priority=1)]
        [answer] = run(store, burst(store, pool, [caller()], on_text=heard.append))
    cut_at = heard.index("")
    assert heard[:cut_at] and "".join(heard[cut_at:]) == answer.text == "A whole sentence."


@pytest.mark.once
def test_a_provider_that_takes_the_call_and_says_nothing_is_failed_over_from(
    servers: tuple[ModelServer, ModelServer],
) -> None:
    first, second = servers
    first.script(slow(3))
    second.script(text("yes"))
    with Store("") as store:
        pool = [served("a", first), served("b", second, priority=1)]
        work = ask(question(), caller=caller(), endpoints=[pool], timeout=1, shared=store.shared, on_text=print)
        answer = run(store, work)
    assert hops(answer) == [("a", "timeout"), ("b", "answered")]
    assert [hop.may_be_charged for hop in answer.path] == [True, False]


class Gate:
    """What a server says, but only once `size` requests are there together. Counts before it answers, and so exactly."""

    def __init__(self, size: int) -> None:
        self.most = self._inside = 0
        self._lock = threading.Lock()
        self._all_here = threading.Barrier(size, timeout=30)

    def __call__(self, body: dict[str, Any]) -> Reply:
        with self._lock:
            self._inside += 1
            self.most = max(self.most, self._inside)
        self._all_here.wait()
        with self._lock:
            self._inside -= 1
        return text("yes")


@pytest.mark.redis
def test_500_calls_at_once_against_a_cap_of_50_are_all_answered_and_never_more_than_50_at_once(
    redis_store: Store, servers: tuple[ModelServer, ModelServer]
) -> None:
    server, gate = servers[0], Gate(50)
    server.answer_with(gate)
    big = [caller("high_frequency")] * 500
    answers = run(redis_store, burst(redis_store, [served("a", server, concurrency=50)], big))
    assert [answer.text if isinstance(answer, Answer) else answer for answer in answers] == ["yes"] * 500
    assert (len(server.log), gate.most) == (500, 50)


class Asker:
    """Another worker process."""

    def __init__(self, redis_url: str, pool: Sequence[Endpoint]) -> None:
        described = [json.dumps(asdict(endpoint)) for endpoint in pool]
        command = [sys.executable, "-m", "tests.llm.asker", redis_url, *described]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, now: float) -> Path:
        """The path of one call."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({"now": now}) + "\n")
        self._process.stdin.flush()
        return [(provider, outcome) for provider, outcome in json.loads(self._process.stdout.readline())]

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.mark.redis
@pytest.mark.processes
@pytest.mark.skipif(not django_settings.REDIS_URL, reason="needs a Redis server")
def test_a_breaker_opens_and_closes_across_two_processes(
    redis_store: Store, servers: tuple[ModelServer, ModelServer]
) -> None:
    first, second = servers
    pool = [served("a", first), served("b", second, priority=1)]
    other = Asker(redis_store.redis_url, pool)

    def here(now: float) -> Path:
        redis_store.now = now
        [answer] = run(redis_store, burst(redis_store, pool, [caller()]))
        return hops(answer)

    by_turns = itertools.cycle([here, other.ask])
    try:
        first.script(*[fail(500)] * FAILURES)
        for _ in range(FAILURES):  # neither process has seen five failures itself
            assert next(by_turns)(NOON) == [("a", "unavailable"), ("b", "answered")]
        for _ in range(2):
            assert next(by_turns)(NOON + OPEN_SECONDS - 1) == [("a", "open"), ("b", "answered")]
        assert len(first.log) == FAILURES

        for _ in range(SUCCESSES - 1):
            assert next(by_turns)(NOON + OPEN_SECONDS) == [("a", "answered")]
        first.script(fail(500))
        assert next(by_turns)(NOON + OPEN_SECONDS) == [("a", "unavailable"), ("b", "answered")]
        assert next(by_turns)(NOON + OPEN_SECONDS) == [("a", "open"), ("b", "answered")]
        for _ in range(SUCCESSES + 2):
            assert next(by_turns)(NOON + 2 * OPEN_SECONDS) == [("a", "answered")]
    finally:
        other.end()
