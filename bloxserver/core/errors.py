"""The errors that services raise: `bloxserver.api.errors.exception_handler` turns each into an `ApiError`."""

from typing import Any, ClassVar


class DomainError(Exception):
    """A refusal with a stable `code`, an HTTP status and a message that says what to do."""

    code: ClassVar[str] = "bad_request"
    status: ClassVar[int] = 400

    def __init__(
        self, message: str, *, details: dict[str, Any] | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.details = details
        self.headers = headers or {}


class NotFound(DomainError):
    code = "not_found"
    status = 404


class Conflict(DomainError):
    code = "conflict"
    status = 409


class InvalidInput(DomainError):
    """`details` maps field to messages."""

    code = "validation_error"
    status = 400
