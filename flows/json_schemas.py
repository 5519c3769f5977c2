"""JSON Schemas (2020-12) that a flow's author writes: is it one, and does a value fit it?

Nothing is fetched that a `$ref` names, and a `pattern` is RE2. How a check is kept short: `flows.counted_validator`.
"""

import logging
from collections.abc import Iterator
from typing import Any

from flows.counted_validator import MAX_PATTERN, BadPattern, TooMuchWork, bounded, matches, validator_class

logger = logging.getLogger(__name__)

Path = tuple[str | int, ...]

# Units in one check of a value, which holds up other executions: 50 ms at worst, and 200 ms where the value is large.
MIN_WORK, MAX_WORK = 15_000, 60_000
WORK_OF_VALUE = 5  # units that each value in it adds: its type, and a keyword or two
MAX_SCHEMA_WORK = 100_000  # in that of a schema, when a flow is validated
MAX_SHOWN = 300  # characters of a reason
TYPES = "array, boolean, integer, null, number, object and string"

# Where the schemas inside a schema stand: a schema itself, a list of them, schemas by name.
_ONE = frozenset({"items", "contains", "additionalProperties", "propertyNames", "not", "if", "then", "else"})
_LISTS = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_NAMED = frozenset({"properties", "$defs", "definitions", "dependentSchemas"})
_REFUSED = {
    "patternProperties": "patternProperties cannot be checked here. Name the properties, or allow any.",
    "unevaluatedItems": "unevaluatedItems cannot be checked here. Use items: false.",
    "unevaluatedProperties": "unevaluatedProperties cannot be checked here. Use additionalProperties: false.",
}


def schema_problem(schema: Any) -> tuple[Path, str] | None:
    """Where and why `schema` is no JSON Schema that can be used here; None when it is one."""
    from jsonschema import Draft202012Validator

    try:
        with bounded(MAX_SCHEMA_WORK, one_document=False):
            error = next(validator_class()(Draft202012Validator.META_SCHEMA).iter_errors(schema), None)
    except TooMuchWork:
        return (), "The schema is too large to be checked; make it simpler."
    except RecursionError:
        return (), "The schema is nested too deep."
    if error is not None:
        path = tuple(error.absolute_path)
        reason = f"the types are {TYPES}" if path[-1:] == ("type",) else _short(error.message)
        return path, f"This is no JSON Schema: {reason}."
    return next(_unusable(schema), None)


def misfit(value: Any, schema: dict[str, Any]) -> str | None:
    """Where and why `value` does not fit, without a full stop; None when it fits. `schema` has no `schema_problem`."""
    from jsonschema.exceptions import best_match
    from referencing import Registry

    try:
        with bounded(min(MIN_WORK + WORK_OF_VALUE * _count(value), MAX_WORK), one_document=True):
            found = best_match(validator_class()(schema, registry=Registry()).iter_errors(value))
    except (TooMuchWork, RecursionError):
        return "This takes too much work to check; make the schema simpler, or the value smaller"
    except Exception as error:  # the library stumbles over some numbers, say; whoever asks must get an answer
        logger.warning("A value could not be checked by its schema: %s", type(error).__qualname__)
        return f"The schema cannot be applied to this ({type(error).__name__}); make it simpler"
    return None if found is None else f"At {found.json_path}: {_short(found.message)}"


def _count(value: Any) -> int:
    """Values in it, and it."""
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(map(_count, children))


def _short(text: str) -> str:
    text = text.rstrip(".")
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def _unusable(root: Any) -> Iterator[tuple[Path, str]]:
    """What a JSON Schema may hold, and cannot be checked here."""
    found = list(_schemas(root, ()))
    known = {id(schema) for _, schema in found}
    for path, schema in found:
        for key, value in schema.items():
            if (problem := _problem_of_keyword(key, value, root, known, is_root=not path)) is not None:
                yield (*path, key), problem


def _problem_of_keyword(key: str, value: Any, root: dict[str, Any], known: set[int], *, is_root: bool) -> str | None:
    match key:
        case "$id" if not is_root:
            return "A schema here is one document: $id may stand at its top alone."
        case "$ref" | "$dynamicRef":
            return _problem_of_reference(root, value, known)
        case "pattern":
            return _problem_of_pattern(value)
        case _:
            return _REFUSED.get(key)


def _schemas(schema: Any, path: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """It and all that are inside, but for those that are only true or false."""
    if not isinstance(schema, dict):
        return
    yield path, schema
    for key, value in schema.items():
        if key in _ONE:
            yield from _schemas(value, (*path, key))
        elif key in _LISTS or key in _NAMED:
            for name, child in value.items() if isinstance(value, dict) else enumerate(value):
                yield from _schemas(child, (*path, key, name))


def _problem_of_reference(root: dict[str, Any], reference: str, known: set[int]) -> str | None:
    from referencing import Registry
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012

    shown = f'"{reference[:80]}"'
    if not reference.startswith("#"):
        return f"{shown} is another document; a schema here stands alone. Put it under $defs."
    try:
        target = Registry().with_resource("", DRAFT202012.create_resource(root)).resolver().lookup(reference).contents
    except (Unresolvable, LookupError, TypeError, ValueError):  # it looks for "x" in a list, or in a text
        return f"There is nothing at {shown} in this schema."
    return None if isinstance(target, bool) or id(target) in known else f"What stands at {shown} is no schema."


def _problem_of_pattern(pattern: str) -> str | None:
    if len(pattern) > MAX_PATTERN:
        return f"This pattern has {len(pattern):,} characters; at most {MAX_PATTERN:,} are allowed."
    try:
        matches(pattern, "")
    except BadPattern as error:
        return f"This pattern cannot be used: {error}. Patterns are RE2, without look-ahead and back-references."
    return None
