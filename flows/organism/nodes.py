"""What the reader makes of a YAML text: values that know where they stand."""

import re
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from flows.organism.spec import Problem

Path = tuple[str | int, ...]

_LINE_BREAK = re.compile("\r\n|[\r\n\x85\u2028\u2029]")  # as libyaml counts lines


class Mark(NamedTuple):
    """A place in the text; both count from 1."""

    line: int
    column: int


@dataclass(slots=True)
class Node:
    """A value with its place. `value` is a dict of nodes, a list of nodes, or a plain scalar."""

    value: Any
    mark: Mark
    start: int  # where its source is: text[start:end]
    end: int
    keys: dict[str, Mark] = field(default_factory=dict)  # of a mapping

    def plain(self) -> Any:
        """The value without places."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain() for child in self.value]
        return self.value

    def descend(self, path: Path) -> tuple["Node", Path]:
        """The deepest node on the way along `path`, and the part of the path that leads there."""
        node = self
        for depth, step in enumerate(path):
            child = node.child(step)
            if child is None:
                return node, path[:depth]
            node = child
        return node, path

    def child(self, step: str | int) -> "Node | None":
        if isinstance(self.value, dict) and isinstance(step, str):
            return self.value.get(step)
        if isinstance(self.value, list) and isinstance(step, int) and 0 <= step < len(self.value):
            child: Node = self.value[step]
            return child
        return None


@dataclass(slots=True)
class Document:
    """What was read. `root` is None when the text is not YAML at all; then `problems` says why."""

    text: str
    root: Node | None
    problems: list[Problem]

    def mark_inside(self, node: Node, fragment: str, offset: int) -> Mark:
        """Where character `offset` of `fragment` (a part of a scalar's value) stands in the text.

        Exact wherever the fragment stands in the source as it is (plain, quoted without escapes, or on one line of a
        block scalar); else the scalar's own place.
        """
        at = self.text.find(fragment, node.start, node.end) if fragment else -1
        if at < 0:  # escaped, folded or indented: find the line of the fragment that the offset is on
            before = fragment[:offset].rpartition("\n")[2]
            line = before + fragment[offset:].partition("\n")[0]
            at = self.text.find(line, node.start, node.end) if line.strip() else -1
            offset = len(before)
        if at < 0:
            return node.mark
        return _mark_after(self.text, node.start, node.mark, at + offset)


def path_text(path: Path) -> str:
    """`("listeners", 2, "headers", "X-Id")` as `listeners[2].headers["X-Id"]`."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]*", step):
            text += f".{step}" if text else step
        else:
            text += f'["{step[:80]}"]'
    return text


def line_and_column(text: str, index: int) -> Mark:
    """Where a character stands."""
    return _mark_after(text, 0, Mark(1, 1), index)


def _mark_after(text: str, start: int, mark: Mark, index: int) -> Mark:
    """Where character `index` stands, counted on from `start`, which stands at `mark`."""
    breaks = list(_LINE_BREAK.finditer(text, start, index))
    if not breaks:
        return Mark(mark.line, mark.column + index - start)
    return Mark(mark.line + len(breaks), index - breaks[-1].end() + 1)
