from bloxserver.core.errors import DomainError


class UsageLimitExceeded(DomainError):
    """`details`: limit and used in runs, resetsAt as ISO 8601 UTC."""

    code = "usage_limit_exceeded"
    status = 402
