"""What a flow's start, stop, import and export mean for its triggers, and what fired an execution. Connected when the
app is ready.
"""

from datetime import datetime
from typing import Any

from django.dispatch import receiver
from django.utils import timezone

from executions.models import Execution
from executions.origins import Origin, origin_asked
from flows.models import Flow
from flows.signals import flow_deleted, flow_exported, flow_imported, flow_started, flow_stopped
from triggers import services


@receiver(flow_started)
def arm(sender: type[Flow], flow: Flow, **kwargs: Any) -> None:
    services.arm_flow(flow=flow, now=timezone.now())


@receiver(flow_stopped)
def disarm(sender: type[Flow], flow: Flow, **kwargs: Any) -> None:
    services.disarm_flow(flow=flow)


@receiver(flow_deleted)
def delete_triggers(sender: type[Flow], flow: Flow, **kwargs: Any) -> bool:
    return services.delete_triggers_of(flow=flow, now=timezone.now())


@receiver(flow_imported)
def make_imported(sender: type[Flow], flow: Flow, triggers: list[dict[str, Any]], **kwargs: Any) -> None:
    services.import_triggers(flow=flow, documents=triggers, now=timezone.now())


@receiver(flow_exported)
def describe_for_export(sender: type[Flow], flow: Flow, **kwargs: Any) -> list[dict[str, Any]]:
    return services.export_triggers(flow=flow)


@receiver(origin_asked)
def name_ledger_row(sender: type[Execution], execution: Execution, fired_at: datetime, **kwargs: Any) -> Origin | None:
    return services.origin_of(execution=execution, fired_at=fired_at)
