"""The days with 23 and with 25 hours, in zones that change by an hour, by half of one and at odd times, under two clocks.

What is due is told by `debian_cron`. All zones and all changes are in `tests/faults/test_every_zone.py`.
"""

from collections import Counter
from collections.abc import Callable
from datetime import UTC, date, timedelta
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from django.db import connection

from executions.models import Execution
from flows.models import Flow
from tests.triggers.debian_cron import MINUTE, day_of, minutes, runs, start_of
from tests.triggers.test_clocks import at_once
from triggers import cron
from triggers.models import Moment, Trigger
from triggers.services import create_trigger, tick

DAYS = [
    ("Europe/Berlin", date(2026, 3, 29), 23),
    ("Europe/Berlin", date(2026, 10, 25), 25),
    ("America/New_York", date(2026, 3, 8), 23),
    ("America/New_York", date(2026, 11, 1), 25),
    ("Australia/Lord_Howe", date(2026, 10, 4), 23.5),
    ("Australia/Lord_Howe", date(2026, 4, 5), 24.5),  # by half an hour
    ("Pacific/Chatham", date(2026, 9, 27), 23),  # at 02:45
    ("Pacific/Chatham", date(2026, 4, 5), 25),
]
RACED = [DAYS[0], DAYS[1], DAYS[5], DAYS[6]]  # each way to be odd
FIXED = ["30 2 * * *", "15 2 * * *", "0,15,45 1,2 * * *", "30 1 * * *", "0 3 * * *", "*/15 1-3 * * *", "59 1 * * sun"]
WILD = ["0 * * * *", "45 * * * *", "*/20 * * * *", "* 2 * * *", "* 3 * * *", "*/30 1-2 * * *", "45 */2 * * *"]
EVERY = [*FIXED, *WILD]


@pytest.mark.once
@pytest.mark.parametrize(("zone", "day", "hours"), DAYS)
def test_the_days_are_as_long_as_they_are_called(zone: str, day: date, hours: float) -> None:
    assert len(list(minutes(*day_of(zone, day)))) == hours * 60


@pytest.mark.once
@pytest.mark.parametrize("expression", EVERY)
@pytest.mark.parametrize(("zone", "day", "hours"), DAYS)
def test_a_day_with_a_change_fires_as_debians_cron_does(zone: str, day: date, hours: float, expression: str) -> None:
    schedule = cron.parse(expression, zone)
    start, end = start_of(zone, day) - MINUTE, start_of(zone, day + timedelta(days=1)) - MINUTE
    found = schedule.between(schedule.next(start), end, limit=2000)
    assert found == runs(expression, zone, *day_of(zone, day))


@pytest.mark.once
@pytest.mark.parametrize("expression", EVERY)
@pytest.mark.parametrize(("zone", "day"), [(zone, day) for zone, day, _ in DAYS[:4]])
def test_a_day_with_a_change_fires_as_cronsim_says(zone: str, day: date, expression: str) -> None:
    """Walked in one go, as its own documentation does; ours asks again after each firing.

    Only where clocks change by a whole hour at a whole hour: elsewhere cronsim loses moments, or itself.
    """
    end = start_of(zone, day + timedelta(days=1)) - MINUTE
    before = (start_of(zone, day) - MINUTE).astimezone(ZoneInfo(zone))
    walked = []
    for local in CronSim(expression, before):
        if local.astimezone(UTC) > end:
            break
        walked.append(local.astimezone(UTC))
    schedule, one_by_one = cron.parse(expression, zone), [cron.parse(expression, zone).next(before.astimezone(UTC))]
    while (moment := schedule.next(one_by_one[-1])) <= end:
        one_by_one.append(moment)
    assert [moment for moment in one_by_one if moment <= end] == walked


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("zone", "day", "hours"), RACED)
def test_two_clocks_across_a_change_fire_each_moment_once(
    flow: Flow, zone: str, day: date, hours: float, make_trigger: Callable[..., Trigger]
) -> None:
    start = start_of(zone, day) - MINUTE
    triggers = {
        expression: create_trigger(
            flow=flow,
            type="schedule",
            name=expression,
            config={"cron": expression, "timezone": zone, "catchUp": "all"},
            now=start,
        )
        for expression in ["30 2 * * *", "15 2 * * *", "30 1 * * *", "0 * * * *", "*/30 1-2 * * *"]
    }
    nows = list(minutes(*day_of(zone, day)))
    if connection.vendor != "postgresql":  # whose one writer at a time makes the clocks take turns
        nows = nows[:300]

    def clock() -> None:
        for now in nows:
            tick(now=now)

    assert at_once(clock, clock) == []
    tick(now=nows[-1])  # what each clock left to the other
    expected = {
        (trigger.pk, moment): 1
        for expression, trigger in triggers.items()
        for moment in runs(expression, zone, *day_of(zone, day))
        if moment <= nows[-1]
    }
    assert Counter(Execution.objects.values_list("trigger_id", "scheduled_for")) == Counter(expected)
    rows = Moment.objects.values_list("trigger_id", "moment", "execution_id", "outcome")
    assert Counter((trigger_id, moment) for trigger_id, moment, _, _ in rows) == Counter(expected)
    assert {outcome for *_, outcome in rows} <= {"fired", "caught_up"}
    made = dict(Execution.objects.values_list("pk", "scheduled_for"))
    assert {execution_id: moment for _, moment, execution_id, _ in rows} == made
