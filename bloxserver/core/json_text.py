"""JSON as text, the way payloads are stored: PostgreSQL's text takes neither NUL nor lone surrogates, escapes it does."""

import json
import math
from typing import Any, Never

MAX_DEPTH = 100  # arrays and objects in each other: what the rest of the server keeps


def dumps(value: Any) -> str:
    """`value` as compact JSON. Raises `ValueError` for NaN and infinities, `TypeError` for what JSON has no form for."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate: only its escape can be stored
        return json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text


def loads(text: str) -> Any:
    return json.loads(text)


def strict_loads(text: str | bytes, *, max_depth: int = MAX_DEPTH) -> Any:
    """The value of JSON that others wrote, so that it can be stored and sent on.

    Raises `ValueError` for what is no JSON, NaN and numbers beyond a double among it, and for deeper nesting.
    """
    try:
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    except RecursionError:
        raise ValueError(f"nested deeper than {max_depth} levels") from None
    if _is_deeper(value, max_depth):
        raise ValueError(f"nested deeper than {max_depth} levels")
    return value


def _refuse_constant(name: str) -> Never:
    raise ValueError(f"{name} is no JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"the number {digits[:20]} is too large")
    return number


def _is_deeper(value: Any, most: int) -> bool:
    """Without recursion: level by level."""
    level = [value]
    for _ in range(most + 1):
        containers = [each for each in level if isinstance(each, dict | list)]
        if not containers:
            return False
        level = [child for each in containers for child in (each.values() if isinstance(each, dict) else each)]
    return True


def clean(text: str) -> str:
    """`text` with what a database's text column cannot hold replaced by U+FFFD."""
    return text.replace("\x00", "\ufffd").encode(errors="replace").decode()


def cleaned(value: Any) -> Any:
    """The JSON value with every text in it, keys included, as `clean` gives it."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {clean(key): cleaned(child) for key, child in value.items()}
    return [cleaned(item) for item in value] if isinstance(value, list) else value


def one_line(text: str) -> str:
    """`text` for a log: control characters, line breaks and escapes of terminals among them, are written out."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "backslashreplace").decode() for char in text
    )
