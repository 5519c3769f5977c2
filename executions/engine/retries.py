"""When a failed attempt is made again, and when one that was turned away is."""

from random import Random

from flows.blocks.base import BlockError, Effects
from flows.organism.spec import RetryPolicy

FIRST_DELAY_SECONDS = 1.0
LONGEST_RETRY_AFTER_SECONDS = 3600.0
SPREAD = 1.25  # what was turned away together does not come back together, and nobody comes before they may

TURNED_AWAY_SECONDS = 10.0  # is waited where nobody says how long
LONGEST_TURN_SECONDS = 30.0  # to which the wait grows where less is said and it is in vain, again and again
LONGEST_TURNED_AWAY_SECONDS = 3600.0  # all waits of a step together


def may_retry(policy: RetryPolicy, error: BlockError, *, attempt: int, effects: Effects) -> bool:
    """Whether another attempt follows the failed one."""
    return attempt < policy.max_attempts and error.retryable and _may_repeat(policy, error, effects)


def retry_delay(policy: RetryPolicy, error: BlockError, *, attempt: int, random: Random) -> float:
    """Seconds until the next attempt: exponential with a quarter of jitter, and not before the other side wants it."""
    delay = min(policy.max_delay, FIRST_DELAY_SECONDS * policy.backoff ** (attempt - 1)) * random.uniform(0.75, 1.25)
    asked = min(error.retry_after or 0.0, LONGEST_RETRY_AFTER_SECONDS)
    return max(delay, asked * random.uniform(1, SPREAD)) if asked else delay


def may_wait(policy: RetryPolicy, error: BlockError, *, waited: float, seconds: float, effects: Effects) -> bool:
    """Whether a step that was turned away waits for its turn, for so many `seconds` after all those `waited` already."""
    in_time = waited + seconds <= LONGEST_TURNED_AWAY_SECONDS
    return in_time and error.retryable and not error.counts and _may_repeat(policy, error, effects)


def turn_delay(error: BlockError, *, waits: int, random: Random) -> float:
    """Seconds until a step that was turned away asks again, after so many `waits`: not before it may, and ever later."""
    least = error.retry_after or TURNED_AWAY_SECONDS
    return max(least, min(LONGEST_TURN_SECONDS, FIRST_DELAY_SECONDS * 2.0**waits)) * random.uniform(1, SPREAD)


def _may_repeat(policy: RetryPolicy, error: BlockError, effects: Effects) -> bool:
    """An effect that must not be repeated is tried again only where it surely did not happen, or where the author has
    written a `retry` and so agreed to repeat it."""
    return effects is not Effects.ONCE or error.repeat_is_safe or policy.explicit
