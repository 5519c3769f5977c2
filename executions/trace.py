"""The trace of an execution: its steps with what went into each and came out of it.

A step does not repeat what its only parent gave: its input is then read from the parent's output, or, for the first
step, from the execution's own input. Whatever the number of steps, that takes three queries.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from django.db.models import Case, F, When
from django.db.models.functions import Left

from executions.models import ExecutionPayload, Step

SHOWN_CHARACTERS = 256 * 1024  # of a value in a list; 100 steps of two 5 MiB values would not fit a web process


@dataclass(frozen=True, slots=True)
class Value:
    """JSON text; where it is longer than was asked for, only the beginning of it."""

    text: str | None
    cut: bool = False


@dataclass(frozen=True, slots=True)
class TracedStep:
    step: Step
    input: Value
    output: Value


def trace(steps: Sequence[Step], *, characters: int | None = SHOWN_CHARACTERS) -> list[TracedStep]:
    """These steps of one execution with their values, each up to `characters` long (None: whole)."""
    if not steps:
        return []
    execution_id = steps[0].execution_id
    inputs, outputs = _own_values(execution_id, [step.key for step in steps], characters)
    heirs = [step for step in steps if inputs[step.key].text is None and len(step.parents) == 1]
    outputs |= _outputs(execution_id, {step.parents[0] for step in heirs} - outputs.keys(), characters)
    inputs |= {step.key: outputs.get(step.parents[0], Value(None)) for step in heirs}
    roots = [step.key for step in steps if inputs[step.key].text is None and not step.parents]
    if roots:
        inputs |= dict.fromkeys(roots, _execution_input(execution_id, characters))
    return [TracedStep(step, inputs[step.key], outputs[step.key]) for step in steps]


def _own_values(
    execution_id: UUID, keys: Sequence[str], characters: int | None
) -> tuple[dict[str, Value], dict[str, Value]]:
    rows = Step.objects.filter(execution_id=execution_id, key__in=keys).values_list(
        "key", _head("input", characters), _output(characters)
    )
    inputs: dict[str, Value] = dict.fromkeys(keys, Value(None))
    outputs: dict[str, Value] = dict.fromkeys(keys, Value(None))
    for key, given, result in rows:
        inputs[key], outputs[key] = _value(given, characters), _value(result, characters)
    return inputs, outputs


def _outputs(execution_id: UUID, keys: set[str], characters: int | None) -> dict[str, Value]:
    if not keys:
        return {}
    rows = Step.objects.filter(execution_id=execution_id, key__in=keys)
    return {key: _value(text, characters) for key, text in rows.values_list("key", _output(characters))}


def _execution_input(execution_id: UUID, characters: int | None) -> Value:
    payloads = ExecutionPayload.objects.filter(execution_id=execution_id)
    return _value(payloads.values_list(_head("input", characters), flat=True).first(), characters)


def _head(column: str, characters: int | None) -> F | Left:
    """The column, or one character more of it than is wanted, which tells that it was longer."""
    return F(column) if characters is None else Left(column, characters + 1)


def _output(characters: int | None) -> Case:
    """An output wherever it is stored; the large ones, apart, are read only for the rows that have one."""
    apart = When(is_output_apart=True, then=_head("large_output__text", characters))
    return Case(apart, default=_head("output", characters))


def _value(text: str | None, characters: int | None) -> Value:
    if text is None or characters is None or len(text) <= characters:
        return Value(text)
    return Value(text[:characters], cut=True)
