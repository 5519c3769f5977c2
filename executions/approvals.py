"""Questions that wait for a person: put by a run, answered by whoever may, and by the time-out when nobody does.

What makes it safe: an answer is a conditional update on "not answered", made under the lock of the execution's row; a
run parks under the same lock. So either the park sees the answer (`due_at`), or the answer finds the execution parked
and makes it due.
"""

from collections.abc import Collection
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import Case, DateTimeField, Exists, Value, When
from django.db.models.functions import Now

from bloxserver.core import json_text
from bloxserver.core.errors import NotFound
from executions.dispatch import ring_bell
from executions.errors import (
    ApprovalAnswered,
    ApprovalExpired,
    ApprovalWithdrawn,
    ExecutionEnded,
    NothingAsked,
    WhichApproval,
)
from executions.models import Approval, ApprovalAnswer, ApprovalKind, Execution, State

TIMEOUT = "timeout"  # who answered where nobody did


# For the engine. -------------------------------------------------------------------------------------------------
def put_question(**fields: Any) -> str:
    """In the caller's transaction, which journals the id that this gives."""
    return str(Approval.objects.create(**fields).pk)


def settled(approval_id: UUID) -> Approval | None:
    """The question once it has its answer, which it gets here when its time is over; None before."""
    row = Approval.objects.filter(pk=approval_id)
    row.filter(answer="", expires_at__lte=Now()).update(
        answer=ApprovalAnswer.REJECTED, by=TIMEOUT, answered_at=Now()
    )  # conditional: an answer that came first stands
    return row.answered().first()


def due_at(asked: Collection[UUID], moment: datetime | None) -> Any:
    """When an execution that parks is due: at `moment` (None: when it is woken), at once if one it `asked` is answered.

    An expression for the update that parks it, which holds the row's lock.
    """
    if not asked:
        return moment
    answered = Exists(Approval.objects.filter(pk__in=asked).answered())
    return Case(When(answered, then=Now()), default=Value(moment, output_field=DateTimeField()))


# For people. -----------------------------------------------------------------------------------------------------
def find_approval(
    *, execution: Execution, kind: ApprovalKind, approval_id: UUID | None = None, step_id: UUID | None = None
) -> Approval:
    """The question that is meant: by its id, or the latest of a step, or the only open one of the execution.

    Raises `NotFound` (404), `WhichApproval` (400) when several are open, `ExecutionEnded` and `NothingAsked` (409).
    """
    rows = Approval.objects.filter(execution=execution, kind=kind).order_by("-id")
    if approval_id is not None or step_id is not None:
        named = rows.filter(pk=approval_id) if approval_id is not None else rows
        if (found := (named if step_id is None else named.of_step(step_id)).first()) is None:
            raise NotFound("There is no such question in this execution.")
        return found
    still_open = list(rows.open()[:2])
    if len(still_open) > 1:
        raise WhichApproval("Several questions of this execution are open: say which by approvalId or step.")
    found = still_open[0] if still_open else rows.first()
    if found is None and execution.state == State.ENDED:
        raise ExecutionEnded(f"The execution has already ended as {execution.status}; it asks nothing any more.")
    if found is None:
        raise NothingAsked("The execution asks nothing of the kind now.")
    return found


def answer_approval(*, approval: Approval, approved: bool, by: str, comment: str = "", now: datetime) -> Approval:
    """Answer an approval block's question and wake its execution. Raises as `_answer` does."""
    answer = ApprovalAnswer.APPROVED if approved else ApprovalAnswer.REJECTED
    return _answer(approval, ApprovalKind.APPROVAL, answer=answer, by=by[:300], comment=comment, answered_at=now)


def resolve_crash(
    *, approval: Approval, decision: str, by: str, output: Any = None, comment: str = "", now: datetime
) -> Approval:
    """Decide on a step whose worker died: `retry`, `fail`, or `succeed` with `output`. Raises as `_answer` does."""
    text = json_text.dumps(output) if decision == ApprovalAnswer.SUCCEED else None
    return _answer(
        approval,
        ApprovalKind.CRASH,
        answer=ApprovalAnswer(decision),
        by=by[:300],
        comment=comment,
        output=text,
        answered_at=now,
    )


def _answer(approval: Approval, kind: ApprovalKind, **answer: Any) -> Approval:
    """Raises `ExecutionEnded`, `ApprovalAnswered`, `ApprovalExpired`, `ApprovalWithdrawn`, `NothingAsked` (409)."""
    if approval.kind != kind:
        raise NothingAsked(f"This question is not of the kind {kind}.")
    with transaction.atomic():
        execution = Execution.objects.select_for_update(of=("self",)).filter(pk=approval.execution_id).first()
        if execution is None:
            raise NotFound("The execution has been deleted.")
        if not Approval.objects.filter(pk=approval.pk).open().update(**answer):
            raise _why_not(execution, approval)
        if Execution.objects.filter(pk=execution.pk, state=State.PARKED).update(due_at=Now()):
            ring_bell()
    approval.refresh_from_db()
    return approval


def _why_not(execution: Execution, approval: Approval) -> Exception:
    approval.refresh_from_db()
    if approval.by == TIMEOUT or (not approval.answer and execution.state != State.ENDED and _is_late(approval)):
        return ApprovalExpired("The time to answer is over; it counts as rejected.")
    if approval.answer:
        return ApprovalAnswered(f"It has been answered already: {approval.in_words}")
    if execution.state == State.ENDED:
        return ExecutionEnded(f"The execution has already ended as {execution.status}; nothing waits for an answer.")
    return ApprovalWithdrawn("The step that asked has ended without an answer.")


def _is_late(approval: Approval) -> bool:
    return Approval.objects.filter(pk=approval.pk, expires_at__lte=Now()).exists()
