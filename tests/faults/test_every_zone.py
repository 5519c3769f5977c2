"""E6, the pure part: every change of the clock in every time zone from 2024 to 2030, against Debian's cron."""

import random
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, available_timezones

import pytest

from tests.faults.experiment import SCALE, SEED
from tests.triggers.debian_cron import MINUTE, runs
from triggers import cron

pytestmark = pytest.mark.experiment

AROUND = timedelta(hours=5)  # a change, before it and after it
FIRST, LAST = datetime(2024, 1, 1, tzinfo=UTC), datetime(2031, 1, 1, tzinfo=UTC)
EXPRESSIONS = [
    # At fixed times, in what is skipped or repeated somewhere: at midnight, one, two, three, or half past.
    *["0 0 * * *", "30 0 * * *", "0 1 * * *", "30 1 * * *", "59 1 * * *", "0 2 * * *", "15 2 * * *", "30 2 * * *"],
    *[
        "45 2 * * *",
        "0 3 * * *",
        "30 3 * * *",
        "30 23 * * *",
        "15,45 0-3 * * *",
        "0-10 2 * * *",
        "0 0,1,2,3,22,23 * * *",
    ],
    # Following real time.
    *[
        "* * * * *",
        "*/5 * * * *",
        "0 * * * *",
        "45 * * * *",
        "*/20 1-3 * * *",
        "* 2 * * *",
        "* 0 * * *",
        "*/30 23 * * *",
    ],
    *["15 */2 * * *", "30 */3 * * *"],
    # On some days only.
    *["30 2 * * sun", "0 0 1 * *", "30 2 L * *", "0 1 * 3,10 *", "30 1 8-14 * mon", "15 0 29,30,31 mar,oct sun"],
]


def of_this_zone(zone: str) -> Iterator[datetime]:
    """The moments of its changes; of a zone that has none, an ordinary noon."""
    info = ZoneInfo(zone)
    found = False
    day, offset = FIRST, FIRST.astimezone(info).utcoffset()
    while day < LAST:
        after = day + timedelta(days=1)
        offset_after = after.astimezone(info).utcoffset()
        if offset != offset_after:
            found = True
            low, high = day, after
            while high - low > MINUTE:
                middle = (low + (high - low) / 2).replace(second=0, microsecond=0)
                if offset == middle.astimezone(info).utcoffset():
                    low = middle
                else:
                    high = middle
            yield high
        day, offset = after, offset_after
    if not found:
        yield datetime(2027, 6, 15, 12, tzinfo=UTC)


@lru_cache(maxsize=1)
def changes() -> list[tuple[str, datetime]]:
    zones = sorted(available_timezones() - {"localtime", "Factory"})
    return [(zone, moment) for zone in zones for moment in of_this_zone(zone)]


def test_every_job_runs_as_under_debians_cron() -> None:
    cases = [(expression, zone, change) for zone, change in changes() for expression in EXPRESSIONS]
    if SCALE < 1:
        cases = random.Random(SEED).sample(cases, min(len(cases), int(20_000 * SCALE)))
    wrong, began = [], time.monotonic()
    for expression, zone, change in cases:
        start, end = change - AROUND, change + AROUND
        schedule = cron.parse(expression, zone)
        first = schedule.next(start - MINUTE)
        found = [] if first >= end else schedule.between(first, end - MINUTE, limit=1000)
        if found != runs(expression, zone, start, end):
            wrong.append(f"{expression} in {zone} at {change:%Y-%m-%d %H:%M}Z")
    print(f"{len(cases):,} cases in {time.monotonic() - began:.0f} s, seed {SEED}")
    assert not wrong, f"{len(wrong)} of {len(cases)}, seed {SEED}:\n" + "\n".join(wrong[:40])


def test_the_changes_are_all_there() -> None:
    """So that a time zone database without the zones would not pass for one without faults."""
    found = changes()
    assert len({zone for zone, _ in found}) > 400
    assert len(found) > 2000
    berlin = [f"{moment:%Y-%m-%d %H:%M}" for zone, moment in found if zone == "Europe/Berlin"]
    assert berlin[:2] == ["2024-03-31 01:00", "2024-10-27 01:00"]
    assert len(berlin) == 14
