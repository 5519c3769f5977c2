"""The rows that an explanation is told from."""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

from bloxserver.core import json_text
from executions.models import SLEEP, START_FLOW, TURNED_AWAY, Approval, Execution, JournalEntry, Step
from executions.origins import Origin, origin_of
from flows.blocks.base import Effects
from flows.models import Flow, FlowVersion
from flows.organism import OrganismInvalid
from flows.services import load_organism

STEPS_READ = 2_000  # an organism's default limit is 1,000 messages


@dataclass(frozen=True, slots=True)
class Record:
    """What is on record of one execution. `effects` are those of its version's listeners; empty if it no longer loads."""

    execution: Execution
    trigger: Mapping[str, Any]
    version: FlowVersion
    flow: Flow
    origin: Origin
    steps: Sequence[Step] = ()
    journal: Sequence[JournalEntry] = ()
    approvals: Sequence[Approval] = ()
    children: Mapping[UUID, Execution] = field(default_factory=dict)
    effects: Mapping[str, Effects] = field(default_factory=dict)
    is_complete: bool = True


def read_record(execution: Execution) -> Record:
    """The rows, in a few queries whatever the length of the trace; of more than `STEPS_READ` steps the first."""
    asked = execution.journal.filter(kind__in=[SLEEP, START_FLOW, TURNED_AWAY]).order_by("created_at")
    journal = list(asked[:STEPS_READ])
    called = [json_text.loads(entry.value) for entry in journal if entry.kind == START_FLOW]
    steps = list(execution.steps.defer("input", "output", "parents", "notes").order_by("number")[: STEPS_READ + 1])
    flow = Flow.with_deleted.without_bodies().select_related("deployed_version").get(pk=execution.flow_id)
    trigger = json_text.loads(execution.payload.trigger)
    return Record(
        execution=execution,
        trigger=trigger,
        version=FlowVersion.objects.defer("organism_yaml", "canvas_state").get(pk=execution.version_id),
        flow=flow,
        origin=origin_of(execution, trigger),
        steps=steps[:STEPS_READ],
        journal=journal,
        approvals=list(execution.approvals.defer("message", "output").order_by("id")[:STEPS_READ]),
        children={row.pk: row for row in Execution.objects.filter(pk__in=called)},
        effects=_effects(execution.version_id),
        is_complete=len(steps) <= STEPS_READ,
    )


def _effects(version_id: UUID) -> dict[str, Effects]:
    try:
        listeners = load_organism(version_id).listeners
    except OrganismInvalid:  # a block is gone, say
        return {}
    return {name: listener.block.effects(listener.config.raw) for name, listener in listeners.items()}


def without_texts(record: Record) -> Record:
    """The same for who may not read what errors say: their codes alone."""
    execution = copy(record.execution)
    execution.error_message = execution.error_code or None
    steps = [copy(step) for step in record.steps]
    for step in steps:
        step.error = step.error_code or None
        step.failures = [{**failure, "error": failure["code"]} for failure in step.failures]
    return replace(record, execution=execution, steps=steps)
