"""Why a trigger is not stored, or does not fire. Each becomes an `ApiError` with this code and status."""

from bloxserver.core.errors import Conflict, DomainError, InvalidInput, NotFound


class InvalidTriggerConfig(InvalidInput):
    """`details["config"]` lists everything that is wrong."""


class TriggerLimitReached(DomainError):
    code = "trigger_limit_reached"
    status = 402


class TriggerDisabled(Conflict):
    code = "trigger_disabled"


class NotAWebhook(Conflict):
    code = "not_a_webhook"


class WebhookOff(NotFound):
    """`reason` is for the owner: to the caller it is not found."""

    def __init__(self, reason: str) -> None:
        super().__init__("Not found.")
        self.reason = reason


class UnreadableBody(DomainError):
    """A webhook body that is not what its Content-Type says."""

    code = "invalid_body"
    status = 400


class InvalidJson(DomainError):
    code = "invalid_json"
    status = 400


class InvalidIdempotencyKey(DomainError):
    code = "invalid_idempotency_key"
    status = 400


class IdempotencyKeyReused(DomainError):
    code = "idempotency_key_reused"
    status = 422


class BadSignature(DomainError):
    """A call that is not signed as the webhook's config says.

    `reason` is for the webhook's owner, where it says more than the caller may know.
    """

    code = "bad_signature"
    status = 401

    def __init__(self, message: str, *, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason or message


class NotReplayable(Conflict):
    code = "not_replayable"


class MethodNotAllowed(DomainError):
    code = "method_not_allowed"
    status = 405


class BodyTooLarge(DomainError):
    code = "payload_too_large"
    status = 413


class ExecutionFailed(DomainError):
    code = "execution_failed"
    status = 502
