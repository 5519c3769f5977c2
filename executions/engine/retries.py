"""When a failed attempt is made again."""

from random import Random

from flows.blocks.base import BlockError, Effects
from flows.organism.spec import RetryPolicy

FIRST_DELAY_SECONDS = 1.0
LONGEST_RETRY_AFTER_SECONDS = 3600.0


def may_retry(policy: RetryPolicy, error: BlockError, *, attempt: int, effects: Effects) -> bool:
    """Whether another attempt follows the failed one.

    An effect that must not be repeated is tried again only where it surely did not happen, or where the author has
    written a `retry` and so agreed to repeat it.
    """
    if attempt >= policy.max_attempts or not error.retryable:
        return False
    return effects is not Effects.ONCE or error.repeat_is_safe or policy.explicit


def retry_delay(policy: RetryPolicy, error: BlockError, *, attempt: int, random: Random) -> float:
    """Seconds until the next attempt: exponential with a quarter of jitter, and not before the other side wants it."""
    delay = min(policy.max_delay, FIRST_DELAY_SECONDS * policy.backoff ** (attempt - 1)) * random.uniform(0.75, 1.25)
    return max(delay, min(error.retry_after or 0.0, LONGEST_RETRY_AFTER_SECONDS))
