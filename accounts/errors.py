"""What sign-in refuses for reasons that the caller cannot mend."""

from bloxserver.core.errors import DomainError


class ClerkUnavailable(DomainError):
    """Clerk's keys cannot be had, and none are kept: nobody can tell whether the token is good."""

    code = "clerk_unavailable"
    status = 503


class ClerkNotConfigured(DomainError):
    code = "clerk_not_configured"
    status = 503


class InvalidSignature(DomainError):
    code = "invalid_signature"
    status = 400
