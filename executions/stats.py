"""What a flow's executions add up to."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from django.db.models import Avg, Count, DurationField, ExpressionWrapper, F, Max, Q
from django.db.models.functions import Coalesce

from executions.models import Execution, ExecutionStatus
from flows.models import Flow


@dataclass(frozen=True, slots=True)
class FlowStats:
    """The API's `FlowStats`: `executions_error` counts errors and time-outs, the average is over what has ended."""

    flow_id: UUID
    executions_total: int
    executions_success: int
    executions_error: int
    avg_duration_ms: float
    last_executed_at: datetime | None


def flow_stats(flow: Flow) -> FlowStats:
    """All executions of `flow`, test runs of its draft included, in one query."""
    # As `Execution.duration_ms` has it: one that ended in the queue took no time.
    worked = ExpressionWrapper(F("completed_at") - Coalesce("claimed_at", "completed_at"), output_field=DurationField())
    failed = Q(status__in=[ExecutionStatus.ERROR, ExecutionStatus.TIMEOUT])
    row = Execution.objects.filter(flow=flow).aggregate(
        total=Count("pk"),
        success=Count("pk", filter=Q(status=ExecutionStatus.SUCCESS)),
        error=Count("pk", filter=failed),
        average=Avg(worked),
        last=Max("started_at"),
    )
    return FlowStats(
        flow_id=flow.pk,
        executions_total=row["total"],
        executions_success=row["success"],
        executions_error=row["error"],
        avg_duration_ms=round((row["average"] or timedelta()) / timedelta(milliseconds=1), 3),
        last_executed_at=row["last"],
    )
