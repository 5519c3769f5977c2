"""Why something about a flow is refused."""

from bloxserver.core.errors import Conflict, DomainError, NotFound
from flows.blocks.base import BlockError


class FlowLimitReached(DomainError):
    code = "flow_limit_reached"
    status = 402


class StoreLimitReached(Conflict):
    """As many variables or secrets as one tenant, or one flow, may keep."""

    code = "limit_reached"


class FlowNotFound(NotFound):
    """A flow that another flow names by id or name."""

    code = "flow_not_found"


class FlowNameAmbiguous(Conflict):
    code = "flow_name_ambiguous"


class SecretUnavailable(BlockError):
    """A step asked for a secret that is not stored, or that can no longer be read."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="secret_unavailable", retryable=False, repeat_is_safe=True)
