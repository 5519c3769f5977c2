"""What executions keep, a noun a module."""

from executions.bulk.models import BulkItem, BulkOperation
from executions.models.approvals import Approval, ApprovalAnswer, ApprovalKind
from executions.models.execution import Execution, ExecutionPayload, ExecutionStatus, State, TriggerType
from executions.models.journal import (
    ASK,
    FAILED_CALL,
    MODEL,
    SLEEP,
    START_FLOW,
    TURNED_AWAY,
    JournalEntry,
)
from executions.models.notices import FailureNotice, NoticeKind
from executions.models.steps import LARGE_OUTPUT_CHARACTERS, MODEL_BLOCK, LargeOutput, SpokenText, Step, StepStatus
from executions.models.tallies import ExecutionTally

__all__ = [
    "ASK",
    "FAILED_CALL",
    "LARGE_OUTPUT_CHARACTERS",
    "MODEL",
    "MODEL_BLOCK",
    "SLEEP",
    "START_FLOW",
    "TURNED_AWAY",
    "Approval",
    "ApprovalAnswer",
    "ApprovalKind",
    "BulkItem",
    "BulkOperation",
    "Execution",
    "ExecutionPayload",
    "ExecutionStatus",
    "ExecutionTally",
    "FailureNotice",
    "JournalEntry",
    "LargeOutput",
    "NoticeKind",
    "SpokenText",
    "State",
    "Step",
    "StepStatus",
    "TriggerType",
]
