"""When Debian's cron would run a job, written from its manual (crontab(5); cron(8), "NOTES") and from nothing of ours.

A job at a fixed time that falls into skipped time runs at the first valid moment after it, and in repeated time runs
once, the first time round; a job whose minute or hour begins with a star runs whenever the wall clock matches.
"""

from calendar import monthrange
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

MINUTE = timedelta(minutes=1)
FIRST_AND_LAST = [(0, 59), (0, 23), (1, 31), (1, 12), (0, 7)]
NAMES = [
    *[{}] * 3,
    {name: number for number, name in enumerate("jan feb mar apr may jun jul aug sep oct nov dec".split(), 1)},
    {name: number for number, name in enumerate("sun mon tue wed thu fri sat".split())},
]
LAST_DAY = "L"  # no cron's, but ours


class Job:
    """A line of a crontab: numbers, names, ranges, steps and lists, and `L` as the day of the month."""

    def __init__(self, expression: str) -> None:
        self._texts = expression.split()
        self._minutes, self._hours, self._days, self._months, weekdays = map(_values, self._texts, range(5))
        self._weekdays = {day % 7 for day in weekdays}
        self.is_wild = self._texts[0].startswith("*") or self._texts[1].startswith("*")

    def matches(self, wall: datetime) -> bool:
        return (
            wall.minute in self._minutes
            and wall.hour in self._hours
            and wall.month in self._months
            and self._matches_day(wall)
        )

    def _matches_day(self, wall: datetime) -> bool:
        is_last = self._texts[2] == LAST_DAY and wall.day == monthrange(wall.year, wall.month)[1]
        day, weekday = wall.day in self._days or is_last, wall.isoweekday() % 7 in self._weekdays
        if self._texts[2].startswith("*") or self._texts[4].startswith("*"):
            return day and weekday
        return day or weekday


def _values(text: str, field: int) -> set[int]:
    found: set[int] = set()
    if text == LAST_DAY:
        return found
    for term in text.split(","):
        span, _, step = term.partition("/")
        first, _, last = span.partition("-")
        if span == "*":
            lowest, highest = FIRST_AND_LAST[field]
        else:
            lowest = _number(first, field)
            highest = _number(last, field) if last else FIRST_AND_LAST[field][1] if step else lowest
        found |= set(range(lowest, highest + 1, int(step or 1)))
    return found


def _number(text: str, field: int) -> int:
    return NAMES[field][text] if text in NAMES[field] else int(text)


def runs(expression: str, zone: str, start: datetime, end: datetime) -> list[datetime]:
    """From `start` (included) to `end` (not), both in UTC and full minutes, with no two changes of the clock between."""
    job, real = Job(expression), {moment: wall_of(moment, zone) for moment in minutes(start, end)}
    if job.is_wild:
        return [moment for moment, wall in real.items() if job.matches(wall)]
    first = {wall: moment for moment, wall in reversed(real.items())}  # of a repeated time the first
    there = sorted(first)
    found: set[datetime] = set()
    wall = there[0]
    for next_wall in there:  # a time that is skipped is that of the next there is
        while wall <= next_wall:
            if job.matches(wall):
                found.add(first[next_wall])
            wall += MINUTE
    return sorted(found)


def minutes(start: datetime, end: datetime) -> Iterator[datetime]:
    while start < end:
        yield start
        start += MINUTE


def wall_of(moment: datetime, zone: str) -> datetime:
    return moment.astimezone(ZoneInfo(zone)).replace(tzinfo=None, fold=0)


def start_of(zone: str, day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(zone)).astimezone(UTC)


def day_of(zone: str, day: date) -> tuple[datetime, datetime]:
    """From midnight to midnight, in UTC."""
    return start_of(zone, day), start_of(zone, day + timedelta(days=1))
