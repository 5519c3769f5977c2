"""Why an execution is not accepted, or not changed."""

from bloxserver.core.errors import Conflict, DomainError, InvalidInput


class FlowNotRunning(Conflict):
    code = "flow_not_running"


class FlowBusy(Conflict):
    """Its row is locked, and the caller does not wait."""

    code = "flow_busy"

    def __init__(self) -> None:
        super().__init__("The flow is being changed at this moment.")


class ConcurrencyLimit(Conflict):
    """The flow's own limit, with `overlap: skip`: not a quota, nothing is used up."""

    code = "concurrency_limit"


class ExecutionEnded(Conflict):
    code = "execution_ended"


class ExecutionNotEnded(Conflict):
    code = "execution_not_ended"


class NothingFailed(Conflict):
    code = "nothing_failed"


class ApprovalAnswered(Conflict):
    code = "approval_answered"


class ApprovalExpired(Conflict):
    code = "approval_expired"


class ApprovalWithdrawn(Conflict):
    code = "approval_withdrawn"


class NothingAsked(Conflict):
    code = "nothing_asked"


class WhichApproval(InvalidInput):
    code = "which_approval"


class PayloadTooLarge(DomainError):
    code = "payload_too_large"
    status = 413


class CallTooDeep(DomainError):
    code = "call_too_deep"
    status = 400


class UnknownListener(InvalidInput):
    code = "unknown_listener"


class FilterTooBroad(Conflict):
    code = "filter_too_broad"


class FilterTooWide(Conflict):
    code = "filter_too_wide"
