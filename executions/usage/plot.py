"""Runs by day as bars: where each stands, for a template to draw."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

HEIGHT = 100  # of the tallest bar, in the drawing's units
STEP = 10  # from one day to the next
WIDTH = 8  # of a bar
LEAST = 2  # so that a single run beside thousands is seen


@dataclass(frozen=True, slots=True)
class Bar:
    day: date
    runs: int
    x: int
    y: int
    height: int


@dataclass(frozen=True, slots=True)
class Plot:
    """`summary` says in words what the bars show."""

    bars: list[Bar]
    width: int
    most: int
    summary: str
    height: int = HEIGHT
    step: int = STEP
    bar_width: int = WIDTH


def plot_of(days: Sequence[dict[str, Any]]) -> Plot:
    """Of rows with `day` and `runs`, oldest first, at least one."""
    most = max(row["runs"] for row in days)
    bars = [_bar(number, row["day"], row["runs"], most) for number, row in enumerate(days)]
    return Plot(bars=bars, width=len(bars) * STEP, most=most, summary=_summary(bars, most))


def _bar(number: int, day: date, runs: int, most: int) -> Bar:
    height = max(LEAST, round(HEIGHT * runs / most)) if runs else 0
    return Bar(day=day, runs=runs, x=number * STEP + (STEP - WIDTH) // 2, y=HEIGHT - height, height=height)


def _summary(bars: Sequence[Bar], most: int) -> str:
    total = sum(bar.runs for bar in bars)
    if not total:
        return f"No runs in the last {len(bars)} days."
    best = next(bar.day for bar in bars if bar.runs == most)
    return f"{total:,} runs in the last {len(bars)} days, most on {best:%Y-%m-%d}: {most:,}."
