"""The operators' view of executions: read-only history, with the actions to cancel and to retry."""

from executions.admin import usage  # noqa: F401 - shows it on the customer's page
from executions.admin.approvals import ApprovalAdmin
from executions.admin.bulk import BulkItemAdmin, BulkOperationAdmin
from executions.admin.executions import ExecutionAdmin
from executions.admin.notices import FailureNoticeAdmin
from executions.admin.records import (
    ExecutionPayloadAdmin,
    ExecutionTallyAdmin,
    JournalEntryAdmin,
    LargeOutputAdmin,
    SpokenTextAdmin,
    StepAdmin,
)

__all__ = [
    "ApprovalAdmin",
    "BulkItemAdmin",
    "BulkOperationAdmin",
    "ExecutionAdmin",
    "ExecutionPayloadAdmin",
    "ExecutionTallyAdmin",
    "FailureNoticeAdmin",
    "JournalEntryAdmin",
    "LargeOutputAdmin",
    "SpokenTextAdmin",
    "StepAdmin",
]
