"""`blox.calculate`: arithmetic."""

import ast
import math
import operator
from collections.abc import Callable, Mapping
from decimal import ROUND_HALF_UP, Decimal, localcontext
from typing import Any, ClassVar, NoReturn

from pydantic import Field

from flows.blocks.base import JSON, Block, BlockConfig, BlockError, Context

MAX_CHARACTERS = 1_000
MAX_DEPTH = 200  # a long sum nests one level a sign; Python's stack bears more
EXACT_INTEGERS = 2.0**53  # up to here a double holds every integer


class CalculateConfig(BlockConfig):
    expression: str | int | float | None = Field(
        None, description="Numbers, + - * / % ** ( ), functions and constants. Left out: the payload's `expression`."
    )


class Calculate(Block):
    name = "blox.calculate"
    title = "Calculate"
    description = (
        "Works out an arithmetic expression in doubles; a result without a fraction is given as an integer."
        " `%` has the sign of the divisor, `round(x, digits)` rounds halves away from zero, angles are in radians,"
        " `log(x)` is natural and `log(x, base)` is not. Has abs, acos, asin, atan, atan2, cbrt, ceil, cos, cosh,"
        " degrees, exp, floor, hypot, log, log10, log2, max, min, pow, radians, round, sin, sinh, sqrt, sum, tan, tanh,"
        " trunc, and pi, e, tau."
    )
    category = "data"
    Config = CalculateConfig
    input_schema: ClassVar[dict[str, Any]] = {
        "type": "object",
        "properties": {
            "expression": {
                "type": "string",
                "maxLength": MAX_CHARACTERS,
                "description": "For example (3 + 4) * sqrt(2)",
            }
        },
    }
    example: ClassVar[str] = """\
- name: with_tax
  handler: blox.calculate
  config:
    expression: "round({{ payload.net }} * 1.19, 2)"
  peers: [write_invoice]
"""

    def tool_schema(self, config: Mapping[str, Any]) -> dict[str, Any]:
        if config.get("expression") is not None:
            return {}  # what it reads of the payload
        return {**self.input_schema, "required": ["expression"]}

    async def run(self, ctx: Context, config: CalculateConfig, payload: JSON) -> JSON:
        expression = config.expression
        if expression is None and isinstance(payload, dict):
            expression = payload.get("expression")
        if isinstance(expression, bool) or not isinstance(expression, (str, int, float)):
            _refuse("There is no expression: give config.expression, or a payload {expression} that is a text")
        return calculate(str(expression))


class _Unworkable(Exception):
    """What is wrong, and with which part; "{}" in the reason stands for its text."""

    def __init__(self, reason: str, node: ast.expr) -> None:
        super().__init__(reason)
        self.reason = reason
        self.node = node


def calculate(expression: str) -> int | float:
    """The value of an arithmetic expression. Raises `BlockError` (code `invalid_expression`) that says what is wrong."""
    if len(expression) > MAX_CHARACTERS:
        _refuse(f"The expression has {len(expression):,} characters; at most {MAX_CHARACTERS:,} are read")
    source = expression.strip()
    try:
        tree = ast.parse(source, mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        _refuse(f"{_shown(source)} is not an arithmetic expression")
    try:
        value = _evaluate(tree.body, MAX_DEPTH)
    except _Unworkable as problem:
        part = ast.get_source_segment(source, problem.node) or source
        _refuse(problem.reason.replace("{}", _shown(part)))
    return int(value) if value.is_integer() and abs(value) <= EXACT_INTEGERS else value


def _evaluate(node: ast.expr, depth: int) -> float:
    """Python's own parser has read it; only the kinds of nodes named here are ever worked out."""
    if depth == 0:
        raise _Unworkable(f"The expression is nested more than {MAX_DEPTH} deep", node)
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return _finite(lambda: float(number), node)
        case ast.Name(id=name):
            if name not in CONSTANTS:
                raise _Unworkable(f"{{}} is not known; the constants are {', '.join(CONSTANTS)}", node)
            return CONSTANTS[name]
        case ast.UnaryOp(op=ast.UAdd() | ast.USub() as sign, operand=operand):
            value = _evaluate(operand, depth - 1)
            return -value if isinstance(sign, ast.USub) else value
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            a, b = _evaluate(left, depth - 1), _evaluate(right, depth - 1)
            return _finite(lambda: OPERATORS[type(op)](a, b), node)
        case ast.Call(func=ast.Name(id=name) as function, args=arguments, keywords=[]):
            if name not in FUNCTIONS:
                raise _Unworkable(f"{{}} is not known; the functions are {', '.join(FUNCTIONS)}", function)
            values = [_evaluate(argument, depth - 1) for argument in arguments]
            return _finite(lambda: FUNCTIONS[name](*values), node)
        case ast.BinOp(op=ast.BitXor()):
            raise _Unworkable("{}: ^ is not an operator here; a power is written **", node)
    raise _Unworkable("{} is not arithmetic; there are numbers, + - * / % ** ( ), functions and constants", node)


def _finite(work: Callable[[], float], node: ast.expr) -> float:
    """Raises `_Unworkable` where mathematics has no answer, or doubles have no room."""
    try:
        value = float(work())
    except ZeroDivisionError:
        raise _Unworkable("{} divides by zero", node) from None
    except OverflowError:
        raise _Unworkable("{} is too large for a double", node) from None
    except ValueError:
        raise _Unworkable("{} has no real value", node) from None
    except TypeError:
        raise _Unworkable("{} has the wrong number of arguments", node) from None
    if not math.isfinite(value):
        raise _Unworkable("{} is too large for a double", node)
    return value


def _refuse(reason: str) -> NoReturn:
    raise BlockError(f"{reason}.", code="invalid_expression", retryable=False)


def _shown(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:80]}..."


def _power(base: float, exponent: float) -> float:
    if base == 0 and exponent < 0:
        raise ZeroDivisionError
    return math.pow(base, exponent)


def _round(value: float, digits: float = 0) -> float:
    """Halves away from zero, of the number as it is written: 2.675 to 2.68."""
    if digits not in range(-15, 16):
        raise ValueError
    with localcontext() as context:
        context.prec = 350  # a double has at most 309 digits before the point
        return float(Decimal(repr(value)).quantize(Decimal(1).scaleb(-int(digits)), ROUND_HALF_UP))


CONSTANTS = {"pi": math.pi, "e": math.e, "tau": math.tau}
OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
    ast.Pow: _power,
}
FUNCTIONS: dict[str, Callable[..., float]] = {
    "abs": abs,
    "acos": math.acos,
    "asin": math.asin,
    "atan": math.atan,
    "atan2": math.atan2,
    "cbrt": math.cbrt,
    "ceil": math.ceil,
    "cos": math.cos,
    "cosh": math.cosh,
    "degrees": math.degrees,
    "exp": math.exp,
    "floor": math.floor,
    "hypot": math.hypot,
    "log": math.log,
    "log10": math.log10,
    "log2": math.log2,
    "max": lambda first, *more: max(first, *more, first),
    "min": lambda first, *more: min(first, *more, first),
    "pow": _power,
    "radians": math.radians,
    "round": _round,
    "sin": math.sin,
    "sinh": math.sinh,
    "sqrt": math.sqrt,
    "sum": lambda *values: math.fsum(values),
    "tan": math.tan,
    "tanh": math.tanh,
    "trunc": math.trunc,
}
