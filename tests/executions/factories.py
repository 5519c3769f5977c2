"""Rows as the engine would have left them, for tests of what is shown of them."""

from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

from accounts.models import User
from bloxserver.core import json_text
from executions.models import Execution, ExecutionPayload, ExecutionStatus, State, Step, StepStatus
from flows.models import Flow, FlowStatus, FlowVersion

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
ORGANISM = """\
organism: {name: greeter}
listeners:
  - name: greet
    handler: blox.transform
    config:
      value: {greeting: "Hello, {{ payload.name }}!"}
    peers: [done]
  - name: done
    handler: blox.output
"""


def make_flow(user: User, *, name: str = "Greeter", yaml: str = ORGANISM, running: bool = True) -> Flow:
    flow = Flow.objects.create(user=user, name=name, organism_yaml=yaml)
    if running:
        flow.deployed_version = FlowVersion.objects.create(
            flow=flow, number=1, organism_yaml=yaml, digest=sha256(yaml.encode()).hexdigest()
        )
        flow.status, flow.container_id = FlowStatus.RUNNING, "deployment-1"
        flow.save()
    return flow


def make_execution(
    flow: Flow,
    *,
    status: str = "success",
    input: Any = None,
    output: Any = None,
    queued_ms: int = 0,
    ms: int = 0,
    **fields: Any,
) -> Execution:
    """One that waited `queued_ms` and was worked on for `ms`; `status="running"` is still in the queue."""
    fields.setdefault("started_at", NOON)
    if status != ExecutionStatus.RUNNING:
        claimed = fields["started_at"] + timedelta(milliseconds=queued_ms)
        fields = {
            "state": State.ENDED,
            "due_at": None,
            "claimed_at": claimed,
            "completed_at": claimed + timedelta(milliseconds=ms),
            **fields,
        }
    fields.setdefault("version", flow.versions.get(number=1))
    fields.setdefault("trigger_type", "manual")
    execution = Execution.objects.create(user_id=flow.user_id, flow=flow, status=status, **fields)
    ExecutionPayload.objects.create(
        execution=execution, input=json_text.dumps(input), output=None if output is None else json_text.dumps(output)
    )
    return execution


def make_step(execution: Execution, number: int, listener: str, **fields: Any) -> Step:
    """The step that was written as the execution's `number`th; `input` and `output` are values, left out for null."""
    for name in {"input", "output"} & fields.keys():
        fields[name] = json_text.dumps(fields[name])
    return Step.objects.create(
        execution=execution,
        number=number,
        listener=listener,
        **{
            "key": f"key-{number}",
            "block": "blox.transform",
            "status": StepStatus.SUCCESS,
            "started_at": NOON,
            "completed_at": NOON + timedelta(milliseconds=5),
            **fields,
        },
    )
