"""What the clock fires, when, and what it makes of moments that it missed."""

import json
import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone

from accounts.models import User
from executions.models import Execution
from flows.models import Flow
from flows.services import create_flow, start_flow, stop_flow
from tests.triggers.conftest import ECHO
from triggers import cron, tasks
from triggers.models import Trigger
from triggers.services import create_trigger, tick

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


def fired() -> list[datetime | None]:
    return list(Execution.objects.order_by("scheduled_for").values_list("scheduled_for", flat=True))


def test_a_moment_makes_one_execution_and_the_next_is_set(schedule: Schedule) -> None:
    trigger = schedule()
    moment = due_at(trigger)
    assert tick(now=moment - timedelta(seconds=1)) == 0
    assert tick(now=moment) == 1
    assert tick(now=moment + timedelta(seconds=1)) == 0
    execution = Execution.objects.select_related("payload").get()
    assert (execution.trigger_type, execution.trigger_id, execution.scheduled_for) == ("schedule", trigger.pk, moment)
    scheduled_for = f"{moment:%Y-%m-%dT%H:%M:%SZ}"
    assert json.loads(execution.payload.input) == {"scheduledFor": scheduled_for}
    assert json.loads(execution.payload.trigger)["firedAt"] == scheduled_for
    assert due_at(trigger) == moment + MINUTE


def test_the_celery_task_fires_what_is_due(schedule: Schedule) -> None:
    trigger = schedule()
    past = due_at(trigger) - 2 * MINUTE
    Trigger.objects.update(next_fire_at=past, next_moment=past)
    tasks.tick.apply()
    assert Execution.objects.count() == 1
    assert due_at(trigger) > timezone.now()


def test_jitter_delays_every_moment_by_the_same(schedule: Schedule) -> None:
    trigger = schedule(jitter=50)
    offset = cron.offset(trigger.pk, 50)
    first = due_at(trigger)
    tick(now=first)
    assert due_at(trigger) == first + MINUTE
    assert fired() == [first - offset]


@pytest.mark.parametrize(
    ("policy", "minutes_late", "expected"),
    [
        ("latest", 5, [5]),
        ("all", 5, [0, 1, 2, 3, 4, 5]),
        ("none", 5, [5]),  # the last one is on time
    ],
)
def test_an_outage_is_made_up_for_as_the_config_says(
    schedule: Schedule, policy: str, minutes_late: int, expected: list[int]
) -> None:
    trigger = schedule(catchUp=policy)
    first = due_at(trigger)
    now = first + minutes_late * MINUTE + timedelta(seconds=2)
    tick(now=now)
    assert fired() == [first + minute * MINUTE for minute in expected]
    assert due_at(trigger) == first + (minutes_late + 1) * MINUTE


def test_a_late_moment_is_dropped_where_nothing_is_to_be_made_up_for(schedule: Schedule) -> None:
    trigger = schedule("0 * * * *", catchUp="none")
    first = due_at(trigger)
    tick(now=first + 2 * MINUTE)
    assert fired() == []
    assert due_at(trigger) == first + timedelta(hours=1)


def test_a_long_outage_is_made_up_for_over_several_ticks(schedule: Schedule) -> None:
    trigger = schedule(catchUp="all")
    first = due_at(trigger)
    now = first + 119 * MINUTE
    assert [tick(now=now) for _ in range(4)] == [50, 50, 20, 0]
    assert fired() == [first + minute * MINUTE for minute in range(120)]
    assert due_at(trigger) == now + MINUTE


def test_skip_leaves_out_a_moment_while_an_execution_is_alive(schedule: Schedule) -> None:
    trigger = schedule(overlap="skip")
    first = due_at(trigger)
    assert [tick(now=first), tick(now=first + MINUTE)] == [1, 0]
    assert fired() == [first]
    assert due_at(trigger) == first + 2 * MINUTE


def test_cancel_ends_the_one_before(schedule: Schedule) -> None:
    trigger = schedule(overlap="cancel")
    first = due_at(trigger)
    tick(now=first)
    tick(now=first + MINUTE)
    before, after = Execution.objects.order_by("scheduled_for")
    assert (before.status, before.error_message) == (
        "error",
        f'Canceled by the schedule "{trigger.name}", which fired again.',
    )
    assert after.status == "running"


def test_queue_accepts_whatever_is_alive(schedule: Schedule) -> None:
    first = due_at(schedule())
    assert [tick(now=first), tick(now=first + MINUTE)] == [1, 1]


def test_an_overlap_is_about_one_trigger(schedule: Schedule) -> None:
    one, other = schedule(overlap="skip"), schedule(overlap="skip")
    assert due_at(one) == due_at(other)
    assert tick(now=due_at(one)) == 2


def test_a_stop_disarms_and_a_start_arms_from_then_on(schedule: Schedule, flow: Flow, alice: User) -> None:
    trigger = schedule()
    moment = due_at(trigger)
    stop_flow(flow=flow)
    assert tick(now=moment) == 0
    assert Trigger.objects.get().next_fire_at is None
    start_flow(flow=Flow.objects.get(), by=alice)
    assert due_at(trigger) > timezone.now()


def test_a_redeployment_loses_no_moment_that_is_due(schedule: Schedule, alice: User) -> None:
    trigger = schedule()
    past = due_at(trigger) - MINUTE
    Trigger.objects.update(next_fire_at=past, next_moment=past)
    start_flow(flow=Flow.objects.get(), by=alice)
    tick(now=timezone.now())
    assert fired() == [past]


def test_a_refused_firing_does_not_hold_up_the_others(
    schedule: Schedule, alice: User, caplog: pytest.LogCaptureFixture
) -> None:
    refused = schedule()
    Flow.objects.update(status="stopped", container_id=None)  # without the signal, as if it came this moment
    flow = start_flow(flow=create_flow(owner=alice, name="Second", organism_yaml=ECHO), by=alice)
    trigger = create_trigger(flow=flow, type="schedule", name="Good", config={"cron": "* * * * *"}, now=timezone.now())
    moment = due_at(refused)
    with caplog.at_level(logging.WARNING):
        assert tick(now=moment) == 1
    assert Execution.objects.get().trigger_id == trigger.pk
    assert due_at(refused) == moment + MINUTE
    assert f"The schedule {refused.pk} did not fire" in caplog.text


def test_a_schedule_that_can_no_longer_be_read_is_disabled(
    schedule: Schedule, caplog: pytest.LogCaptureFixture
) -> None:
    broken, good = schedule(), schedule()
    Trigger.objects.filter(pk=broken.pk).update(config={"cron": "* * * * *", "timezone": "Europe/Atlantis"})
    moment = due_at(good)
    assert tick(now=moment) == 1
    broken.refresh_from_db()
    assert (broken.enabled, broken.next_fire_at) == (False, None)
    assert f"The schedule {broken.pk} is disabled" in caplog.text


def test_a_moment_that_has_been_fired_is_not_fired_again(schedule: Schedule) -> None:
    trigger = schedule()
    first = due_at(trigger)
    tick(now=first)
    Trigger.objects.update(next_fire_at=first, next_moment=first)  # a clock that was set back
    assert tick(now=first) == 0
    assert fired() == [first]
    assert due_at(trigger) == first + MINUTE
