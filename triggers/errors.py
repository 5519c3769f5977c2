"""Why a trigger is not stored, or does not fire. Each becomes an `ApiError` with this code and status."""

from bloxserver.core.errors import Conflict, DomainError, InvalidInput


class InvalidTriggerConfig(InvalidInput):
    """`details["config"]` lists everything that is wrong."""


class TriggerLimitReached(DomainError):
    code = "trigger_limit_reached"
    status = 402


class TriggerDisabled(Conflict):
    code = "trigger_disabled"


class NotAWebhook(Conflict):
    code = "not_a_webhook"


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


class MethodNotAllowed(DomainError):
    code = "method_not_allowed"
    status = 405


class BodyTooLarge(DomainError):
    code = "payload_too_large"
    status = 413


class EncodedBody(DomainError):
    code = "unsupported_content_encoding"
    status = 415


class ExecutionFailed(DomainError):
    code = "execution_failed"
    status = 502
