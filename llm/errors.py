"""Why a model gave no answer."""

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llm.exchange import Hop


class ModelError(Exception):
    """A call that gave no answer. The message is for the flow's author: what happened, and what to do.

    `code` is stable and snake_case: `model_unknown`, `provider_unavailable`, `provider_rate_limited`, `llm_rate_limited`,
    `llm_overloaded`, `context_too_long`, `key_refused`, `request_refused`, `content_refused`, `budget_exceeded`,
    `answer_cut`, `no_provider`. `retryable` is False where trying again cannot help. `retry_after` is in seconds.
    `path` is who was asked, one after the other.
    """

    path: "tuple[Hop, ...]" = ()

    def __init__(self, message: str, *, code: str, retryable: bool = True, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.retryable = retryable
        self.retry_after = retry_after


class Failure(StrEnum):
    """What one provider's refusal or silence means for what comes next."""

    RATE_LIMITED = "rate_limited"  # 429: ask another, or wait `retry_after`
    UNAVAILABLE = "unavailable"  # 5xx, 529, no connection, a cut stream: ask another; counts against the breaker
    TIMEOUT = "timeout"  # no answer in time: as above
    BAD_ANSWER = "bad_answer"  # what came is no answer of the protocol: as above
    KEY_REFUSED = "key_refused"  # 401, 403, no credit: ask another; an own key is marked
    MODEL_UNKNOWN = "model_unknown"  # ask another
    CONTEXT_TOO_LONG = "context_too_long"  # the request's own fault, as the rest: asking again cannot help
    REQUEST_REFUSED = "request_refused"
    CONTENT_REFUSED = "content_refused"


class ProviderFailed(Exception):
    """One endpoint gave no answer. The message holds no key; `retry_after` is in seconds, as the provider asked.

    `accepted`: it had taken the request on (status 200); `began`: the model had begun to answer, in whatever form.
    """

    accepted = False
    began = False

    def __init__(self, failure: Failure, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.failure = failure
        self.message = message
        self.retry_after = retry_after

    @property
    def may_be_charged(self) -> bool:
        """Whether the provider may have worked on an answer; for how many tokens, nobody tells."""
        return self.began or self.failure in (Failure.TIMEOUT, Failure.BAD_ANSWER)
