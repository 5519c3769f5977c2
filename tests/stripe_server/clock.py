"""The server's clock, and the calendar that periods are counted in. All times are whole seconds since the epoch."""

import calendar
import time
from datetime import UTC, datetime

HOUR = 3600
DAY = 24 * HOUR


class Clock:
    """Walks with the machine's clock from where it was put; one that `stands` moves only when it is moved."""

    def __init__(self, at: datetime | None = None) -> None:
        self._stands = at is not None
        self._ahead = 0.0
        self._at = int(at.timestamp()) if at is not None else 0

    @property
    def now(self) -> int:
        return self._at if self._stands else int(time.time() + self._ahead)

    def move_to(self, moment: int) -> None:
        """Go forward to a moment; it never goes back."""
        moment = max(moment, self.now)
        if self._stands:
            self._at = moment
        else:
            self._ahead = moment - time.time() + 0.001  # `int` rounds down: not a second early


def after_periods(anchor: int, interval: str, count: int) -> int:
    """The moment `count` intervals after the anchor; months keep the anchor's day, or end with the shorter month."""
    if interval in ("day", "week"):
        return anchor + count * DAY * (7 if interval == "week" else 1)
    start = datetime.fromtimestamp(anchor, UTC)
    months = start.year * 12 + start.month - 1 + count * (12 if interval == "year" else 1)
    year, month = months // 12, months % 12 + 1
    day = min(start.day, calendar.monthrange(year, month)[1])
    return int(start.replace(year=year, month=month, day=day).timestamp())


def next_boundary(anchor: int, interval: str, step: int, after: int) -> int:
    """The first end of a period, counted from the anchor, that is later than `after`."""
    count = step
    while (moment := after_periods(anchor, interval, count)) <= after:
        count += step
    return moment
