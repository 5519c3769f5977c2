"""Accept an operation on many executions, and work it off.

Each execution has a transaction of its own, in which its item is locked, acted on and marked: whatever dies, an execution
is retried or cancelled once, and what is pending is found again by the next worker. Several workers may share the work.
"""

import logging
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import InterfaceError, OperationalError, transaction
from django.db.models import F

from accounts.models import User
from bloxserver.core.errors import DomainError
from executions.bulk.models import BulkItem, BulkOperation, ItemStatus, OperationStatus, Verb
from executions.dispatch import Job, ring
from executions.errors import FilterTooBroad, FilterTooWide
from executions.listing import History
from executions.models import Execution, ExecutionStatus, State
from executions.services import cancel_execution, retry_execution
from executions.wanted import Wanted

logger = logging.getLogger(__name__)

MAX_EXECUTIONS = 10_000  # of one operation
SECONDS = 2.0  # of one run of the task; then it rings for the rest, so that drains get their turn
BATCH = 100  # items that are looked up at once
ERRORS_SHOWN = 100
DAYS_KEPT = 30  # after its end


def accept_operation(
    *,
    user: User,
    verb: Verb,
    wanted: Wanted,
    ids: Sequence[UUID] | None = None,
    asked: dict[str, Any],
    from_failed: bool = False,
    now: datetime,
) -> BulkOperation:
    """Commit an operation on the user's executions that are wanted (and among `ids`, unless None), and ring for a worker.

    A cancel takes those that have not ended, a retry those that have: failed ones, unless `wanted` names statuses. Which
    ones is settled here; what comes later is not touched. Raises `FilterTooBroad` (409) and `FilterTooWide` (409).
    """
    found = _found(user, verb, wanted, ids)
    with transaction.atomic():
        operation = BulkOperation.objects.create(
            user=user, verb=verb, from_failed=from_failed, asked=asked, total=len(found), created_at=now
        )
        BulkItem.objects.bulk_create(
            [BulkItem(operation=operation, execution_id=execution_id) for execution_id in found], batch_size=2_000
        )
        if found:
            ring(Job.OPERATE)
        else:
            _finish(operation, now=now)
    return operation


def work_operations(*, now: datetime, seconds: float = SECONDS) -> None:
    """Act on pending items for about `seconds`, a batch of each operation in turn; ring when more is left."""
    stop_at = time.monotonic() + seconds
    running = BulkOperation.objects.filter(status=OperationStatus.RUNNING).select_related("user").order_by("id")
    while operations := list(running):
        acted = 0
        for operation in operations:
            pending = list(operation.items.filter(status=ItemStatus.PENDING).order_by("id")[:BATCH])
            for item in pending:
                if time.monotonic() >= stop_at:
                    ring(Job.OPERATE)
                    return
                acted += _act(operation, item.pk, now=now)
            if not pending:
                _finish(operation, now=now)
        if not acted and running.exists():
            return  # other workers hold what is left


def prune_operations(*, now: datetime) -> None:
    """Delete the oldest of what ended long ago; a few at a time, since each may have thousands of items."""
    old = BulkOperation.objects.filter(completed_at__lt=now - timedelta(days=DAYS_KEPT)).order_by("id")
    ids = list(old.values_list("pk", flat=True)[:5])
    BulkItem.objects.filter(operation__in=ids).delete()
    BulkOperation.objects.filter(pk__in=ids).delete()


def _found(user: User, verb: Verb, wanted: Wanted, ids: Sequence[UUID] | None) -> list[UUID]:
    rows = (
        Execution.objects.for_user(user).of_existing_flows(user)
        if wanted.flow_id is None
        else Execution.objects.of_flow(wanted.flow_id, user)
    )
    if verb == Verb.CANCEL:
        rows = rows.alive()
    else:
        rows = rows.filter(state=State.ENDED)
        if not wanted.statuses and ids is None:
            rows = rows.filter(status__in=[ExecutionStatus.ERROR, ExecutionStatus.TIMEOUT])
    if ids is not None:
        rows = rows.filter(pk__in=ids)
    page = History(rows, wanted, user.pk).page(after=None, start=0, size=MAX_EXECUTIONS)
    if len(page.items) == MAX_EXECUTIONS and page.has_more:
        raise FilterTooBroad(
            f"More than {MAX_EXECUTIONS:,} executions match; narrow it down, by since and until for example.",
            details={"limit": MAX_EXECUTIONS},
        )
    if page.has_more:
        raise FilterTooWide(
            "search and triggerType look through some thousands of executions only, and there are more; narrow it down "
            "by flow, status, since and until."
        )
    return [row.pk for row in page.items]


def _act(operation: BulkOperation, item_id: int, *, now: datetime) -> int:
    """Retry or cancel the execution of one item if nobody has; 1 when it did. The item's row lock makes it once."""
    with transaction.atomic():
        item = (
            BulkItem.objects.select_for_update(skip_locked=True, of=("self",))
            .filter(pk=item_id, status=ItemStatus.PENDING)
            .first()
        )
        if item is None:
            return 0
        try:
            with transaction.atomic():
                item.result_id = _apply(operation, item, now=now)
            item.status = ItemStatus.DONE
        except Execution.DoesNotExist:
            item.status, item.code, item.message = ItemStatus.FAILED, "not_found", "It has been deleted."
        except DomainError as error:
            item.status, item.code, item.message = ItemStatus.FAILED, error.code, error.message
        except (OperationalError, InterfaceError):
            raise  # the database is away: the item stays pending
        except Exception:  # one that nobody foresaw must not hold up the others for ever
            logger.exception(
                "operation=%s execution=%s: the %s failed", operation.pk, item.execution_id, operation.verb
            )
            item.status, item.code = ItemStatus.FAILED, "internal_error"
            item.message = "The server failed on this one. It has been logged."
        item.save(update_fields=["status", "result_id", "code", "message"])
        counter = "done" if item.status == ItemStatus.DONE else "failed"
        BulkOperation.objects.filter(pk=operation.pk).update(**{counter: F(counter) + 1})
    return 1


def _apply(operation: BulkOperation, item: BulkItem, *, now: datetime) -> UUID | None:
    executions = Execution.objects.for_user(operation.user).select_related("flow__user", "payload")
    execution = executions.get(pk=item.execution_id)
    if operation.verb == Verb.CANCEL:
        cancel_execution(execution=execution, by=f"{operation.user}, with {operation.total - 1:,} others", now=now)
        return None
    return retry_execution(execution=execution, from_failed=operation.from_failed, now=now).pk


def _finish(operation: BulkOperation, *, now: datetime) -> None:
    """Done, unless somebody still acts on an item of it."""
    if not operation.items.filter(status=ItemStatus.PENDING).exists():
        running = BulkOperation.objects.filter(pk=operation.pk, status=OperationStatus.RUNNING)
        running.update(status=OperationStatus.DONE, completed_at=now)
