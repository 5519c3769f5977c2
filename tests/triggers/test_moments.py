"""The ledger of schedules: every moment leaves a row that says what became of it, and why."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from rest_framework.test import APIClient

from accounts.models import Tier, User
from bloxserver.core import bulk
from executions.models import Execution
from flows.models import Flow
from flows.services import start_flow
from tests.triggers.conftest import ECHO
from triggers import cron
from triggers.models import Moment, Trigger
from triggers.services import prune_ledgers, tick

MINUTE = timedelta(minutes=1)
Schedule = Callable[..., Trigger]


@pytest.fixture
def schedule(make_trigger: Callable[..., Trigger]) -> Schedule:
    def make(expression: str = "* * * * *", **config: Any) -> Trigger:
        return make_trigger("schedule", cron=expression, **config)

    return make


def due_at(trigger: Trigger) -> datetime:
    moment = Trigger.objects.get(pk=trigger.pk).next_fire_at
    assert moment is not None
    return moment


def outcomes() -> list[tuple[datetime, str]]:
    return list(Moment.objects.order_by("moment").values_list("moment", "outcome"))


def list_of(api: APIClient, trigger: Trigger, **query: str) -> list[dict[str, Any]]:
    answer = api.get(f"/api/v1/flows/{trigger.flow_id}/triggers/{trigger.pk}/moments", query)
    assert answer.status_code == 200, answer.content
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


def test_a_moment_that_is_fired_is_on_record(schedule: Schedule, api: APIClient) -> None:
    trigger = schedule()
    first = due_at(trigger)
    tick(now=first + timedelta(seconds=1.5))
    (row,) = list_of(api, trigger)
    assert row["moment"] == f"{first:%Y-%m-%dT%H:%M:%SZ}"
    assert (row["outcome"], row["code"], row["reason"], row["until"], row["count"]) == ("fired", "", "", None, 1)
    assert row["latenessSeconds"] == 1.5
    assert row["executionId"] == str(Execution.objects.get().pk)


def test_jitter_is_not_lateness(schedule: Schedule) -> None:
    trigger = schedule(jitter=3600)
    tick(now=due_at(trigger))
    row = Moment.objects.get()
    assert (row.outcome, row.lateness) == ("fired", 0)
    assert row.moment == Execution.objects.get().scheduled_for


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("latest", ["missed", "missed", "missed", "fired"]),
        ("all", ["caught_up", "caught_up", "fired", "fired"]),  # a minute late is still on time
        ("none", ["missed", "missed", "missed", "fired"]),
    ],
)
def test_an_outage_leaves_a_row_for_each_moment(schedule: Schedule, policy: str, expected: list[str]) -> None:
    trigger = schedule(catchUp=policy)
    first = due_at(trigger)
    tick(now=first + 3 * MINUTE)
    assert outcomes() == [(first + minute * MINUTE, outcome) for minute, outcome in enumerate(expected)]
    assert Execution.objects.count() == len([outcome for outcome in expected if outcome != "missed"])


def test_the_last_moment_before_a_late_clock_is_caught_up(schedule: Schedule) -> None:
    trigger = schedule("0 * * * *")
    first = due_at(trigger)
    tick(now=first + 90 * MINUTE)
    hour = timedelta(hours=1)
    assert outcomes() == [(first, "missed"), (first + hour, "caught_up")]
    assert Moment.objects.get(outcome="caught_up").lateness == 30 * 60


def test_a_late_moment_that_is_not_made_up_for_is_missed(schedule: Schedule) -> None:
    trigger = schedule("0 * * * *", catchUp="none")
    first = due_at(trigger)
    tick(now=first + 2 * MINUTE)
    row = Moment.objects.get()
    assert (row.moment, row.outcome, row.execution_id) == (first, "missed", None)
    assert "catchUp is none" in row.reason


@pytest.mark.parametrize(("policy", "fired"), [("latest", 1), ("none", 1)])
def test_a_month_without_a_clock_is_a_row_and_not_a_stall(
    schedule: Schedule, policy: str, fired: int, django_assert_max_num_queries: Any
) -> None:
    trigger = schedule(catchUp=policy)
    first = due_at(trigger)
    with django_assert_max_num_queries(20):
        assert tick(now=first + 43_200 * MINUTE) == fired
    missed = Moment.objects.get(outcome="missed")
    assert (missed.moment, missed.until, missed.count) == (first, first + 43_199 * MINUTE, None)
    assert due_at(trigger) == first + 43_201 * MINUTE


def test_moments_missed_together_are_counted(schedule: Schedule) -> None:
    trigger = schedule()
    first = due_at(trigger)
    tick(now=first + 1000 * MINUTE)
    missed = Moment.objects.get(outcome="missed")
    assert (missed.moment, missed.until, missed.count) == (first, first + 999 * MINUTE, 1000)


def test_a_long_outage_that_is_made_up_for_is_so_in_batches(schedule: Schedule) -> None:
    trigger = schedule(catchUp="all")
    first = due_at(trigger)
    now = first + 119 * MINUTE
    assert [tick(now=now) for _ in range(4)] == [50, 50, 20, 0]
    assert [moment for moment, _ in outcomes()] == [first + minute * MINUTE for minute in range(120)]


def test_an_overlap_that_is_skipped_names_the_execution(schedule: Schedule) -> None:
    trigger = schedule(overlap="skip")
    first = due_at(trigger)
    tick(now=first)
    tick(now=first + MINUTE)
    row = Moment.objects.get(outcome="skipped")
    assert (row.moment, row.execution_id) == (first + MINUTE, None)
    assert str(Execution.objects.get().pk) in row.reason


def test_a_moment_that_the_flows_own_limit_skips_is_skipped_and_says_so(schedule: Schedule, flow: Flow) -> None:
    flow.organism_yaml = ECHO.replace("{name: echo}", "{name: echo, concurrency: {limit: 1, overlap: skip}}")
    flow.save()
    start_flow(flow=flow, by=flow.user)
    first = due_at(schedule())
    tick(now=first)
    tick(now=first + MINUTE)
    row = Moment.objects.get(moment=first + MINUTE)
    assert (row.outcome, row.execution_id) == ("skipped", None)
    assert "limited to 1 at once" in row.reason


def test_a_refusal_is_on_record_with_its_code(schedule: Schedule, alice: User) -> None:
    from billing.models import RunBudget

    User.objects.filter(pk=alice.pk).update(tier=Tier.FREE)
    trigger = schedule()
    first = due_at(trigger)
    tick(now=first)
    RunBudget.objects.update(runs=1000)
    tick(now=first + MINUTE)
    row = Moment.objects.get(outcome="refused")
    assert (row.moment, row.code) == (first + MINUTE, "usage_limit_exceeded")
    assert "used up" in row.reason


def test_a_flow_that_stops_at_that_moment_is_a_refusal(schedule: Schedule) -> None:
    trigger = schedule()
    Flow.objects.update(status="stopped", container_id=None)  # without the signal, as if it came this moment
    tick(now=due_at(trigger))
    assert Moment.objects.get().code == "flow_not_running"


def test_a_schedule_that_is_disabled_says_so(schedule: Schedule) -> None:
    trigger = schedule()
    first = due_at(trigger)
    Trigger.objects.update(config={"cron": "* * * * *", "timezone": "Europe/Atlantis"})
    tick(now=first)
    row = Moment.objects.get()
    assert (row.moment, row.outcome) == (first, "refused")
    assert "Europe/Atlantis" in row.reason


def test_a_clock_that_is_set_back_changes_no_row(schedule: Schedule) -> None:
    trigger = schedule()
    first = due_at(trigger)
    tick(now=first)
    Trigger.objects.update(next_fire_at=first, next_moment=first)
    tick(now=first + MINUTE / 2)
    assert outcomes() == [(first, "fired")]


def test_a_moment_that_is_missed_twice_is_missed_once(schedule: Schedule) -> None:
    trigger = schedule("0 * * * *", catchUp="none")
    first = due_at(trigger)
    for _ in range(2):
        tick(now=first + 2 * MINUTE)
        Trigger.objects.update(next_fire_at=first, next_moment=first)  # a clock that was set back
    assert outcomes() == [(first, "missed")]


def test_a_tick_that_fails_leaves_neither_row_nor_execution(
    schedule: Schedule, monkeypatch: pytest.MonkeyPatch
) -> None:
    trigger = schedule()
    first = due_at(trigger)
    with monkeypatch.context() as broken:
        broken.setattr(bulk, "update", lambda *args, **kwargs: 1 / 0)  # after all has been inserted
        assert tick(now=first) == 0
    assert not Moment.objects.exists()
    assert not Execution.objects.exists()
    assert tick(now=first) == 1


def test_the_list_is_latest_first_and_filtered(schedule: Schedule, api: APIClient) -> None:
    trigger = schedule()
    first = due_at(trigger)
    for minute in (0, 1, 3):
        tick(now=first + minute * MINUTE)
    assert [row["outcome"] for row in list_of(api, trigger)] == ["fired", "missed", "fired", "fired"]
    assert len(list_of(api, trigger, outcome="missed")) == 1
    second = (first + MINUTE).isoformat()
    assert len(list_of(api, trigger, since=second)) == 3
    assert len(list_of(api, trigger, until=second)) == 1
    url = f"/api/v1/flows/{trigger.flow_id}/triggers/{trigger.pk}/moments"
    assert api.get(url, {"outcome": "nonsense"}).status_code == 400


def test_moments_go_with_the_tiers_history(schedule: Schedule) -> None:
    trigger = schedule("0 0 * * *")
    first = due_at(trigger)
    tick(now=first)
    assert prune_ledgers(first + timedelta(days=29)) == 0
    assert prune_ledgers(first + timedelta(days=31)) == 1
    assert cron.parse("0 0 * * *").next(first) == due_at(trigger)
