"""What a flow's executions add up to."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from executions import tally
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
    """All executions of `flow` that are kept, test runs of its draft included.

    What has ended comes from the counters, what has not is few, and the newest is the first of the list's index: none of
    it takes longer with a longer history.
    """
    ended = tally.ended(user_id=flow.user_id, flow_id=flow.pk)
    of_flow = Execution.objects.filter(flow=flow)
    runs = {status: count for status, (count, _) in ended.items()}
    return FlowStats(
        flow_id=flow.pk,
        executions_total=sum(runs.values()) + of_flow.alive().count(),
        executions_success=runs.get(ExecutionStatus.SUCCESS, 0),
        executions_error=runs.get(ExecutionStatus.ERROR, 0) + runs.get(ExecutionStatus.TIMEOUT, 0),
        avg_duration_ms=round(sum(ms for _, ms in ended.values()) / (sum(runs.values()) or 1), 3),
        last_executed_at=of_flow.order_by("-started_at", "-id").values_list("started_at", flat=True).first(),
    )
