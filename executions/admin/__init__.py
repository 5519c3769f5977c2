"""The operators' view of executions: read-only history, with the actions to cancel and to retry."""

from executions.admin.bulk import BulkOperationAdmin
from executions.admin.executions import ExecutionAdmin
from executions.admin.records import ExecutionPayloadAdmin, JournalEntryAdmin, LargeOutputAdmin, StepAdmin

__all__ = [
    "BulkOperationAdmin",
    "ExecutionAdmin",
    "ExecutionPayloadAdmin",
    "JournalEntryAdmin",
    "LargeOutputAdmin",
    "StepAdmin",
]
