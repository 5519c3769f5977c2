"""The calendar months (UTC) by which usage is counted."""

from datetime import UTC, date, datetime


def month_of(now: datetime) -> date:
    """The first day of the month of `now`, in UTC."""
    return now.astimezone(UTC).date().replace(day=1)


def month_starts_at(month: date) -> datetime:
    """The moment at which `month`, a first day, begins."""
    return datetime(month.year, month.month, 1, tzinfo=UTC)


def month_resets_at(month: date) -> datetime:
    """The moment at which the month after `month`, a first day, begins."""
    return datetime(month.year + month.month // 12, month.month % 12 + 1, 1, tzinfo=UTC)
