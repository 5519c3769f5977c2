"""JSON as text, the way payloads are stored: PostgreSQL's text takes neither NUL nor lone surrogates, escapes it does."""

import json
from typing import Any


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


def clean(text: str) -> str:
    """`text` with what a database's text column cannot hold replaced by U+FFFD."""
    return text.replace("\x00", "\ufffd").encode(errors="replace").decode()


def one_line(text: str) -> str:
    """`text` for a log: control characters, line breaks and escapes of terminals among them, are written out."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "backslashreplace").decode() for char in text
    )
