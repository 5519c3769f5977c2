"""An execution that repeats another."""

from collections.abc import Collection
from datetime import datetime

from django.db import transaction

from bloxserver.core import bulk, json_text
from bloxserver.core.ids import new_id
from executions.errors import ExecutionNotEnded, NothingFailed
from executions.models import (
    ASK,
    FAILED_CALL,
    MODEL,
    ApprovalKind,
    Execution,
    ExecutionStatus,
    JournalEntry,
    LargeOutput,
    State,
    StepStatus,
)
from executions.services.acceptance import Firing, accept

DONE_KINDS = ("record", "transact", MODEL, FAILED_CALL)  # of journal entries: something was done


def retry_execution(*, execution: Execution, from_failed: bool, now: datetime) -> Execution:
    """A new execution of the same payload: from the start, or with all that finished kept on record.

    From the start it runs the deployed version (a draft's test run: the draft as it is now); from the failed step it
    runs the same version as before. Raises `ExecutionNotEnded`, `NothingFailed`, and what acceptance raises.
    """
    if execution.state != State.ENDED:
        raise ExecutionNotEnded("The execution is still running; cancel it or wait for its end before retrying it.")
    if from_failed and execution.status == ExecutionStatus.SUCCESS:
        raise NothingFailed("The execution succeeded; retry it from the start instead.")
    payload = execution.payload
    firing = Firing(
        flow=execution.flow,
        trigger_type=execution.trigger_type,
        payload=payload.input,
        trigger=json_text.loads(payload.trigger),
        trigger_id=execution.trigger_id,
        trigger_name=execution.trigger_name,
        draft=execution.is_draft,
        listener=payload.only_listener,
        retry_of=execution.pk,
        version_id=execution.version_id if from_failed else None,
        variables=payload.variables if from_failed else None,
    )
    with transaction.atomic():
        retry = accept(firing, now=now)
        if from_failed:
            _copy_what_finished(execution, retry)
    return retry


def _copy_what_finished(execution: Execution, retry: Execution) -> None:
    """Steps that succeeded, or whose failure was handled, with their journal: the retry resumes after them.

    Of a step that had not finished, what it did is kept (effects recorded, transactions committed, answers of
    models, and calls that failed; what persons decided), not what it waited for: a delay is waited for again, a flow that
    failed is called again.
    """
    steps = [step for step in execution.steps.all() if step.status == StepStatus.SUCCESS or step.is_handled_error]
    by_key = {step.key: step for step in steps}
    journal = [entry for entry in execution.journal.all() if entry.step_key in by_key or entry.kind in DONE_KINDS]
    large = [
        (output.step.key, output.text) for output in LargeOutput.objects.filter(step__in=steps).select_related("step")
    ]
    for step in steps:
        step.id, step.execution = new_id(), retry
    for entry in journal:
        entry.id, entry.execution = new_id(), retry
    bulk.insert(steps)
    bulk.insert([LargeOutput(step=by_key[key], text=text) for key, text in large])
    bulk.insert([*journal, *_copy_decisions(execution, retry, but=by_key.keys())])


def _copy_decisions(execution: Execution, retry: Execution, *, but: Collection[str]) -> list[JournalEntry]:
    """What persons answered to steps that had not finished: an agent whose tools wait for leave goes on from there."""
    answered = execution.approvals.filter(kind=ApprovalKind.APPROVAL).answered().exclude(step_key__in=but)
    entries = []
    for approval in answered:
        approval.id, approval.execution = new_id(), retry
        where = {"execution": retry, "step_key": approval.step_key, "position": approval.position}
        entries.append(JournalEntry(**where, kind=ASK, value=json_text.dumps(str(approval.id))))
    bulk.insert(list(answered))
    return entries
