"""When a schedule fires: five-field cron in an IANA time zone, by Debian cron's rules. Pure: no Django, no database.

`cronsim` finds the moments. Where clocks change, it does as Debian's cron does: a job at a fixed time that falls into
the skipped hour runs at the first valid moment after it, one in the repeated hour runs once, and a job whose minute or
hour is a wildcard follows real time. All moments that come out of here are in UTC.
"""

import hashlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from itertools import chain, islice, takewhile
from uuid import UUID
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError

from bloxserver.core.words import closest

MAX_LENGTH = 100  # characters; a real expression has about twenty
MAX_JITTER = 3600  # seconds
ZERO, HOUR = timedelta(0), timedelta(hours=1)
QUARTER = 900  # seconds
FIELDS = {"minute": 60, "hour": 24, "day of month": 31, "month": 12, "day of week": 7}  # and how many values each has
ALIASES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}


class _Walk(CronSim):
    """cronsim's walk, mended where clocks change by other than whole hours, or not at a whole hour.

    On Lord Howe Island they change by thirty minutes: there it lost 02:45 of `45 * * * *`, and half an hour of
    `* 3 * * *`. On Chatham they change at 02:45: there, in autumn, `* 3 * * *` came back to its first moments for ever.
    """

    dt: datetime

    def tick(self, seconds: int = 1) -> None:
        """A leap over a change of other than whole hours ends at it, so that what follows it is looked at too."""
        before = self.dt
        super().tick(seconds)
        if before.utcoffset() is None or self._changed(before) % HOUR == ZERO:
            return
        self.dt = before
        while self._changed(before) == ZERO:
            super().tick(min(60, seconds))

    def advance_hour(self) -> bool:
        """Onward by quarters of an hour, at which all changes are; cronsim goes back to the full hour first."""
        if self.dt.tzinfo in (None, UTC):
            return super().advance_hour()
        if self.dt.hour in self.hours:
            return False
        today = self.dt.day
        while self.dt.hour not in self.hours and self.dt.day == today:  # on another day all is to be looked at again
            self.tick(seconds=QUARTER - (self.dt.minute * 60 + self.dt.second) % QUARTER)
        return True

    def _changed(self, before: datetime) -> timedelta:
        return (self.dt.utcoffset() or ZERO) - (before.utcoffset() or ZERO)


@dataclass(frozen=True, slots=True)
class Schedule:
    """A valid cron expression in a time zone, made by `parse`."""

    cron: str  # five fields
    zone: tzinfo

    def after(self, moment: datetime) -> Iterator[datetime]:
        """The moments after `moment`, in order, without end."""
        for local in _Walk(self.cron, moment.astimezone(self.zone)):
            found = local.astimezone(UTC)
            # In the second pass of a repeated hour cronsim offers the first pass again: that is past.
            if found > moment:
                yield found

    def next(self, after: datetime) -> datetime:
        """The first moment after `after`; known at once where another schedule of this cron and zone has asked."""
        return _next(self, after)

    def first(self, count: int, *, after: datetime) -> list[datetime]:
        """The first `count` moments after `after`."""
        return list(islice(self.after(after), count))

    def between(self, first: datetime, until: datetime, *, limit: int) -> list[datetime]:
        """Up to `limit` moments, from `first` (a moment itself) to `until`, both included, the oldest first."""
        moments = chain([first], self.after(first))
        return list(islice(takewhile(lambda moment: moment <= until, moments), limit))

    def latest(self, first: datetime, until: datetime) -> datetime:
        """The last moment up to `until`, both included; `first` (a moment itself, not after `until`) at the earliest.

        Looks back over windows that grow, so that a month without a clock costs no walk through its 43,200 minutes.
        """
        window = timedelta(minutes=1)
        while until - window > first:
            found = list(takewhile(lambda moment: moment <= until, self.after(until - window)))
            if found:
                return found[-1]
            window *= 4
        return self.between(first, until, limit=sys.maxsize)[-1]


@lru_cache(maxsize=4096)
def _next(schedule: Schedule, after: datetime) -> datetime:
    return next(schedule.after(after))


@lru_cache(maxsize=1024)
def parse(cron: str, zone: str = "UTC") -> Schedule:
    """The schedule that `cron` and `zone` say. Raises `ValueError` with a message for whoever wrote them."""
    return Schedule(parse_cron(cron), parse_zone(zone))


@lru_cache(maxsize=1024)
def parse_cron(cron: str) -> str:
    """`cron` as five fields, its `@` name replaced. Raises `ValueError` when it can't be read or has no moment."""
    if len(cron) > MAX_LENGTH:
        raise ValueError(f"A cron expression has at most {MAX_LENGTH} characters; this one has {len(cron)}.")
    text = cron.strip()
    if text.startswith("@"):
        if text.lower() not in ALIASES:
            raise ValueError(f"Unknown name {text}. Known are {', '.join(ALIASES)}.")
        return ALIASES[text.lower()]
    fields = text.split()
    if len(fields) != 5:
        raise ValueError(
            f"A cron expression has five fields ({', '.join(FIELDS)}); this one has {len(fields)}."
            + (" Seconds are not supported." if len(fields) == 6 else "")
        )
    try:
        # The calendar repeats after 400 years, but what cronsim does not find in 50 it takes for never.
        next(CronSim(text, datetime(2024, 1, 1, tzinfo=UTC)))
    except CronSimError as error:
        raise ValueError(f'{error}: "{text}" is not a cron expression that ever fires.') from None
    except StopIteration:
        raise ValueError(f'"{text}" never fires: no date matches it.') from None
    _check_steps(fields)
    return text


def _check_steps(fields: list[str]) -> None:
    """`*/90` as minutes would be every hour, at minute 0, and not what it says. Raises `ValueError`."""
    for field, (name, values) in zip(fields, FIELDS.items(), strict=True):
        for term in field.split(","):
            step = term.partition("/")[2]
            if step and int(step) > values:
                raise ValueError(f'"{term}" as the {name} steps over all its values: a step is at most {values} there.')


@lru_cache(maxsize=1024)
def parse_zone(name: str) -> tzinfo:
    """The time zone of that IANA name. Raises `ValueError` naming the nearest."""
    if name == "UTC":
        return UTC
    if name not in _zones():
        near = {known.rpartition("/")[2].lower(): known for known in _zones()} | {
            known.lower(): known for known in _zones()
        }
        guess = closest(name.lower(), near)
        hint = f" Did you mean {near[guess]}?" if guess else " Use an IANA name such as Europe/Berlin."
        raise ValueError(f'Unknown time zone "{name[:64]}".{hint}')
    return ZoneInfo(name)


@lru_cache(maxsize=1)
def _zones() -> frozenset[str]:
    return frozenset(available_timezones() - {"localtime"})  # what that is differs from machine to machine


def offset(trigger_id: UUID, jitter: int) -> timedelta:
    """By how much a trigger with `jitter` seconds fires after each of its moments: the same each time.

    Triggers that share a moment spread evenly over the window; one trigger's firings keep their order and distance.
    """
    if not jitter:
        return timedelta(0)
    return timedelta(seconds=int.from_bytes(hashlib.sha256(trigger_id.bytes).digest()[:8]) % (jitter + 1))
