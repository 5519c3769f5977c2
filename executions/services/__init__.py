"""What can be done with executions. Each verb owns its transaction."""

from executions.services.acceptance import Firing, accept, accept_all, accept_execution
from executions.services.cancellation import cancel_execution
from executions.services.retries import retry_execution
from executions.services.waiting import wait_for_end

__all__ = [
    "Firing",
    "accept",
    "accept_all",
    "accept_execution",
    "cancel_execution",
    "retry_execution",
    "wait_for_end",
]
