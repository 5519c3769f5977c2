"""JSON as RFC 8259 means it, without what the standard library lets through and the rest of the server cannot keep.

`json.loads` takes NaN, keeps the last of two equal keys, makes text that no UTF-8 can carry, and runs out of stack
on deep input; PostgreSQL cannot store a NUL. All of these are refused here, once, for the API and for webhooks.
"""

import json
import math
import re
from typing import Any

MAX_DEPTH = 100
MAX_INTEGER_DIGITS = 308  # more is beyond a double (1.8e308), and so beyond what most readers of JSON can hold

# Only an escape can put a lone surrogate or a NUL into a text that decoded as UTF-8: without one, no need to walk.
_SUSPECT_ESCAPE = re.compile(r"\\u(?:0000|[dD][89a-fA-F])")
_SURROGATE = re.compile("[\ud800-\udfff]")


class StrictJSONError(ValueError):
    """The text is not JSON that can be kept. `message` says what is wrong and, where that is cheap, where."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


def loads(raw: bytes, *, max_depth: int = MAX_DEPTH) -> Any:
    """The value of the JSON document `raw` (UTF-8, with or without a byte order mark).

    Raises `StrictJSONError` for anything else, for NaN and infinities, numbers beyond a double, duplicate keys, lone
    surrogates, NUL characters and nesting deeper than `max_depth` arrays and objects.
    """
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise StrictJSONError(f"The body is not valid UTF-8: byte {error.start} cannot be decoded.") from None
    try:
        value = json.loads(
            text,
            parse_int=_integer,
            parse_float=_float,
            parse_constant=_refuse_constant,
            object_pairs_hook=_object,
        )
    except RecursionError:
        raise StrictJSONError(f"Nested deeper than {max_depth} levels.") from None
    except json.JSONDecodeError as error:
        raise StrictJSONError(f"{error.msg}: line {error.lineno} column {error.colno}.") from None
    if text.count("[") + text.count("{") > max_depth or _SUSPECT_ESCAPE.search(text):
        _check(value, max_depth)
    return value


def _integer(digits: str) -> int:
    if len(digits) > MAX_INTEGER_DIGITS:
        raise StrictJSONError(
            f"The number {digits[:12]}... has more than {MAX_INTEGER_DIGITS} digits: send it as a string."
        )
    return int(digits)


def _float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise StrictJSONError(f"The number {digits[:20]} is too large: send it as a string.")
    return number


def _refuse_constant(name: str) -> None:
    raise StrictJSONError(f"{name} is not JSON: send null, or the word as a string.")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise StrictJSONError(f"Duplicate key {_shown(key)} in one object.")
            seen.add(key)
    return value


def _check(root: Any, max_depth: int) -> None:
    """Walks without recursion; `path` is a linked list, so that a good document pays for no text."""
    todo: list[tuple[Any, int, Any]] = [(root, 1, None)]
    while todo:
        value, depth, path = todo.pop()
        if isinstance(value, str):
            _check_text(value, path)
            continue
        if not isinstance(value, (dict, list)):
            continue
        if depth > max_depth:
            raise StrictJSONError(f"Nested deeper than {max_depth} levels.")
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, child in items:
            if isinstance(key, str):
                _check_text(key, path)
            todo.append((child, depth + 1, (path, key)))


def _check_text(text: str, path: Any) -> None:
    if "\x00" in text:
        raise StrictJSONError(f"A NUL character (\\u0000) cannot be stored: {_where(path)}.")
    if _SURROGATE.search(text):
        raise StrictJSONError(f"Half of a surrogate pair (\\ud800 to \\udfff) is not text: {_where(path)}.")


def _where(path: Any) -> str:
    steps: list[str] = []
    while path is not None:
        path, key = path
        steps.append(f"[{key}]" if isinstance(key, int) else f".{_shown(key)[1:-1]}")
    return "see " + "".join(reversed(steps)).lstrip(".")[:200] if steps else "at the top level"


def _shown(key: str) -> str:
    """`key` in double quotes, short, and printable whatever it holds."""
    return json.dumps(key if len(key) <= 60 else key[:60] + "...")
