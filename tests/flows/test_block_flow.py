"""Blocks that steer: for_each, delay, call_flow."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from asgiref.sync import async_to_sync
from pydantic import ValidationError

from flows.blocks.base import BlockError, Effects, Output
from flows.blocks.call_flow import CallFlow
from flows.blocks.delay import Delay
from flows.blocks.for_each import ForEach, ForEachConfig
from tests.flows.fakes import FakeContext, run_block


class Peer:
    """A peer that doubles numbers, fails on texts, and notes how many calls were under way at once."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.finished: list[Any] = []
        self.under_way = self.most = 0

    async def __call__(self, peer: str, item: Any) -> Any:
        self.calls.append(item)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(0.01 if item == 0 else 0.001)
        self.under_way -= 1
        self.finished.append(item)
        if isinstance(item, str):
            raise BlockError(f"{item} is no number", code="bad_item", retryable=False)
        return item * 2


def each(items: Any, peer: Peer, journal: dict[str, Any] | None = None, **config: Any) -> Output:
    ctx = FakeContext(peers=("double", "add_up", "note"), call=peer, journal=journal)
    result = run_block(ForEach(), {"items": items, "each": "double", **config}, "the payload", ctx)
    assert isinstance(result, Output)
    return result


# for_each. -------------------------------------------------------------------------------------------------------
def test_for_each_gives_the_results_in_item_order_to_its_other_peers() -> None:
    assert each(list(range(25)), Peer()) == Output([2 * n for n in range(25)], to=("add_up", "note"))


def test_for_each_of_an_empty_list_gives_an_empty_list() -> None:
    peer = Peer()
    assert each([], peer) == Output([], to=("add_up", "note"))
    assert peer.calls == []


@pytest.mark.parametrize(("limit", "most"), [(1, 1), (3, 3), (100, 20)])
def test_for_each_has_no_more_items_under_way_than_it_may(limit: int, most: int) -> None:
    peer = Peer()
    each(list(range(20)), peer, max_parallel=limit)
    assert peer.most == most


def test_for_each_fails_with_the_first_failed_item_and_starts_no_more() -> None:
    peer = Peer()
    with pytest.raises(BlockError, match=r"^Item 1: bad is no number$") as caught:
        each([0, "bad", 2, 3, 4, 5], peer, max_parallel=2)
    assert (caught.value.code, caught.value.retryable) == ("bad_item", False)
    assert peer.calls == peer.calls[:2] == [0, "bad"]
    assert 0 in peer.finished, "what was under way is awaited"


def test_for_each_gives_null_for_a_failed_item_that_it_may_skip() -> None:
    assert each([1, "bad", 3], Peer(), on_item_error="skip").value == [2, None, 6]


def test_for_each_asks_only_for_what_the_journal_lacks_when_it_runs_again() -> None:
    journal: dict[str, Any] = {}
    with pytest.raises(BlockError):
        each([1, 2, "bad"], Peer(), journal, max_parallel=1)
    peer = Peer()
    assert each([1, 2, 3], peer, journal).value == [2, 4, 6]
    assert peer.calls == [3]


@pytest.mark.parametrize(
    ("items", "shown"),
    [(None, "null"), ("a,b", "str 'a,b'"), ({"a": 1}, "dict {'a': 1}"), (3, "int 3"), ("x" * 99, "str 'xxx")],
)
def test_for_each_says_what_came_instead_of_a_list(items: Any, shown: str) -> None:
    with pytest.raises(BlockError) as caught:
        each(items, Peer())
    assert caught.value.message.startswith(f"items must be a list, but is {shown}")
    assert (caught.value.code, caught.value.retryable) == ("not_a_list", False)
    assert len(caught.value.message) < 250


@pytest.mark.parametrize(
    "config", [{"max_parallel": 0}, {"max_parallel": 101}, {"on_item_error": "ignore"}, {"parallel": 1}]
)
def test_for_each_refuses_a_config_that_it_does_not_know(config: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        each([1], Peer(), **config)


def test_for_each_names_the_peer_that_it_calls() -> None:
    assert ForEach().named_peers({"each": "double"}) == [(("each",), "double")]
    assert ForEach().called_peers({"each": "double"}) == ["double"]
    assert ForEach().named_peers({"each": 3}) == []


class Parked(Exception):
    """The engine's own: neither a failed item nor a crash."""


def test_for_each_lets_what_is_under_way_end_before_the_engines_own_exception_passes() -> None:
    finished = []

    async def call(peer: str, item: int) -> int:
        if item == 0:
            raise Parked
        await asyncio.sleep(0.005)
        finished.append(item)
        return item

    ctx = FakeContext(peers=("double",), call=call)
    with pytest.raises(Parked):
        run_block(ForEach(), {"items": [0, 1, 2], "each": "double", "on_item_error": "skip"}, None, ctx)
    assert finished == [1, 2]


def test_for_each_takes_its_calls_along_when_it_is_cancelled() -> None:
    cancelled = []

    async def call(peer: str, item: int) -> int:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(item)
            raise
        return item

    async def run() -> None:
        ctx = FakeContext(peers=("double",), call=call)
        config = ForEachConfig.model_validate({"items": [1, 2, 3], "each": "double", "max_parallel": 2})
        async with asyncio.timeout(0.01):
            await ForEach().run(ctx, config, None)

    with pytest.raises(TimeoutError):
        async_to_sync(run)()
    assert sorted(cancelled) == [1, 2]


# delay. ----------------------------------------------------------------------------------------------------------
def wait(config: dict[str, Any], journal: dict[str, Any] | None = None) -> datetime:
    ctx = FakeContext(journal=journal)
    assert run_block(Delay(), config, {"a": 1}, ctx) == {"a": 1}
    [moment] = ctx.slept_until
    return moment


def test_delay_waits_so_many_seconds() -> None:
    before = datetime.now(UTC)
    moment = wait({"seconds": 90})
    assert before + timedelta(seconds=90) <= moment <= datetime.now(UTC) + timedelta(seconds=90)


def test_delay_keeps_its_first_moment_when_it_runs_again() -> None:
    journal: dict[str, Any] = {}
    assert wait({"seconds": 90}, journal) == wait({"seconds": 90}, journal)


@pytest.mark.parametrize(
    ("until", "moment"),
    [
        ("2026-01-24T18:00:00+01:00", datetime(2026, 1, 24, 17, tzinfo=UTC)),
        ("2026-01-24T18:00Z", datetime(2026, 1, 24, 18, tzinfo=UTC)),
        (1_700_000_000, datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)),
        (1_700_000_000.5, datetime(2023, 11, 14, 22, 13, 20, 500_000, tzinfo=UTC)),
    ],
)
def test_delay_waits_until_a_moment(until: Any, moment: datetime) -> None:
    assert wait({"until": until}) == moment


@pytest.mark.parametrize(
    ("until", "complaint"),
    [
        ("2026-12-24T18:00:00", "it has no zone; add Z or an offset such as"),
        ("2026-12-24", "it has no zone"),
        ("tomorrow", "Invalid isoformat string"),
        ("", "Invalid isoformat string"),
        ("9999-12-31T23:59:59Z", "more than 366 days away"),
        ("0001-01-01T00:00:00+05:00", "until is"),
        (1e300, "until is"),
        (float("nan"), "not a moment"),
        (-1e15, "until is"),
    ],
)
def test_delay_says_why_a_moment_is_none(until: Any, complaint: str) -> None:
    with pytest.raises(BlockError, match=complaint) as caught:
        run_block(Delay(), {"until": until})
    assert (caught.value.code, caught.value.retryable) == ("invalid_delay", False)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"seconds": 1, "until": 1},
        {"seconds": None},
        {"until": None},
        {"seconds": -1},
        {"seconds": 366 * 86_400 + 1},
        {"seconds": float("inf")},
        {"seconds": float("nan")},
        {"seconds": True},
        {"until": True},
        {"minutes": 1},
    ],
)
def test_delay_takes_exactly_one_bounded_wait(config: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        run_block(Delay(), config)


# call_flow. ------------------------------------------------------------------------------------------------------
def test_call_flow_gives_the_output_of_the_flow_that_it_called() -> None:
    child = uuid4()
    ctx = FakeContext(executions={child: {"sum": 3}})
    assert run_block(CallFlow(), {"flow": "add"}, [1, 2], ctx) == {"sum": 3}
    assert ctx.started == [("add", [1, 2])]


def test_call_flow_gives_the_execution_when_it_does_not_wait() -> None:
    ctx = FakeContext()
    result = run_block(CallFlow(), {"flow": "add", "wait": False}, [1, 2], ctx)
    assert list(result) == ["executionId"] and UUID(result["executionId"])


def test_call_flow_starts_the_flow_once_when_it_runs_again() -> None:
    journal: dict[str, Any] = {}
    first, second = FakeContext(journal=journal), FakeContext(journal=journal)
    config = {"flow": "add", "wait": False}
    assert run_block(CallFlow(), config, 1, first) == run_block(CallFlow(), config, 1, second)
    assert second.started == []
    assert CallFlow().effects(config) is Effects.OURS
