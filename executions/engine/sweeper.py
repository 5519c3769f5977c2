"""Keeping house on the clock's tick: what a dead worker, a lost bell or a hung step has left. Any number may run."""

import logging
from datetime import timedelta

from django.db import transaction
from django.db.models import F
from django.db.models.functions import Now
from django.utils import timezone

from executions import endings
from executions.dispatch import ring_bell, ring_failure_bell
from executions.engine.lanes import anything_startable
from executions.models import Execution, FailureNotice, State
from executions.querysets import ExecutionQuerySet
from flows.models import Flow, FlowStatus
from flows.services import finish_stop

logger = logging.getLogger(__name__)

BATCH = 500
DEADLINE_GRACE = timedelta(seconds=5)  # a worker that lives ends its own time-outs


def sweep() -> None:
    """One round of everything. Each part is safe to repeat and to run beside another sweeper: row locks, conditions."""
    free_expired_leases()
    end_overdue()
    settle_stopping_flows()
    if anything_startable():
        ring_bell()
    if Execution.objects.filter(follow_up_due=True).exists() or FailureNotice.objects.due(timezone.now()).exists():
        ring_failure_bell()


def free_expired_leases() -> None:
    """Give what a vanished worker held back to the queue; end what has taken its worker down too often."""
    with transaction.atomic():
        for row in _locked(Execution.objects.expired()):
            crashes = row.crashes + (1 if row.claim_alone else 0)
            logger.warning("execution=%s: the lease of %s has expired", row.pk, row.lease_owner)
            if row.cancel_requested_at is not None:
                endings.end_unheld(row, endings.canceled(row.cancel_reason), now=timezone.now())
            elif crashes >= endings.MAX_CRASHES:
                Execution.objects.filter(pk=row.pk).update(crashes=crashes, lost_owner=row.lease_owner)
                endings.end_unheld(row, endings.worker_lost(crashes), now=timezone.now())
            else:
                Execution.objects.filter(pk=row.pk, fence=row.fence).update(
                    state=State.QUEUED,
                    due_at=Now(),
                    fence=row.fence + 1,
                    on_probation=True,
                    claim_alone=row.claim_alone or row.on_probation,
                    expiries=F("expiries") + 1,
                    crashes=crashes,
                    lost_owner=row.lease_owner,
                    lease_owner="",
                    lease_until=None,
                    deadline_at=None,
                )


def end_overdue() -> None:
    """End what has used up its seconds of work although its worker still renews the lease: a step hangs."""
    with transaction.atomic():
        for row in _locked(Execution.objects.filter(state=State.WORKING, deadline_at__lt=Now() - DEADLINE_GRACE)):
            endings.end_unheld(row, endings.timed_out(row.seconds_allowed), now=timezone.now())


def settle_stopping_flows() -> None:
    for flow in Flow.objects.filter(status=FlowStatus.STOPPING).without_bodies():
        settle_stop(flow)


def settle_stop(flow: Flow) -> None:
    """A stopping flow is stopped once nothing of it is alive."""
    if not Execution.objects.alive().filter(flow=flow, is_draft=False).exists():
        finish_stop(flow=flow)


def _locked(rows: ExecutionQuerySet) -> list[Execution]:
    return list(rows.select_for_update(skip_locked=True, of=("self",)).order_by("pk")[:BATCH])
