"""The rules of schedules, without a database."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triggers import cron

pytestmark = pytest.mark.once

MONDAY = datetime(2026, 6, 1, tzinfo=UTC)


def local(expression: str, zone: str, after: str, count: int) -> list[str]:
    """The first moments after a local time, as local times with their offset."""
    schedule = cron.parse(expression, zone)
    start = datetime.fromisoformat(after).replace(tzinfo=schedule.zone)
    return [f"{moment.astimezone(schedule.zone):%d %H:%M%z}" for moment in schedule.first(count, after=start)]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("* * * * *", ["01 00:01", "01 00:02"]),
        ("*/15 * * * *", ["01 00:15", "01 00:30"]),
        ("0 9 * * mon-fri", ["01 09:00", "02 09:00"]),
        ("0 0 * * 0", ["07 00:00", "14 00:00"]),
        ("0 0 * * 7", ["07 00:00", "14 00:00"]),  # Sunday is 0 and 7
        ("0 0 13 * fri", ["05 00:00", "12 00:00"]),  # both days restricted: either
        ("0 0 */2 * fri", ["05 00:00", "19 00:00"]),  # a star before a step: both, as in Debian's cron
        ("0 0 L * *", ["30 00:00", "31 00:00"]),
        ("*/60 */24 * * *", ["02 00:00", "03 00:00"]),  # the largest steps that do what they say
        ("@hourly", ["01 01:00", "01 02:00"]),
        ("@Daily", ["02 00:00", "03 00:00"]),
        ("@weekly", ["07 00:00", "14 00:00"]),
    ],
)
def test_an_expression_fires_when_cron_would(expression: str, expected: list[str]) -> None:
    moments = cron.parse(expression).first(2, after=MONDAY)
    assert [f"{moment:%d %H:%M}" for moment in moments] == expected


@pytest.mark.parametrize(
    ("zone", "eve", "expression", "expected"),
    [
        # Clocks go forward from 02:00 to 03:00.
        ("Europe/Berlin", "2026-03-28 12:00", "30 2 * * *", ["29 03:00+0200", "30 02:30+0200"]),
        ("Europe/Berlin", "2026-03-28 12:00", "0,30 2 * * *", ["29 03:00+0200", "30 02:00+0200"]),
        ("Europe/Berlin", "2026-03-29 01:20", "*/30 * * * *", ["29 01:30+0100", "29 03:00+0200"]),
        ("Europe/Berlin", "2026-03-28 12:00", "*/30 2 * * *", ["30 02:00+0200", "30 02:30+0200"]),
        ("America/New_York", "2026-03-07 12:00", "15 2 * * *", ["08 03:00-0400", "09 02:15-0400"]),
        ("America/New_York", "2026-03-08 01:20", "*/20 * * * *", ["08 01:40-0500", "08 03:00-0400"]),
        ("Australia/Sydney", "2026-10-03 12:00", "45 2 * * *", ["04 03:00+1100", "05 02:45+1100"]),
        ("Australia/Lord_Howe", "2026-10-03 12:00", "15 2 * * *", ["04 02:30+1100", "05 02:15+1100"]),  # half an hour
        # Clocks go back, and an hour comes twice.
        ("Europe/Berlin", "2026-10-24 12:00", "30 2 * * *", ["25 02:30+0200", "26 02:30+0100"]),
        ("Europe/Berlin", "2026-10-25 01:50", "0 * * * *", ["25 02:00+0200", "25 02:00+0100", "25 03:00+0100"]),
        ("America/New_York", "2026-10-31 12:00", "30 1 * * *", ["01 01:30-0400", "02 01:30-0500"]),
        ("America/New_York", "2026-11-01 00:50", "0 * * * *", ["01 01:00-0400", "01 01:00-0500", "01 02:00-0500"]),
        ("Australia/Sydney", "2026-04-04 12:00", "30 2 * * *", ["05 02:30+1100", "06 02:30+1000"]),
        ("Australia/Sydney", "2026-04-05 01:50", "*/30 2 * * *", ["05 02:00+1100", "05 02:30+1100", "05 02:00+1000"]),
    ],
)
def test_a_change_of_clocks_follows_debians_cron(zone: str, eve: str, expression: str, expected: list[str]) -> None:
    assert local(expression, zone, eve, len(expected)) == expected


def test_the_second_pass_of_a_repeated_hour_offers_no_moment_of_the_first() -> None:
    second_pass = datetime(2026, 10, 25, 1, 10, tzinfo=UTC)  # 02:10 in Berlin, for the second time
    assert cron.parse("30 2 * * *", "Europe/Berlin").next(second_pass) == datetime(2026, 10, 26, 1, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("expression", "part"),
    [
        ("", "has 0"),
        ("* * * *", "has 4"),
        ("* * * * * *", "Seconds are not supported"),
        ("@reboot", "@hourly, @daily"),
        ("0 0 30 2 *", "ever fires"),
        ("0 0 31 4,6 *", "ever fires"),
        ("60 * * * *", "minute"),
        ("0 24 * * *", "hour"),
        ("0 0 0 * *", "day-of-month"),
        ("0 0 * 13 *", "month"),
        ("0 0 * * 8", "day-of-week"),
        ("*/0 * * * *", "minute"),
        ("5-1 * * * *", "minute"),
        ("*/99 * * * *", "minute steps over all its values: a step is at most 60"),
        ("0 0,1/25 * * *", "at most 24"),
        ("0 0 */32 * *", "at most 31"),
        ("0 0 1 */13 *", "at most 12"),
        ("0 0 * * 0-6/8", "at most 7"),
        ("a b c d e", "minute"),
        ("\u0665 * * * *", "minute"),  # an Arabic five
        ("0," * 60 + "0 * * * *", "100 characters"),
    ],
)
def test_what_is_not_cron_is_refused_with_the_reason(expression: str, part: str) -> None:
    with pytest.raises(ValueError, match=part):
        cron.parse(expression)


@pytest.mark.parametrize(
    ("zone", "nearest"),
    [
        ("europe/berlin", "Europe/Berlin"),
        ("Berlin", "Europe/Berlin"),
        ("Europe/Berln", "Europe/Berlin"),
        ("utc", "UTC"),
    ],
)
def test_an_unknown_zone_names_the_nearest(zone: str, nearest: str) -> None:
    with pytest.raises(ValueError, match=f"Did you mean {nearest}"):
        cron.parse("* * * * *", zone)


@pytest.mark.parametrize("zone", ["", "../../etc/passwd", "/etc/localtime", "localtime", "Mars/Olympus", "x" * 10_000])
def test_a_zone_is_never_a_path(zone: str) -> None:
    with pytest.raises(ValueError, match="Unknown time zone"):
        cron.parse("* * * * *", zone)


@given(st.one_of(st.text(max_size=120), st.text(alphabet="0123456789*/-,LW# MONFEB@", max_size=40)))
def test_no_text_does_anything_but_parse_or_be_refused(text: str) -> None:
    try:
        schedule = cron.parse(text, "Europe/Berlin")
    except ValueError:
        return
    moments = schedule.first(3, after=MONDAY)
    assert moments == sorted(set(moments))
    assert moments[0] > MONDAY


def test_missed_moments_come_oldest_first_and_bounded() -> None:
    schedule = cron.parse("*/10 * * * *")
    first = MONDAY + timedelta(minutes=10)
    assert schedule.between(first, MONDAY + timedelta(hours=1), limit=3) == [
        first,
        MONDAY + timedelta(minutes=20),
        MONDAY + timedelta(minutes=30),
    ]
    assert schedule.between(first, first, limit=3) == [first]


@pytest.mark.parametrize(
    ("expression", "until", "latest"),
    [
        ("* * * * *", "2026-07-01 00:00:30", "2026-07-01 00:00"),
        ("0 9 1 * *", "2026-06-30 23:00:00", "2026-06-01 09:00"),
        ("* 9 * * *", "2026-06-30 08:59:00", "2026-06-29 09:59"),
        ("0 12 * * *", "2026-06-02 12:00:00", "2026-06-02 12:00"),
    ],
)
def test_the_latest_missed_moment_is_found_without_walking_through_all(
    expression: str, until: str, latest: str
) -> None:
    schedule = cron.parse(expression)
    first = schedule.next(MONDAY)
    found = schedule.latest(first, datetime.fromisoformat(until).replace(tzinfo=UTC))
    assert found == datetime.fromisoformat(latest).replace(tzinfo=UTC)


def test_jitter_is_the_same_each_time_and_spreads_triggers() -> None:
    ids = [UUID(int=number) for number in range(200)]
    offsets = [cron.offset(trigger_id, 60) for trigger_id in ids]
    assert offsets == [cron.offset(trigger_id, 60) for trigger_id in ids]
    assert min(offsets) >= timedelta(0)
    assert max(offsets) <= timedelta(seconds=60)
    assert len(set(offsets)) > 40
    assert cron.offset(ids[0], 0) == timedelta(0)
