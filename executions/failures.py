"""What follows when an execution fails: what it had called and waited for is cancelled, its flow's `on_failure` is acted
on, and a flow that does nothing but fail is paused.

An end that is a failure sets `follow_up_due` in the same update (`endings.end`); the clock, which is rung after the
commit and again by the sweeper, sees to it here. Not the workers: one may be busy with a drain for hours, and a slow mail
server must not keep it from one. What there is to tell, and to whom, becomes a `FailureNotice` (`notices.py`).
A test run of the draft, and what was cancelled, is nobody's failure.
"""

import logging
import time
from itertools import takewhile
from operator import attrgetter
from uuid import UUID

from django.db import InterfaceError, OperationalError, transaction
from django.db.models import Q
from django.utils import timezone

from executions.dispatch import ring_failure_bell
from executions.endings import FAILED, MAX_CRASHES, WORKER_LOST
from executions.models import Execution, ExecutionStatus, FailureNotice, NoticeKind
from executions.services.cancellation import cancel_called
from flows.models import Flow, FlowStatus
from flows.organism import OrganismInvalid
from flows.services import fail_flow, load_organism

logger = logging.getLogger(__name__)

FAILURES_IN_A_ROW = 10  # pause a flow: design section 4
BATCH = 100
SECONDS = 20.0  # of one task
ERROR_CHARACTERS = 1_000  # of the last error in a flow's errorMessage
NO_CHAIN = (
    "This execution was itself started by the failure of another, so its on_failure flow is not started: "
    "flows that fail would start each other for ever."
)


def see_to_failures(*, seconds: float = SECONDS) -> None:
    """See to every failure that is on record, once. Any number may do so at once: each write is conditional."""
    until = time.monotonic() + seconds
    last = UUID(int=0)
    while time.monotonic() < until:
        due = Execution.objects.filter(follow_up_due=True, pk__gt=last).order_by("pk")
        rows = list(due.select_related("flow__user").defer("flow__organism_yaml", "flow__canvas_state")[:BATCH])
        if not rows:
            return
        for execution in rows:
            last = execution.pk
            try:
                _see_to(execution)
            except (OperationalError, InterfaceError):  # the database is away
                raise
            except Exception:  # one that cannot be seen to must not keep the others waiting
                logger.exception("execution=%s: what follows from its failure is not clear", execution.pk)


def _see_to(execution: Execution) -> None:
    """Cancel what it waited for, pause the flow if it is time, then make the notices and take the mark away, in one
    transaction.

    Of two that see to the same failure, the update lets one make the notices. Flows are locked before anything else
    (a forced stop locks the flow, then its executions), so the pause stands apart; it happens once a deployment.
    """
    cancel_called(ended=execution, now=timezone.now())
    notices: list[FailureNotice] = []
    if not execution.is_draft and execution.cancel_requested_at is None:
        pause_if_failing(execution.flow_id)
        notices = _notices_of(execution)
    with transaction.atomic():
        marked = Execution.objects.filter(pk=execution.pk, follow_up_due=True)
        if marked.update(follow_up_due=False) and notices:
            FailureNotice.objects.bulk_create(notices)
            ring_failure_bell()


def pause_if_failing(flow_id: UUID) -> bool:
    """Pause the flow when the last ten ends of its deployment were failures, and have its owner told; whether it was.

    Counted from the executions themselves, by the index `execution_last_ended`. Safe under concurrency: whoever commits
    the last of ten failures sees them all, and `fail_flow` pauses the deployment that was counted, once.
    """
    flow = Flow.objects.filter(pk=flow_id).select_related("user").without_bodies().first()
    if flow is None or flow.status != FlowStatus.RUNNING:
        return False
    failures, last = _failures_in_a_row(flow)
    if failures < FAILURES_IN_A_ROW or last is None:
        return False
    with transaction.atomic():
        if not fail_flow(flow=flow, message=_why_paused(flow, last)):
            return False
        if flow.user.is_active:
            FailureNotice.objects.create(execution=last, kind=NoticeKind.PAUSED, target=flow.user.email)
            ring_failure_bell()
    return True


def _failures_in_a_row(flow: Flow) -> tuple[int, Execution | None]:
    """How many failures there were since the flow's last success, and the latest of them; none beyond ten is looked for.

    Only what the present deployment accepted counts: what an earlier one left behind says nothing of it. One worker's
    death may cut off ten steps at once (`on_crash: fail`), and counts once.
    """
    ends = Execution.objects.last_ended().filter(flow=flow, version_id=flow.deployed_version_id)
    if flow.deployed_at is not None:
        ends = ends.filter(started_at__gte=flow.deployed_at, completed_at__gte=flow.deployed_at)
    ends = ends.only("pk", "status", "error_message", "completed_at")
    cut_off = Q(error_code=WORKER_LOST, crashes__lt=MAX_CRASHES)

    latest = list(ends.exclude(cut_off)[:FAILURES_IN_A_ROW])
    failures = list(takewhile(lambda execution: execution.status in FAILED, latest))
    lost = ends.filter(cut_off)
    if len(failures) < len(latest):
        lost = lost.filter(completed_at__gt=latest[len(failures)].completed_at)
    deaths = lost.order_by().values("lost_owner").distinct()[:FAILURES_IN_A_ROW].count()
    rows = [row for row in (*failures[:1], lost.first()) if row is not None]
    return len(failures) + deaths, max(rows, key=attrgetter("completed_at"), default=None)


def _why_paused(flow: Flow, last: Execution) -> str:
    error = (last.error_message or "no message").strip()
    if len(error) > ERROR_CHARACTERS:
        error = error[:ERROR_CHARACTERS] + " ..."
    if error[-1:] not in ".!?":
        error += "."
    what = "timed out" if last.status == ExecutionStatus.TIMEOUT else "failed"
    return (
        f"Paused after {FAILURES_IN_A_ROW} failures in a row. The last execution, {last.pk}, {what}: {error} "
        "Mend the cause and start the flow again; counting begins anew then."
    )


def _notices_of(execution: Execution) -> list[FailureNotice]:
    try:
        on_failure = load_organism(execution.version_id).on_failure
    except OrganismInvalid as error:  # its flow is out of order, and says so
        logger.warning("execution=%s: on_failure cannot be read: %s", execution.pk, error.message)
        return []
    if on_failure is None:
        return []
    notice = FailureNotice(execution=execution, kind=NoticeKind(on_failure.kind), target=on_failure.target)
    if notice.kind == NoticeKind.FLOW and _comes_of_a_failure(execution):
        notice.due_at, notice.error = None, NO_CHAIN
    return [notice]


def _comes_of_a_failure(execution: Execution) -> bool:
    """Whether an on_failure started it, or one of the executions that called it."""
    ancestor: UUID | None = execution.pk
    for _ in range(execution.depth + 1):
        if ancestor is None:
            return False
        if FailureNotice.objects.filter(started=ancestor).exists():
            return True
        ancestor = Execution.objects.filter(pk=ancestor).values_list("parent_id", flat=True).first()
    return False


def send_again(*, notice: FailureNotice) -> bool:
    """Take up a notice that was given up, with all its attempts before it; False when it was not given up."""
    given_up = FailureNotice.objects.given_up().filter(pk=notice.pk)
    with transaction.atomic():
        changed = given_up.update(due_at=timezone.now(), attempts=0, error="")
        ring_failure_bell()
    return bool(changed)
