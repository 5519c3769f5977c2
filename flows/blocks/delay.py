"""`blox.delay`: wait."""

import math
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

from pydantic import Field, field_validator, model_validator

from flows.blocks.base import JSON, Block, BlockConfig, BlockError, Context

LONGEST = timedelta(days=366)


class DelayConfig(BlockConfig):
    seconds: float | None = Field(
        None, ge=0, le=LONGEST.total_seconds(), description="How long to wait, in seconds; 366 days at most."
    )
    until: str | int | float | None = Field(
        None,
        description="The moment to wait for: ISO 8601 with a zone (2026-12-24T18:00:00+01:00) or seconds since 1970. "
        "One that has passed is no wait.",
    )

    @model_validator(mode="before")
    @classmethod
    def _one_of_the_two(cls, data: Any) -> Any:
        if isinstance(data, dict) and ("seconds" in data) == ("until" in data):
            raise ValueError("give exactly one of seconds and until")
        return data

    @field_validator("seconds", "until", mode="before")
    @classmethod
    def _a_moment(cls, value: Any) -> Any:
        if value is None or isinstance(value, bool):
            raise ValueError("must be a number or a text")
        return value


class Delay(Block):
    name = "blox.delay"
    title = "Delay"
    description = "Waits, then passes the payload on. A waiting execution holds no worker and survives restarts."
    category = "flow"
    Config = DelayConfig
    example: ClassVar[str] = """\
- name: a_day_later
  handler: blox.delay
  config: {seconds: 86400}
  peers: [remind]
"""

    async def run(self, ctx: Context, config: DelayConfig, payload: JSON) -> JSON:
        # Reckoned anew when the block runs again, and ignored then: `sleep_until` keeps the first moment.
        now = datetime.now(UTC)
        moment = now + timedelta(seconds=config.seconds) if config.seconds is not None else _moment(config.until)
        if moment - now > LONGEST:
            message = f"until is {moment.isoformat()}, more than {LONGEST.days} days away."
            raise BlockError(message, code="invalid_delay", retryable=False)
        await ctx.sleep_until(moment)
        return payload


def _moment(until: str | int | float | None) -> datetime:
    try:
        if isinstance(until, str):
            moment = datetime.fromisoformat(until)
            if moment.tzinfo is None:
                raise ValueError("it has no zone; add Z or an offset such as +01:00")
            return moment.astimezone(UTC)
        if until is None or not math.isfinite(until):
            raise ValueError("it is not a moment")
        return datetime.fromtimestamp(until, UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise BlockError(f"until is {until!r}: {error}.", code="invalid_delay", retryable=False) from None
