"""A thread that works all the time keeps its connection, and is not stuck with one that the database has ended."""

import asyncio
import time
from collections.abc import Callable, Iterator

import pytest
from django.db import connection
from django.http import HttpResponse
from django.test import RequestFactory

from bloxserver.core.database import TRUSTED_SECONDS
from bloxserver.core.deferred import CAN_DEFER, finished
from executions.engine.store import close_connection
from triggers import ingress

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif("connection.vendor != 'postgresql'", reason="no server that could end a connection"),
]
UNKNOWN = "x" * 43  # no webhook's token: the answer is the database's, and a 503 where that is away


@pytest.fixture
def call() -> Iterator[Callable[[], int]]:
    """Calls a webhook as the server does, in the thread that settles many calls at once; the answer's status."""

    async def answer() -> HttpResponse:
        request = RequestFactory().post(f"/webhooks/{UNKNOWN}")
        request.META[CAN_DEFER] = True
        deferred: HttpResponse = ingress.receive(request, UNKNOWN)
        return finished(await deferred.future)  # type: ignore[attr-defined]

    yield lambda: asyncio.run(answer()).status_code
    ingress._batcher._thread.submit(close_connection).result()  # it would outlive the test's database


def end_connections() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        assert cursor.fetchall() == [(True,)]


def test_a_connection_that_ended_while_nothing_came_in_costs_no_call(call: Callable[[], int]) -> None:
    assert call() == 404
    time.sleep(TRUSTED_SECONDS)
    end_connections()
    assert call() == 404


def test_a_connection_that_ended_amid_calls_costs_one_call_at_most(call: Callable[[], int]) -> None:
    assert call() == 404
    end_connections()
    call()  # finds out, where it comes within the second
    assert call() == 404
