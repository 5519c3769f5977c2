"""Runs that are accepted, deleted and counted at the same time: none is missed, and none is counted twice."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from threading import Barrier, Event
from typing import Any

import pytest
from django.core.cache import cache
from django.db import connection, transaction
from django.utils import timezone

from accounts.models import Tier, User
from billing.models import DeletedRuns, RunBudget, RunNotice
from billing.periods import period_of
from executions.history import delete_some_of_flow
from executions.models import Execution
from executions.services import accept_execution
from executions.usage.notices import notice_runs
from executions.usage.recount import recount
from tests.conftest import api_as
from tests.executions.factories import make_flow

pytestmark = pytest.mark.django_db(transaction=True)

MOST_RUNS = 450  # of each of two who accept: together less than the free tier has
COUNTS = 25
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


def in_thread(work: Callable[[], Any]) -> Callable[[], Any]:
    def run() -> Any:
        try:
            return work()
        finally:
            connection.close()

    return run


@pytest.mark.parametrize("tier", [Tier.PRO, Tier.FREE])
def test_no_count_misses_a_run_or_has_it_twice_while_runs_come_and_go(alice: User, tier: str) -> None:
    User.objects.filter(pk=alice.pk).update(tier=tier)
    alice.refresh_from_db()
    flow, over = make_flow(alice), Event()
    begun: list[int] = []
    done: list[int] = []
    counts: list[int] = []

    def accept() -> None:
        for number in range(MOST_RUNS):
            if len(counts) >= COUNTS:
                break
            begun.append(number)
            accept_execution(flow=flow, trigger_type="manual", now=timezone.now())
            done.append(number)

    def delete() -> None:
        while not over.is_set():
            with transaction.atomic():
                delete_some_of_flow(flow)

    def count() -> None:
        api = api_as(alice)
        while not over.is_set():
            least = len(done)
            answer = api.get("/api/v1/usage")
            if answer.status_code != 429:  # asked too often for the tier
                counts.append(answer.json()["runsUsed"])
                assert least <= counts[-1] <= len(begun)

    with ThreadPoolExecutor(5) as pool:
        others = [pool.submit(in_thread(work)) for work in (delete, delete, count)]
        accepting = [pool.submit(in_thread(accept)) for _ in range(2)]
        try:
            for future in accepting:
                future.result(timeout=60)
        finally:
            over.set()
        for future in others:
            future.result(timeout=60)

    assert len(counts) > 3
    cache.clear()  # of what was asked in this minute
    assert api_as(alice).get("/api/v1/usage").json()["runsUsed"] == len(done)
    deleted = sum(DeletedRuns.objects.values_list("runs", flat=True))
    assert deleted > 0
    assert Execution.objects.count() + deleted == len(done)
    assert list(RunBudget.objects.values_list("runs", flat=True)) == ([len(done)] if tier == Tier.FREE else [])


@pytest.mark.parametrize(
    ("path", "runs"),
    [
        ("/api/v1/usage", lambda shown: shown["runsUsed"]),
        ("/api/v1/usage/history", lambda shown: shown["items"][0]["runsUsed"]),
        ("/api/v1/usage/daily", lambda shown: sum(row["runs"] for row in shown)),
    ],
)
def test_runs_that_are_deleted_right_after_executions_are_read_are_counted_once(
    alice: User, path: str, runs: Callable[[Any], int]
) -> None:
    flow, read = make_flow(alice), []
    for _ in range(3):
        accept_execution(flow=flow, trigger_type="manual", now=timezone.now())

    def delete() -> None:
        with transaction.atomic():
            delete_some_of_flow(flow)

    def step_in(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        result = execute(sql, params, many, context)
        if "executions_execution" in sql:
            read.append(sql)
            with ThreadPoolExecutor(1) as pool:
                pool.submit(in_thread(delete)).result(timeout=20)
        return result

    with connection.execute_wrapper(step_in):
        shown = api_as(alice).get(path).json()

    assert (len(read), Execution.objects.count(), runs(shown)) == (1, 0, 3)


def test_a_recount_finds_no_difference_while_runs_are_accepted(alice: User) -> None:
    User.objects.filter(pk=alice.pk).update(tier=Tier.FREE)
    alice.refresh_from_db()
    flow, over = make_flow(alice), Event()

    def accept() -> int:
        accepted = 0
        while not over.is_set() and accepted < MOST_RUNS:
            accept_execution(flow=flow, trigger_type="manual", now=timezone.now())
            accepted += 1
        return accepted

    with ThreadPoolExecutor(2) as pool:
        accepting = [pool.submit(in_thread(accept)) for _ in range(2)]
        try:
            period = period_of(user=alice, now=timezone.now())
            found = [list(recount(user=alice, period=period)) for _ in range(COUNTS)]
        finally:
            over.set()
        accepted = sum(future.result(timeout=60) for future in accepting)

    assert (found, accepted > 0) == ([[]] * COUNTS, True)


def test_of_many_who_notice_at_the_same_time_one_tells(alice: User) -> None:
    DeletedRuns.objects.create(user=alice, starts_at=NOW.replace(hour=0), runs=100_000)
    together = Barrier(4)

    def notice() -> None:
        together.wait(timeout=20)
        notice_runs(now=NOW)

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(in_thread(notice)) for _ in range(4)]:
            future.result(timeout=60)

    assert list(RunNotice.objects.values_list("percent", flat=True)) == [100]
