"""Two clocks at once, and a tick beside what else changes a flow."""

import threading
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from functools import partial

import pytest
from django.db import connection

from accounts.models import Tier, User
from executions.models import Execution
from flows.models import Flow
from flows.services import start_flow, stop_flow
from triggers.models import Moment, Trigger
from triggers.services import tick, ticks

pytestmark = pytest.mark.django_db(transaction=True)


def at_once(*actions: Callable[[], object]) -> list[BaseException]:
    """Run each in a thread of its own, started together, and give what they raised."""
    gate, failures = threading.Barrier(len(actions)), []

    def run(action: Callable[[], object]) -> None:
        gate.wait()
        try:
            action()
        except BaseException as error:
            failures.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=[action]) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failures


def test_two_clocks_fire_each_moment_once(make_trigger: Callable[..., Trigger], alice: User) -> None:
    triggers = [make_trigger("schedule", cron="* * * * *", catchUp="all") for _ in range(6)]
    first = triggers[0].next_fire_at
    assert first is not None
    moments = [first + timedelta(minutes=minute) for minute in range(5)]

    def clock() -> None:
        for moment in moments:
            tick(now=moment)

    assert at_once(clock, clock) == []
    tick(now=moments[-1])  # what each clock left to the other
    made = Counter(Execution.objects.values_list("trigger_id", "scheduled_for"))
    assert made == Counter({(trigger.pk, moment): 1 for trigger in triggers for moment in moments})


def test_more_than_a_thread_takes_are_fired_once_by_two(
    make_trigger: Callable[..., Trigger], alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ticks, "BATCH", 2)
    triggers = [make_trigger("schedule", cron="* * * * *") for _ in range(11)]
    moment = triggers[0].next_fire_at
    assert moment is not None
    assert at_once(lambda: tick(now=moment), lambda: tick(now=moment)) == []
    tick(now=moment)
    made = Counter(Execution.objects.values_list("trigger_id", "scheduled_for"))
    assert made == Counter({(trigger.pk, moment): 1 for trigger in triggers})
    assert Moment.objects.filter(outcome="fired").count() == 11


def test_a_tick_and_a_stop_at_once_leave_nothing_armed(
    make_trigger: Callable[..., Trigger], flow: Flow, alice: User
) -> None:
    trigger = make_trigger("schedule", cron="* * * * *", catchUp="all")
    first = trigger.next_fire_at
    assert first is not None
    for minute in range(10):
        now = first + timedelta(minutes=minute)
        failures = at_once(partial(tick, now=now), partial(stop_flow, flow=flow, force=True))
        assert failures == []
        assert Trigger.objects.get().next_fire_at is None
        start_flow(flow=Flow.objects.get(), by=alice)


def test_the_cap_holds_when_many_create_at_once(make_trigger: Callable[..., Trigger], alice: User) -> None:
    User.objects.filter(pk=alice.pk).update(tier=Tier.FREE)
    failures = at_once(*[lambda: make_trigger("manual")] * 8)
    assert {type(failure).__name__ for failure in failures} == {"TriggerLimitReached"}
    assert Trigger.objects.count() == 5
