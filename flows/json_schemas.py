"""JSON Schemas (2020-12) that a flow's author writes: is it one, and does a value fit it?

Both the schema and the value come from tenants, and their check shares a process with other tenants' executions. So
nothing is fetched that a `$ref` names, a `pattern` is RE2 (whose matching takes linear time), and the work is counted.
"""

from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import cache, partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

Path = tuple[str | int, ...]

MAX_STEPS = 10_000  # keywords looked at in one check: a quarter of a second at worst
MAX_SHOWN = 300  # characters of a reason
TYPES = "array, boolean, integer, null, number, object and string"

_DATA = frozenset({"const", "enum", "default", "examples"})  # keywords whose value is no schema
_NAMED = frozenset({"properties", "$defs", "definitions", "dependentSchemas"})  # whose keys are names
_steps: ContextVar[list[int]] = ContextVar("steps left in this check of a value")


class _BadPattern(Exception):
    """RE2 does not know it; the message says why."""


class _TooMuchWork(Exception):
    """The check was given up."""


def schema_problem(schema: Any) -> tuple[Path, str] | None:
    """Where and why `schema` is no JSON Schema that can be used here; None when it is one."""
    from jsonschema import Draft202012Validator, SchemaError

    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        path = tuple(error.absolute_path)
        reason = f"the types are {TYPES}" if path[-1:] == ("type",) else _short(error.message)
        return path, f"This is no JSON Schema: {reason}."
    except RecursionError:
        return (), "The schema is nested too deep."
    return next(_unusable(schema, schema, ()), None)


def misfit(value: Any, schema: dict[str, Any]) -> str | None:
    """Where and why `value` does not fit, without a full stop; None when it fits. `schema` has no `schema_problem`."""
    from jsonschema.exceptions import best_match
    from referencing import Registry

    token = _steps.set([MAX_STEPS])
    try:
        found = best_match(_validator_class()(schema, registry=Registry()).iter_errors(value))
    except (_TooMuchWork, RecursionError):
        return "The schema takes too much work to check; make it simpler"
    finally:
        _steps.reset(token)
    return None if found is None else f"At {found.json_path}: {_short(found.message)}"


def _short(text: str) -> str:
    text = text.rstrip(".")
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


@cache
def _validator_class() -> "type[Validator]":
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend

    keywords = {**Draft202012Validator.VALIDATORS, "pattern": _pattern}
    return extend(Draft202012Validator, {name: partial(_counted, check) for name, check in keywords.items()})


def _counted(check: Callable[..., Any], validator: Any, keyword: Any, instance: Any, schema: Any) -> Iterator[Any]:
    if (left := _steps.get(None)) is not None:
        left[0] -= 1
        if left[0] < 0:
            raise _TooMuchWork
    yield from check(validator, keyword, instance, schema) or ()


def _pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[Any]:
    from jsonschema import ValidationError

    if isinstance(instance, str) and not _matches(pattern, instance):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


def _matches(pattern: str, text: str) -> bool:
    from flows.organism.expressions import ExpressionError, compile_expression  # whose package reads this module

    found = compile_expression("payload.text.matches(payload.pattern)")
    try:
        return bool(found.evaluate({"payload": {"text": text, "pattern": pattern}}))
    except ExpressionError as error:
        raise _BadPattern(error.message.rpartition("regular expression: ")[2]) from None


def _unusable(root: dict[str, Any], schema: Any, path: Path) -> Iterator[tuple[Path, str]]:
    """What a JSON Schema may hold, and cannot be checked here."""
    if not isinstance(schema, dict):
        for index, item in enumerate(schema if isinstance(schema, list) else ()):
            yield from _unusable(root, item, (*path, index))
        return
    for key, value in schema.items():
        here = (*path, key)
        if key in ("$ref", "$dynamicRef"):
            yield from _unusable_reference(root, value, here)
        elif key == "pattern":
            yield from _unusable_pattern(value, here)
        elif key == "patternProperties":
            yield here, "patternProperties cannot be checked here. Name the properties, or allow any."
        elif key in _NAMED and isinstance(value, dict):
            for name, child in value.items():
                yield from _unusable(root, child, (*here, name))
        elif key not in _DATA:
            yield from _unusable(root, value, here)


def _unusable_reference(root: dict[str, Any], reference: str, path: Path) -> Iterator[tuple[Path, str]]:
    from referencing import Registry
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012

    if not reference.startswith("#"):
        yield path, f'"{reference[:80]}" is another document; a schema here stands alone. Put it under $defs.'
        return
    try:
        Registry().with_resource("", DRAFT202012.create_resource(root)).resolver().lookup(reference)
    except Unresolvable:
        yield path, f'There is nothing at "{reference[:80]}" in this schema.'


def _unusable_pattern(pattern: str, path: Path) -> Iterator[tuple[Path, str]]:
    try:
        _matches(pattern, "")
    except _BadPattern as error:
        yield path, f"This pattern cannot be used: {error}. Patterns are RE2, without look-ahead and back-references."
