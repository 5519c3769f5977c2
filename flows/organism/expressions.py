"""Expressions: CEL (https://github.com/google/cel-spec), compiled once a version and evaluated by Google's runtime.

The runtime's edges are guarded here: a failure comes back as a value of type ERROR or as an exception, and both become an
`ExpressionError` that says which name is missing; what it cannot take is replaced at the door (`scope`); work is
bounded before it is done (`cost`); what comes out is plain JSON.
"""

import base64
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cel_expr_python import cel
from cel_expr_python.ext import ext_math, ext_optional, ext_strings

from flows.blocks.base import BlockError
from flows.organism import cost, diagnosis
from flows.organism.scope import MISSING, Selection, lookup
from flows.organism.syntax import VARIABLES, Syntax, TooDeep, parse

MAX_SOURCE = 4_096  # characters
MAX_RESULT = 256 * 1024  # characters of text that an expression may make; a plain path may read more

_UNFIT = re.compile("[\x00\ud800-\udfff]")
_COMPILE_ERROR = re.compile(r"ERROR: <input>:(-?\d+):(-?\d+): (.*)")

_ENVIRONMENT = cel.NewEnv(
    variables=dict.fromkeys(VARIABLES, cel.Type.DYN),
    extensions=[ext_strings.ExtStrings(), ext_math.ExtMath(), ext_optional.ExtOptional()],
)


class ExpressionError(BlockError):
    """An expression could not be evaluated on this data. Trying again gives the same, so it is never retried."""

    def __init__(self, message: str, *, source: str) -> None:
        super().__init__(message, code="expression_failed", retryable=False, repeat_is_safe=True)
        self.source = source


class CompileError(Exception):
    """An expression is not CEL. `offset` is where, in characters from its start."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message)
        self.message = message
        self.offset = offset


@dataclass(frozen=True, slots=True)
class Expression:
    """A compiled expression. It holds no state: threads and executions share it."""

    source: str
    syntax: Syntax
    _program: Any
    _selection: Selection

    def evaluate(self, scope: Mapping[str, Any]) -> Any:
        """Its value as plain JSON: see `_Converter` for what becomes of CEL's own types.

        Values that CEL cannot take are replaced, and a `Scope` is told. Raises `ExpressionError`.
        """
        path = self.syntax.path
        if path is not None:  # read as it stands: whatever its size, and with its keys in order
            value = lookup(scope, path)
            if value is not MISSING:
                return value
            raise self._error(diagnosis.of_failure(self.syntax, scope, "NOT_FOUND"))
        part, size = self._selection.of(scope)
        try:
            cost.check(self.syntax, part, size)
        except cost.TooMuchWork as refused:
            raise self._error(diagnosis.of_work(refused.items)) from None
        return self._result(part, scope)

    def _result(self, part: dict[str, Any], scope: Mapping[str, Any]) -> Any:
        try:
            result = self._program.eval(data=part)
            failure = str(result.value()) if result.type() == cel.Type.ERROR else ""
            value = None if failure else result.plain_value()
        except Exception as error:  # the runtime raises RuntimeError, TypeError, ValueError and what pybind makes up
            raise self._error(diagnosis.of_failure(self.syntax, scope, str(error))) from None
        if failure:
            raise self._error(diagnosis.of_failure(self.syntax, scope, failure))
        try:
            return _Converter().convert(value)
        except _NotJson as error:
            raise self._error(str(error)) from None

    def _error(self, why: str) -> ExpressionError:
        shown = " ".join(self.source.split())
        return ExpressionError(f"{shown[:117] + '...' if len(shown) > 120 else shown}: {why}", source=self.source)


def compile_expression(source: str) -> Expression:
    """Compile CEL text (about 50 microseconds). Raises `CompileError`."""
    if not source.strip():
        raise CompileError("The expression is empty.", 0)
    if len(source) > MAX_SOURCE:
        raise CompileError(
            f"The expression is {len(source):,} characters long; at most {MAX_SOURCE:,} are allowed. Split it into steps.",
            0,
        )
    if match := _UNFIT.search(source):
        raise CompileError(
            f"The expression holds the character U+{ord(match[0]):04X}, which CEL cannot read.", match.start()
        )
    program = _compiled(source)
    try:
        syntax = parse(program.serialize())
    except TooDeep:
        raise CompileError("The expression nests too deeply. Split it into steps.", 0) from None
    if str(program.return_type()).startswith("optional_type"):
        program = _compiled(f"({source}\n).orValue(null)")  # JSON has no optional: what is absent is null
    return Expression(source, syntax, program, Selection(syntax.references))


def _compiled(source: str) -> Any:
    try:
        return _ENVIRONMENT.compile(source)
    except Exception as error:
        raise _compile_error(source, str(error)) from None


def _compile_error(source: str, text: str) -> CompileError:
    match = _COMPILE_ERROR.search(text)
    if match is None or int(match[1]) < 1:
        why = (
            "it nests or chains more than 32 deep. Split it into steps"
            if "recursion" in text
            else text.split("[")[0].strip()
        )
        return CompileError(f"The expression cannot be compiled: {why}.", 0)
    lines = source.split("\n")
    line = min(int(match[1]), len(lines))
    offset = min(sum(len(before) + 1 for before in lines[: line - 1]) + int(match[2]) - 1, len(source))
    return CompileError(*diagnosis.of_compile_error(source, offset, match[3].removesuffix(" [INVALID_ARGUMENT]")))


class Condition:
    """A bare expression of a config, bound to the scope that it will be evaluated on when the block asks."""

    __slots__ = ("_expression", "_scope", "source")

    def __init__(self, expression: Expression, scope: Mapping[str, Any] | None = None) -> None:
        self.source = expression.source
        self._expression = expression
        self._scope = scope

    def bind(self, scope: Mapping[str, Any]) -> "Condition":
        return Condition(self._expression, scope)

    def evaluate(self) -> Any:
        """Its value as plain JSON. Raises `ExpressionError`."""
        if self._scope is None:
            raise TypeError("a condition is evaluated in a rendered config")
        return self._expression.evaluate(self._scope)

    def __repr__(self) -> str:
        return f"Condition({self.source!r})"


# -- results ---------------------------------------------------------------------------------------------------


class _NotJson(Exception):
    pass


class _Converter:
    """CEL's values to plain JSON: timestamps as ISO 8601, durations as "12.5s", bytes as base64, all keys as text.

    Keys are put in order, since CEL's objects have none and the same execution must make the same text everywhere.
    """

    def __init__(self) -> None:
        self.left = MAX_RESULT

    def convert(self, value: Any) -> Any:
        self.left -= len(value) if isinstance(value, str) else 4
        if self.left < 0:
            raise _NotJson(
                f"the result is more than {MAX_RESULT // 1024} KiB of text; filter it first, or read the data by its path"
            )
        if value is None or isinstance(value, bool | int):
            return value
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, float):
            if not math.isfinite(value):
                raise _NotJson(f"the result is {value}, which is not a number that JSON can hold")
            return value
        if isinstance(value, list):
            return [self.convert(item) for item in value]
        if isinstance(value, dict):
            return self.object(value)
        return self.text(_text_of(value))

    def text(self, value: str) -> str:
        if not value.isprintable() and _UNFIT.search(value):
            raise _NotJson("the result holds the character U+0000, which cannot be stored")
        return value

    def object(self, value: dict[Any, Any]) -> dict[str, Any]:
        keyed = {key if isinstance(key, str) else str(key).lower(): child for key, child in value.items()}
        if len(keyed) < len(value):
            raise _NotJson("two keys of the resulting object are the same as text")
        return {self.convert(key): self.convert(keyed[key]) for key in sorted(keyed)}


def _text_of(value: Any) -> str:
    if isinstance(value, bytes | bytearray):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, timedelta):
        return duration_text(value)
    if isinstance(value, cel.Type):
        return str(value).lower()
    raise _NotJson("the result holds an optional value; end it with .orValue(...)")


def duration_text(value: timedelta) -> str:
    """As CEL writes a duration: seconds, "-1.5s"."""
    microseconds = value // timedelta(microseconds=1)
    sign = "-" if microseconds < 0 else ""
    seconds, rest = divmod(abs(microseconds), 1_000_000)
    return f"{sign}{seconds}{f'.{rest:06d}'.rstrip('0') if rest else ''}s"
