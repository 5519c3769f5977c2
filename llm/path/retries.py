"""When all endpoints have refused: how long to wait before they are asked once more, or when the caller is to come back.

A short wait is waited in place. A longer one is the caller's: a flow parks, and holds no worker.
"""

from collections.abc import Sequence

from llm.errors import Failure, ModelError

IN_PLACE_SECONDS = 2.0
ROUNDS = 3  # so the endpoints are asked again twice at most
BACKOFF_SECONDS = 0.25  # where nobody says how long: this, then twice as long
RETRY_SECONDS = 10.0  # when to come back, where nobody says
JITTER = 0.25

_NAMES: dict[str, str] = {
    Failure.RATE_LIMITED: "is over its rate limit",
    Failure.UNAVAILABLE: "is not available",
    Failure.TIMEOUT: "did not answer in time",
    Failure.BAD_ANSWER: "gave no valid answer",
    Failure.KEY_REFUSED: "refused the key",
    Failure.MODEL_UNKNOWN: "does not know the model",
    Failure.CONTEXT_TOO_LONG: "has no room for the request",
}


class Refusal:
    """Why one endpoint gave no answer: a `Failure`, or what kept it from being asked. `wait` is in seconds if known."""

    def __init__(self, provider: str, model: str, why: str, detail: str = "", *, wait: float | None = None) -> None:
        self.provider = provider
        self.model = model
        self.why = why
        self.wait = wait
        self._detail = detail

    @property
    def passes(self) -> bool:
        """Whether asking again after a while can help."""
        return self.why not in (Failure.KEY_REFUSED, Failure.MODEL_UNKNOWN, Failure.CONTEXT_TOO_LONG)

    def __str__(self) -> str:
        known = {**_NAMES, "open": "has failed and is being left alone", "resting": _NAMES[Failure.RATE_LIMITED]}
        reason = known.get(self.why, self.why)
        detail = f" ({self._detail.rstrip('.')})" if self._detail else ""
        return f"{self.provider} ({self.model}) {reason}{detail}"


def pause(refusals: Sequence[Refusal], *, asked: int, seconds_left: float, roll: float) -> float | None:
    """Seconds to wait before the next round, after `asked` rounds; None where it is not worth the wait in place.

    `roll` is a random number from 0 up to 1: a burst that was refused together does not come back together.
    """
    waits = [_wait(refusal, asked) for refusal in refusals if refusal.passes]
    if asked >= ROUNDS or not waits:
        return None
    seconds = min(waits) * (1 + JITTER * roll)
    return seconds if min(waits) < IN_PLACE_SECONDS and seconds < seconds_left else None


def _wait(refusal: Refusal, asked: int) -> float:
    if refusal.wait is not None:
        return refusal.wait
    # A call that ran into its time-out, or into a full pool, has waited enough.
    waited = refusal.why in (Failure.TIMEOUT, "full")
    return IN_PLACE_SECONDS if waited else float(BACKOFF_SECONDS * 2 ** (asked - 1))


def all_refused(refusals: Sequence[Refusal]) -> ModelError:
    """What a call is told that nobody answered: each provider's reason, and when to come back."""
    reasons = "; ".join(dict.fromkeys(map(str, refusals)))
    if not any(refusal.passes for refusal in refusals):
        refused = any(refusal.why == Failure.KEY_REFUSED for refusal in refusals)
        code = Failure.KEY_REFUSED.value if refused else Failure.MODEL_UNKNOWN.value
        return ModelError(f"No provider answered: {reasons}.", code=code, retryable=False)
    waits = [refusal.wait for refusal in refusals if refusal.passes and refusal.wait is not None]
    wait = min(waits, default=RETRY_SECONDS)
    return ModelError(
        f"No provider answered: {reasons}. Try again in {max(1, round(wait))} s.",
        code=_code(refusals),
        retry_after=wait,
    )


def _code(refusals: Sequence[Refusal]) -> str:
    reasons = {refusal.why for refusal in refusals if refusal.passes}
    if reasons <= {Failure.RATE_LIMITED, "resting"}:
        return "provider_rate_limited"
    if reasons <= {"full", "resting", "open"}:  # none was asked: its turn has not come
        return "llm_overloaded"
    return "provider_unavailable"
