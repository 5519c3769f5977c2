"""E5, E6, E9: clocks that are several, killed, carried through days of 23 and 25 hours, and set."""

import random
import time
from datetime import UTC, date, datetime, timedelta
from math import ceil

import pytest

from tests.faults.conftest import Begin
from tests.faults.experiment import SCALE, SEED, Experiment, full_form_only, scaled
from tests.faults.schedules import FakeTime, Schedules, clocks, make_schedules
from tests.faults.server import Flow, Server
from tests.triggers.debian_cron import MINUTE, day_of
from tests.triggers.test_clock_changes import EVERY
from tests.waiting import wait_until

pytestmark = pytest.mark.experiment

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
SHORT = "  - {name: done, handler: blox.transform, config: {value: 1}}\n"
BEFORE_ALL = datetime(2025, 1, 1, tzinfo=UTC)
EACH_MINUTE = ["* * * * *", "*/2 * * * *", "1-59/3 * * * *", "*/5 * * * *"]
DAYS = [  # of 23 and 25 hours, or a half; in the past, so that what is made is due for the workers, whose time is the real one
    [("Europe/Berlin", date(2025, 3, 30)), ("Europe/Berlin", date(2025, 10, 26))],
    [("America/New_York", date(2025, 3, 9)), ("America/New_York", date(2025, 11, 2))],
    [("Australia/Lord_Howe", date(2025, 10, 5)), ("Australia/Lord_Howe", date(2025, 4, 6))],
]


def some_time_ago() -> datetime:
    return datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(hours=3)


def flows_of(trial: Experiment, *, tenants: int, flows: int) -> list[Flow]:
    return [tenant.flow(SHORT) for tenant in [trial.tenant() for _ in range(tenants)] for _ in range(flows)]


def moments_on_record(server: Server) -> int:
    [(count,)] = server.postgres.query("SELECT count(*) FROM triggers_moment")
    return int(count)


@pytest.mark.parametrize("number", [2, pytest.param(3, marks=full_form_only)])
def test_e5_clocks_at_once_are_killed_again_and_again(begin: Begin, server: Server, number: int) -> None:
    """Ten minutes, fast: at random, and right after they have fired."""
    start = some_time_ago()
    minutes = 10
    with begin(f"E5 {number} clocks killed") as trial, clocks(server, number, start) as fake:
        configs = [{"cron": cron, "catchUp": "all", "jitter": jitter} for cron in EACH_MINUTE for jitter in (0, 20)]
        flows = flows_of(trial, tenants=2, flows=2)
        schedules = make_schedules(server, flows, configs, since=start, until=start + minutes * MINUTE)
        trial.schedules.append(schedules)
        right_after = 0
        fake.set(start, rate=minutes * 60 / scaled(150, least=15))
        while fake.now() < schedules.until:
            before = moments_on_record(server)
            if trial.random.random() < 0.6:
                wait_until(
                    lambda: moments_on_record(server) > before or fake.now() >= schedules.until,  # noqa: B023
                    seconds=30,
                )
                right_after += 1
            else:
                trial.pause(0.2, 2.0)
            trial.kill(f"clock-{trial.random.randrange(number) + 1}")
        fake.set(schedules.until + MINUTE / 2, rate=0)  # and what jitter has left
        schedules.wait(server.postgres, seconds=30)
        trial.remarks.append(f"{right_after} right after firing")


@pytest.mark.parametrize(
    "days", DAYS if SCALE >= 1 else [random.Random(SEED).choice(DAYS)], ids=lambda days: days[0][0]
)
def test_e6_a_clock_is_carried_through_the_days_on_which_clocks_change(
    begin: Begin, server: Server, days: list[tuple[str, date]]
) -> None:
    with begin(f"E6 two days in {days[0][0]}") as trial, clocks(server, 1, BEFORE_ALL) as fake:
        for zone, day in sorted(days, key=lambda day: day[1]):
            start, end = day_of(zone, day)
            fake.set(start - MINUTE, rate=0)
            flows = flows_of(trial, tenants=1, flows=1)
            configs = [{"cron": cron, "timezone": zone, "catchUp": "all"} for cron in EVERY]
            schedules = make_schedules(server, flows, configs, since=start - MINUTE, until=end - MINUTE)
            trial.schedules.append(schedules)
            fake.set(start - MINUTE, rate=25 * 3600 / scaled(40, least=12))
            wait_until(lambda end=end: fake.now() >= end, seconds=60)  # type: ignore[misc]
            fake.set(end, rate=0)
            schedules.wait(server.postgres, seconds=60)
            trial.tenants[-1].post(f"/flows/{flows[0].id}/stop", {})


def test_e6_a_clock_is_set_forward_by_a_day_and_back_by_an_hour(begin: Begin, server: Server) -> None:
    start = some_time_ago() - 2 * DAY
    with begin("E6 clock set") as trial, clocks(server, 2, start) as fake:
        configs = [{"cron": cron} for cron in ("* * * * *", "*/7 * * * *", "0 * * * *", "0 0 * * *", "30 12 * * *")]
        schedules = make_schedules(
            server, flows_of(trial, tenants=1, flows=1), configs, since=start, until=start + MINUTE, fire_all=False
        )
        trial.schedules.append(schedules)
        go_to(start + MINUTE, fake, schedules, server)
        before = executions_of(schedules, server)

        go_to(start + DAY, fake, schedules, server)
        after = executions_of(schedules, server)
        assert max(after[trigger] - before.get(trigger, 0) for trigger in after) == 1  # at most one catch-up each

        fake.set(start + DAY - HOUR, rate=60)
        time.sleep(5)  # five minutes that have been before
        assert executions_of(schedules, server) == after
        go_to(start + DAY + 2 * MINUTE, fake, schedules, server)


def go_to(moment: datetime, fake: FakeTime, schedules: Schedules, server: Server) -> None:
    """Set the clock to `moment`, and wait until all that is due by then is dealt with."""
    fake.set(moment, rate=0)
    schedules.until = moment
    schedules.wait(server.postgres, seconds=30)


def executions_of(schedules: Schedules, server: Server) -> dict[str, int]:
    return dict(
        server.postgres.query(
            "SELECT trigger_id::text, count(*) FROM executions_execution WHERE trigger_id::text = ANY(%s) GROUP BY 1",
            list(schedules.configs),
        )
    )


@full_form_only
def test_e9_many_schedules_of_many_flows_are_due_in_one_second(begin: Begin, server: Server) -> None:
    start = some_time_ago()
    tenants, flows = 5, 11
    with begin("E9 schedules of one second") as trial, clocks(server, 2, start) as fake:
        each = ceil(scaled(10_000, least=1_000) / (tenants * flows))
        every = flows_of(trial, tenants=tenants, flows=flows)
        configs = [{"cron": "* * * * *"}] * each
        trial.schedules.append(make_schedules(server, every, configs, since=start, until=start + MINUTE))
        fake.set(start + MINUTE - timedelta(seconds=2), rate=1)
        wait_until(lambda: fake.now() >= start + MINUTE)
        fake.set(start + MINUTE, rate=0)
        trial.schedules[0].wait(server.postgres, seconds=120)
        trial.settle(seconds=180)
