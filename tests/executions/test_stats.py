"""What a flow's executions add up to, over HTTP."""

from datetime import timedelta

import pytest
from pytest_django import DjangoAssertNumQueries
from rest_framework.test import APIClient

from accounts.models import User
from tests.executions.factories import NOON, make_execution, make_flow


@pytest.mark.parametrize("path", ["stats", "executions/stats"])
def test_stats_count_errors_with_time_outs_and_average_what_has_ended(api: APIClient, alice: User, path: str) -> None:
    flow = make_flow(alice)
    make_execution(flow, ms=100)
    make_execution(flow, status="error", ms=201)
    make_execution(flow, status="timeout", ms=1000, queued_ms=5000)
    last = NOON + timedelta(hours=1)
    make_execution(flow, status="running", started_at=last)
    make_execution(make_flow(alice, name="Other"), ms=99_999)

    assert api.get(f"/api/v1/flows/{flow.pk}/{path}").json() == {
        "flowId": str(flow.pk),
        "executionsTotal": 4,
        "executionsSuccess": 1,
        "executionsError": 2,
        "avgDurationMs": 433.667,
        "lastExecutedAt": "2026-03-01T13:00:00Z",
    }


def test_stats_of_a_flow_that_never_ran_are_zeros(api: APIClient, alice: User) -> None:
    flow = make_flow(alice)
    assert api.get(f"/api/v1/flows/{flow.pk}/stats").json() == {
        "flowId": str(flow.pk),
        "executionsTotal": 0,
        "executionsSuccess": 0,
        "executionsError": 0,
        "avgDurationMs": 0.0,
        "lastExecutedAt": None,
    }


def test_one_that_was_canceled_in_the_queue_took_no_time(api: APIClient, alice: User) -> None:
    flow = make_flow(alice)
    make_execution(flow, ms=100)
    make_execution(flow, status="error", claimed_at=None)
    assert api.get(f"/api/v1/flows/{flow.pk}/stats").json()["avgDurationMs"] == 50.0


def test_stats_take_the_same_few_queries_however_long_the_history(
    api: APIClient, alice: User, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    flow = make_flow(alice)
    make_execution(flow)
    with django_assert_num_queries(5):  # the user, the flow, the counters, what is alive, the newest
        api.get(f"/api/v1/flows/{flow.pk}/stats")
