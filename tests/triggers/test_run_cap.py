"""A thousand calls of a webhook at once, over HTTP: as many are accepted as the month's cap says, and not one more."""

import http.client
import json
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from accounts.models import Tier, User
from billing.models import RunBudget
from executions.models import Execution
from flows.models import Flow
from flows.services import create_flow, start_flow
from tests.billing.limits import give
from tests.conftest import api_as
from tests.triggers.conftest import ECHO, path_of
from triggers.models import Trigger
from triggers.services import create_trigger

pytestmark = pytest.mark.django_db(transaction=True)

CAP, THREADS = 100, 40
Answers = Counter[tuple[int, str]]  # by status and code


@pytest.fixture
def free_user(alice: User) -> User:
    """May run 100 times a month, and call as often as it likes."""
    User.objects.filter(pk=alice.pk).update(tier=Tier.FREE)
    give(alice, "runs_per_month", CAP)
    give(alice, "api_requests_per_minute", 1_000_000)
    alice.refresh_from_db()
    return alice


def call_at_once(live_server: Any, webhook: Trigger, calls_each: int) -> Answers:
    """Calls from threads that begin at the same moment, each with a connection of its own."""
    start, path = threading.Barrier(THREADS), path_of(webhook)

    def calls(connection: http.client.HTTPConnection) -> list[tuple[int, str]]:
        start.wait()
        answers = [_answer(connection, path) for _ in range(calls_each)]
        connection.close()
        return answers

    connections = [_connected(live_server) for _ in range(THREADS)]
    with ThreadPoolExecutor(THREADS) as threads:
        return Counter(answer for answers in threads.map(calls, connections) for answer in answers)


def _connected(live_server: Any) -> http.client.HTTPConnection:
    """Before all begin: only ten may wait to be connected to Django's server."""
    connection = http.client.HTTPConnection(live_server.thread.host, live_server.thread.port, timeout=120)
    connection.connect()
    return connection


def _answer(connection: http.client.HTTPConnection, path: str) -> tuple[int, str]:
    connection.request("POST", path, "{}", {"Content-Type": "application/json"})
    response = connection.getresponse()
    body = json.load(response)
    return response.status, body.get("code", body.get("status"))


def show(what: str, answers: Answers, user: User) -> dict[str, int]:
    """The figures that have to agree, also as a line for `pytest -s`."""
    budget = RunBudget.objects.filter(user=user).values_list("runs", flat=True)
    figures = {
        "calls": sum(answers.values()),
        "accepted": answers[202, "accepted"],
        "executions": Execution.objects.filter(user=user).count(),
        "budget": sum(budget),
        "usage": api_as(user).get("/api/v1/usage").json()["runsUsed"],
    }
    said = ", ".join(f"{status} {code}: {count}" for (status, code), count in sorted(answers.items()))
    print(f"\n{what}: {figures}; {said}")
    return figures


def test_of_1000_calls_at_once_exactly_as_many_are_accepted_as_the_cap_says(
    live_server: Any, webhook: Trigger, free_user: User
) -> None:
    answers = call_at_once(live_server, webhook, calls_each=25)
    figures = show("cap of 100", answers, free_user)
    assert answers == {(202, "accepted"): CAP, (402, "usage_limit_exceeded"): 1_000 - CAP}
    assert figures == {"calls": 1_000, "accepted": CAP, "executions": CAP, "budget": CAP, "usage": CAP}


def test_a_flow_that_is_full_is_never_told_of_as_a_quota_that_is_used_up(live_server: Any, free_user: User) -> None:
    flow = limited(free_user)
    webhook = create_trigger(flow=flow, type="webhook", name="Hook", config={}, now=flow.updated_at)
    answers = call_at_once(live_server, webhook, calls_each=5)
    figures = show("one at once", answers, free_user)
    assert answers == {(202, "accepted"): 1, (409, "concurrency_limit"): 200 - 1}
    assert figures == {"calls": 200, "accepted": 1, "executions": 1, "budget": 1, "usage": 1}


def limited(user: User) -> Flow:
    yaml = ECHO.replace("{name: echo}", "{name: echo, concurrency: {limit: 1, overlap: skip}}")
    flow = create_flow(owner=user, name="One at once", organism_yaml=yaml)
    return start_flow(flow=flow, by=user)
