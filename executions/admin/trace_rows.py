"""The lines of the trace on an execution's page: what a step has called stands below it."""

from collections.abc import Iterator, Sequence
from datetime import UTC
from typing import Any

from django.urls import reverse

from bloxserver.core.admin import status_pill
from executions.admin.privacy import HIDDEN
from executions.admin.texts import milliseconds, model_call_line, pretty, short
from executions.models import Step
from executions.trace import TracedStep, Value, trace

STEP_CHARACTERS = 4_000  # of an input or output
DEEPEST = 4  # further in it is not indented


def rows_of(steps: Sequence[Step], *, hidden: bool) -> list[dict[str, Any]]:
    """A row for each step; where they are `hidden`, without values, and of errors the codes alone."""
    names = {step.key: step.listener for step in steps}
    traced = {each.step.key: each for each in trace(steps, characters=STEP_CHARACTERS)}
    return [_row(traced[step.key], names, depth, hidden) for step, depth in _in_order(steps)]


def _in_order(steps: Sequence[Step]) -> Iterator[tuple[Step, int]]:
    """Each with its depth. Those of a caller that is not among them stand at the top."""
    keys = {step.key for step in steps}
    below: dict[str, list[Step]] = {}
    for step in steps:
        below.setdefault(step.caller_key if step.caller_key in keys else "", []).append(step)
    todo = [(step, 0) for step in reversed(below.get("", []))]
    while todo:
        step, depth = todo.pop()
        yield step, depth
        todo += [(inner, depth + 1) for inner in reversed(below.get(step.key, []))]


def _row(traced: TracedStep, names: dict[str, str], depth: int, is_hidden: bool) -> dict[str, Any]:
    step = traced.step
    return {
        "step": step,
        "depth": min(depth, DEEPEST),
        "status": status_pill(step.status),
        "caller": names.get(step.caller_key, step.caller_key),
        "position": step.scope.rpartition(":")[2],
        "url": reverse("admin:executions_step_change", args=[step.pk]),
        "started": step.started_at.astimezone(UTC).time().isoformat("milliseconds"),
        "model_call": model_call_line(step),
        "duration": milliseconds(step.duration_ms),
        "error": "" if is_hidden else step.error,
        "failures": [(each["attempt"], each["code"] if is_hidden else each["error"]) for each in step.failures],
        "input": _folded(traced.input, is_hidden),
        "output": _folded(traced.output, is_hidden),
    }


def _folded(value: Value, is_hidden: bool) -> dict[str, str]:
    if is_hidden and value.text is not None:
        return {"short": "hidden", "full": HIDDEN}
    return {"short": short(value.text, 60), "full": pretty(value)}
