"""Why a user's key is not stored."""

from bloxserver.core.errors import DomainError


class KeyRefused(DomainError):
    """The provider does not take it, or it is surely no key of that provider's. Nothing is stored."""

    code = "key_refused"
    status = 400

    def __init__(self, reason: str) -> None:
        super().__init__(reason, details={"apiKey": [reason]})


class ProviderAway(DomainError):
    """Whether the key is good cannot be told now. Nothing is stored."""

    code = "provider_unavailable"
    status = 503
