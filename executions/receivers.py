"""What executions do when a flow is stopped or deleted, and when a subscription is about to end or to change."""

from datetime import datetime, timedelta
from typing import Any

from django.dispatch import receiver
from django.utils import timezone

from accounts.models import User
from billing.signals import usage_is_billed
from executions import history
from executions.engine.sweeper import settle_stop
from executions.errors import ExecutionEnded
from executions.models import Execution
from executions.overage import report_overage_of
from executions.services import cancel_execution
from flows.models import Flow
from flows.signals import flow_deleted, flow_stopped


@receiver(flow_stopped)
def end_executions(flow: Flow, force: bool = False, **_: Any) -> None:
    """A forced stop cancels what runs; a flow of which nothing runs is stopped at once."""
    if force:
        for execution in Execution.objects.alive().filter(flow=flow):
            try:
                cancel_execution(execution=execution, by="a forced stop of the flow", now=timezone.now())
            except ExecutionEnded:
                continue
    settle_stop(flow)


@receiver(flow_deleted)
def delete_executions(flow: Flow, **_: Any) -> bool:
    """As many as one transaction should take; True when `prune_history` has to go on with the rest."""
    return history.delete_some_of_flow(flow)


@receiver(usage_is_billed)
def count_overage(user: User, now: datetime, **_: Any) -> None:
    """A moment before, as far as Stripe's sum for the last invoice reaches."""
    report_overage_of(user, now=now - timedelta(seconds=1))
