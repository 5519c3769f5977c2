"""jsonschema's validator for tenants' schemas and values: its work is counted, and none of it can take long by itself.

Both come from tenants, and their check shares a process with other tenants' executions. So a check ends after so much
work, which is the same each time (a clock would make an agent that runs again meet another answer); what compares
everything with everything is done by hash; and nothing in a schema leads to another of the library's validators.
"""

import json
import math
import re
import reprlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache, lru_cache, partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

MAX_PATTERN = 1_000  # characters
_REPEATED = re.compile(r"\{(\d{1,4})(?:,(\d{0,4}))?\}")

_shown = reprlib.Repr()
_shown.maxstring = _shown.maxother = 100
_shown.maxlist = _shown.maxdict = 10


class BadPattern(Exception):
    """RE2 does not know it; the message says why."""


class TooMuchWork(Exception):
    """The check was given up."""


@dataclass(slots=True)
class _Work:
    left: int
    validators: dict[int, Any] | None  # by the id of its schema, which outlives the check; None: none is kept
    enums: dict[int, frozenset[str]] = field(default_factory=dict)  # by the id of the list


_work: ContextVar[_Work | None] = ContextVar("what is left for this check", default=None)


@contextmanager
def bounded(units: int, *, one_document: bool) -> Iterator[None]:
    """What is checked inside raises `TooMuchWork` after `units`: a unit is some microseconds.

    `one_document`: no part of the schema has an `$id`. Then each part's validator is made once, which halves the time.
    """
    token = _work.set(_Work(units, {} if one_document else None))
    try:
        yield
    finally:
        _work.reset(token)


@cache
def validator_class() -> "type[Validator]":
    """A validator of draft 2020-12, whose checks are to be `bounded`."""
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend

    keywords = {
        **Draft202012Validator.VALIDATORS,
        "const": _const,
        "enum": _enum,
        "pattern": _pattern,
        "uniqueItems": _unique_items,
    }
    made: Any = extend(Draft202012Validator, {name: partial(_counted, name, check) for name, check in keywords.items()})
    made.evolve = _evolve_of(made)
    made.descend = _descend_of(made)
    return made


def _evolve_of(made: Any) -> Callable[..., Any]:
    """The library's own, but for this: a part with another "$schema" does not get another, uncounted validator."""
    import attrs

    names = [(each.name, each.alias) for each in attrs.fields(made) if each.init]

    def evolve(self: Any, **changes: Any) -> Any:
        work, schema = _work.get(), changes.get("schema", self.schema)
        if work is not None and work.validators is not None and id(schema) in work.validators:
            return work.validators[id(schema)]
        evolved = made(**{alias: getattr(self, name) for name, alias in names} | changes)
        if work is not None and work.validators is not None:
            work.validators[id(schema)] = evolved
        return evolved

    return evolve


def _descend_of(made: Any) -> Callable[..., Any]:
    plain = made.descend

    def descend(self: Any, *args: Any, resolver: Any = None, **options: Any) -> Any:
        _charge(1)
        work = _work.get()
        if resolver is None and work is not None and work.validators is not None:
            resolver = self._resolver  # else it is asked for each part whether that has an `$id`
        return plain(self, *args, resolver=resolver, **options)

    return descend


def _counted(
    name: str, check: Callable[..., Any], validator: Any, given: Any, instance: Any, schema: Any
) -> Iterator[Any]:
    looked_at = 0 if name in _BY_HASH else _length(given) + _length(instance)
    _charge(1 + looked_at // 16 + _DEARER.get(name, 0))
    for error in check(validator, given, instance, schema) or ():
        _charge(2 + len(error.message) // 300)  # its words hold the value, and may hold the schema
        yield error


_BY_HASH = frozenset({"enum", "const"})
_DEARER = {"multipleOf": 10, "$ref": 2, "$dynamicRef": 2}  # units more: fractions of huge numbers; the look for a place


def _charge(units: int) -> None:
    if (work := _work.get()) is not None:
        work.left -= units
        if work.left < 0:
            raise TooMuchWork


def _length(value: Any) -> int:
    """With that of the lists in it: `dependentRequired` has some."""
    if isinstance(value, dict):
        return len(value) + sum(len(child) for child in value.values() if isinstance(child, list))
    return len(value) if isinstance(value, list) else 0


# By hash. -------------------------------------------------------------------------------------------------------------
def _const(validator: Any, given: Any, instance: Any, schema: Any) -> Iterator[Any]:
    from jsonschema import ValidationError

    if _text_of(instance) != _text_of(given):
        yield ValidationError(f"{_shown.repr(given)} was expected")


def _enum(validator: Any, given: list[Any], instance: Any, schema: Any) -> Iterator[Any]:
    from jsonschema import ValidationError

    if _text_of(instance) not in _texts_of(given):
        yield ValidationError(f"{_shown.repr(instance)} is not one of {_shown.repr(given)}")


def _unique_items(validator: Any, given: bool, instance: Any, schema: Any) -> Iterator[Any]:
    from jsonschema import ValidationError

    if given and isinstance(instance, list) and len({_text_of(item) for item in instance}) < len(instance):
        yield ValidationError(f"{_shown.repr(instance)} has non-unique elements")


def _texts_of(values: list[Any]) -> frozenset[str]:
    """Once in each check."""
    work = _work.get()
    assert work is not None
    if id(values) not in work.enums:
        _charge(len(values) // 16)
        work.enums[id(values)] = frozenset(map(_text_of, values))
    return work.enums[id(values)]


def _text_of(value: Any) -> str:
    """The same for values that are equal as JSON (1 and 1.0, objects in any order). Nobody can make texts' hashes collide."""
    if isinstance(value, str):
        _charge(len(value) // 2_000)
        return f'"{value}'
    if type(value) is int:
        return str(value)
    return json.dumps(_alike(value), sort_keys=True)


def _alike(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        _charge(1 + len(value) // 2)
        return {key: _alike(child) for key, child in value.items()}
    if isinstance(value, list):
        _charge(1 + len(value) // 2)
        return [_alike(item) for item in value]
    return value


# Patterns. ------------------------------------------------------------------------------------------------------------
def _pattern(validator: Any, given: str, instance: Any, schema: Any) -> Iterator[Any]:
    from jsonschema import ValidationError

    if isinstance(instance, str) and not matches(given, instance):
        yield ValidationError(f"{_shown.repr(instance)} does not match {given!r}")


def matches(pattern: str, text: str) -> bool:
    """By RE2, which takes linear time. Raises `BadPattern`."""
    from flows.organism.expressions import ExpressionError, compile_expression  # whose package reads this module

    _charge(_cost_of(pattern) + len(text) // 100)
    found = compile_expression("payload.text.matches(payload.pattern)")
    try:
        return bool(found.evaluate({"payload": {"text": text, "pattern": pattern}}))
    except ExpressionError as error:
        raise BadPattern(error.message.rpartition("regular expression: ")[2]) from None


@lru_cache(1024)
def _cost_of(pattern: str) -> int:
    """It is compiled each time, with what it repeats written out: a thousand times at most."""
    counts = [int(number) for match in _REPEATED.findall(pattern) for number in match if number]
    is_nested = "){" in pattern
    written_out = (
        min(math.prod(max(count, 1) for count in counts), 1_000) * len(pattern) if is_nested else 4 * sum(counts)
    )
    return 4 + (len(pattern) + written_out) // 8
