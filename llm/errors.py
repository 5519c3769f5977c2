"""Why a model gave no answer."""


class ModelError(Exception):
    """A call that gave no answer. The message is for the flow's author: what happened, and what to do.

    `code` is stable and snake_case: `model_unknown`, `provider_unavailable`, `provider_rate_limited`, `llm_rate_limited`,
    `llm_overloaded`, `context_too_long`, `key_refused`, `request_refused`, `content_refused`, `budget_exceeded`,
    `answer_cut`, `no_provider`. `retryable` is False where trying again cannot help. `retry_after` is in seconds.
    """

    def __init__(self, message: str, *, code: str, retryable: bool = True, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.retryable = retryable
        self.retry_after = retry_after
