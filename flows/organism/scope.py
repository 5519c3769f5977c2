"""What an expression may read, and the part of it that one expression is given.

CEL's runtime copies all that it is handed, about a microsecond a value, before it looks at any of it. So an expression
is handed only what it names: `payload.body.total > 100` gets {"payload": {"body": {"total": ...}}}, of a payload of any size.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from flows.organism.syntax import Key, Reference

# What CEL's runtime cannot take: it cuts a text at U+0000, and raises on half of a surrogate pair.
_UNFIT = re.compile("[\x00\ud800-\udfff]")
_INT_MIN, _INT_MAX = -(2**63), 2**63 - 1
MAX_REPORTED = 20

MISSING: Any = object()


class Scope(Mapping[str, Any]):
    """The names that a listener's expressions may use, with their values (plain JSON).

    `replaced` gathers what had to be given to CEL as something else, one line each, for the step to say so.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = dict(values)
        self.replaced: list[str] = []

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def report(self, line: str) -> None:
        if line not in self.replaced and len(self.replaced) < MAX_REPORTED:
            self.replaced.append(line)


def lookup(scope: Mapping[str, Any], path: tuple[Key, ...]) -> Any:
    """The value at `path`, or `MISSING`."""
    value: Any = scope
    for key in path:
        value = _child(value, key)
        if value is MISSING:
            return MISSING
    return value


def _child(value: Any, key: Key) -> Any:
    if isinstance(value, Mapping):
        return value.get(key, MISSING) if isinstance(key, str) else MISSING
    if isinstance(value, list) and isinstance(key, int) and 0 <= key < len(value):
        return value[key]
    return MISSING


class Selection:
    """The union of an expression's references, as a tree: {} is all that lies below."""

    def __init__(self, references: Iterable[Reference]) -> None:
        self._wanted: dict[str, Any] = {}
        whole: set[int] = set()
        for reference in references:
            # A list keeps its length, so that an index into it means the same: it is taken whole.
            path = [key for key in reference.path[: _first_index(reference.path)] if isinstance(key, str)]
            level = self._wanted
            for key in path[:-1]:
                level = level.setdefault(key, {})
            leaf = level.setdefault(path[-1], {})
            whole.add(id(leaf))
        self._whole = whole

    def of(self, scope: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
        """The selected part of the scope, fit for CEL, and its size in units of about a byte."""
        copier = _Copier(scope.report if isinstance(scope, Scope) else None)
        part = self._pick(scope, self._wanted, "", copier)
        return part, copier.size

    def _pick(self, value: Mapping[str, Any], wanted: dict[str, Any], path: str, copier: "_Copier") -> dict[str, Any]:
        picked = {}
        for key, below in wanted.items():
            child = value.get(key, MISSING)
            if child is MISSING:
                continue
            where = f"{path}.{key}" if path else key
            if id(below) in self._whole or not isinstance(child, Mapping):
                picked[key] = copier.copy(child, where)
            else:
                picked[key] = self._pick(child, below, where, copier)
        return picked


def _first_index(path: tuple[Key, ...]) -> int:
    return next((index for index, key in enumerate(path) if not isinstance(key, str)), len(path))


class _Copier:
    """Copies values, replacing what CEL cannot take, and adds up their size."""

    def __init__(self, report: Any) -> None:
        self.report = report
        self.size = 0

    def copy(self, value: Any, path: str) -> Any:
        kind = type(value)
        self.size += 16
        if kind is str:
            self.size += len(value)
            return self.text(value, path)
        if kind is bool or value is None or kind is float:
            return value
        if kind is int:
            return value if _INT_MIN <= value <= _INT_MAX else self.number(value, path)
        if isinstance(value, Mapping):
            return {self.key(key, path): self.copy(child, f"{path}.{key}") for key, child in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.copy(child, f"{path}[{index}]") for index, child in enumerate(value)]
        return self.text(str(value), path)  # a UUID or a datetime that was put into the scope

    def key(self, key: str, path: str) -> str:
        self.size += 16 + len(key)
        return self.text(key, f"a key of {path}")

    def text(self, value: str, path: str) -> str:
        if value.isprintable() or _UNFIT.search(value) is None:
            return value
        self.replace(path, "characters that CEL cannot read (U+0000 or half of a surrogate pair) were read as U+FFFD")
        return _UNFIT.sub("\ufffd", value)

    def number(self, value: int, path: str) -> float | str:
        self.replace(path, "an integer past 64 bits was read as a floating-point number")
        try:
            return float(value)
        except OverflowError:
            return str(value)[:400] if value.bit_length() < 4096 else "an integer too large"

    def replace(self, path: str, what: str) -> None:
        if self.report is not None:
            self.report(f"{path[:200]}: {what}")
