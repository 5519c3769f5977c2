"""YAML text to plain data, with the line and column of every key and value.

The text is read once, from PyYAML's parse events, so that what is refused is refused before anything is built:
anchors, aliases, merge keys, tags, duplicate keys, keys that are not text, several documents, too much depth or text.
Plain scalars follow the core schema of YAML 1.2 (https://yaml.org/spec/1.2.2/#103-core-schema): `yes`, `no`, `on` and
`12:30` are text. Numbers that YAML 1.1 and 1.2 read differently (`010`) or that JSON cannot hold are errors that say to quote.
"""

import math
import re
from dataclasses import dataclass
from itertools import islice
from typing import Any

import yaml

from flows.organism.nodes import Document, Mark, Node, Path, line_and_column, path_text
from flows.organism.spec import Problem

MAX_BYTES = 256 * 1024
MAX_DEPTH = 50
MAX_CHARACTERS = 10  # forbidden ones that are named
MAX_PROBLEMS = 100  # of the reader; a text with more is not an organism

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufffe\uffff]")
_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]+(\.[0-9]*)?")
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_HINTS = (
    ("mapping values are not allowed", 'a text with ": " in it must stand in quotes'),
    ("cannot start any token", "indent with spaces, not tabs, and quote texts that begin with @, ` or %"),
    ("did not find expected key", "check the indentation of this line and the quotes before it"),
    ("did not find expected '-' indicator", "check the indentation of this line"),
    ("found unexpected end of stream", "a quote is not closed"),
    ("block sequence entries are not allowed", "a list starts on a line of its own"),
    ("found unknown escape character", "write \\\\ for a backslash in double quotes, or use single quotes"),
)


def read(text: str) -> Document:
    """Read one YAML document. Never raises: what is wrong is in `problems`."""
    problems = _unreadable(text)
    if problems:
        return Document(text, None, problems)
    if text.startswith("\ufeff"):
        text = text[1:]  # libyaml drops it too, and counts from behind it
    reader = _Reader(text)
    return Document(text, reader.read(), reader.problems)


def _unreadable(text: str) -> list[Problem]:
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_BYTES:
        message = f"This is {size:,} bytes of YAML; at most {MAX_BYTES:,} are read. Split the flow with blox.call_flow."
        return [Problem("", 1, 1, message)]
    found = islice(_FORBIDDEN.finditer(text), MAX_CHARACTERS)
    return [
        Problem(
            "", *line_and_column(text, match.start()), f"The character U+{ord(match[0]):04X} is not allowed. Remove it."
        )
        for match in found
    ]


class _Stop(Exception):
    """No use in reading on."""


class _Frame:
    """A mapping or list that is being read."""

    __slots__ = ("key", "key_mark", "node", "path")

    def __init__(self, node: Node, path: Path) -> None:
        self.node = node
        self.path = path
        self.key: str | None = None  # of a mapping: set between its key and its value
        self.key_mark: Mark | None = None

    @property
    def wants_key(self) -> bool:
        return isinstance(self.node.value, dict) and self.key is None

    @property
    def next_path(self) -> Path:
        if isinstance(self.node.value, list):
            return (*self.path, len(self.node.value))
        return self.path if self.key is None else (*self.path, self.key)


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        self.problems: list[Problem] = []
        self.root: Node | None = None
        self.documents = 0
        self.stack: list[_Frame] = []
        self.skipping = 0  # collections open inside one that was already refused as a whole
        self.skipped_from: yaml.Event | None = None
        self.skipped_as_key = False

    def read(self) -> Node | None:
        try:
            for event in yaml.parse(self.text, Loader=_Loader):
                self.take(event)
        except _Stop:
            return None
        except yaml.MarkedYAMLError as error:
            self.syntax_error(error)
            return None
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            self.problem(Mark(1, 1), f"This is not YAML: {error}")
            return None
        if self.root is None and not self.problems:
            self.problem(Mark(1, 1), 'The organism is empty. It needs "organism:" and "listeners:".')
        return self.root

    def problem(self, mark: Mark, message: str, path: Path | None = None) -> None:
        if path is None:
            path = self.stack[-1].next_path if self.stack else ()
        self.problems.append(Problem(path_text(path), mark.line, mark.column, message))
        if len(self.problems) >= MAX_PROBLEMS:
            raise _Stop

    def syntax_error(self, error: yaml.MarkedYAMLError) -> None:
        if self.skipped_from is not None or any("in quotes" in known.message for known in self.problems):
            if self.skipped_from is not None:
                self.unquoted_placeholder(self.skipped_from)
            return  # the unquoted placeholder is why it failed
        at = error.problem_mark or error.context_mark
        mark = Mark(at.line + 1, at.column + 1) if at else Mark(1, 1)
        problem = (error.problem or "cannot be read").strip()
        hint = next((hint for known, hint in _HINTS if known in problem), "")
        where = f" {error.context}" if error.context else ""
        since = error.context_mark
        if where and since and since.line != mark.line - 1:
            where += f" that starts on line {since.line + 1}"
        self.problem(mark, f"This is not YAML: {problem}{where}." + (f" Hint: {hint}." if hint else ""))

    # -- events ------------------------------------------------------------------------------------------------

    def take(self, event: yaml.Event) -> None:
        if self.skipping:
            self.skip(event)
        elif isinstance(event, yaml.ScalarEvent):
            self.scalar(event)
        elif isinstance(event, yaml.CollectionStartEvent):
            self.open(event)
        elif isinstance(event, yaml.CollectionEndEvent):
            self.close(event)
        elif isinstance(event, yaml.AliasEvent):
            self.problem(_mark(event), f'Aliases are not allowed: write out what "*{_anchor(event)}" stands for.')
            self.add(_node(None, event))
        elif isinstance(event, yaml.DocumentStartEvent):
            self.documents += 1
            if self.documents > 1:
                self.problem(_mark(event), 'Only one YAML document is read: remove this "---" and what follows.', ())
                raise _Stop

    def skip(self, event: yaml.Event) -> None:
        if isinstance(event, yaml.CollectionStartEvent):
            self.skipping += 1
            if self.skipping + len(self.stack) > MAX_DEPTH:
                self.too_deep(event)
        elif isinstance(event, yaml.CollectionEndEvent):
            self.skipping -= 1
            if not self.skipping:
                self.end_skip(event)

    def end_skip(self, event: yaml.Event) -> None:
        start, self.skipped_from = self.skipped_from, None
        if start is None:
            return
        at, end = _start(start), _end(event)
        source = self.text[at:end]
        if not self.skipped_as_key:
            self.unquoted_placeholder(start, source)
        # Read on as if it had been quoted, so that the other errors are found too.
        self.add(Node(source, _mark(start), at, end))

    def unquoted_placeholder(self, event: yaml.Event, source: str = "{{ ... }}") -> None:
        shown = source if "\n" not in source and len(source) <= 60 and "'" not in source else "{{ ... }}"
        why = "YAML takes a bare { for an object"
        self.problem(_mark(event), f"A value with {{{{ }}}} must stand in quotes, for example '{shown}': {why}.")

    def too_deep(self, event: yaml.Event) -> None:
        self.problem(_mark(event), f"This is nested more than {MAX_DEPTH} deep.")
        raise _Stop

    def open(self, event: yaml.CollectionStartEvent) -> None:
        if len(self.stack) >= MAX_DEPTH:
            self.too_deep(event)
        self.refuse_decoration(event)
        start = _start(event)
        placeholder = (
            isinstance(event, yaml.MappingStartEvent) and event.flow_style and self.text[start : start + 2] == "{{"
        )
        if placeholder or (self.stack and self.stack[-1].wants_key):
            self.skipping, self.skipped_from, self.skipped_as_key = 1, event, False
            if not placeholder:
                self.skipped_as_key = True
                self.problem(_mark(event), "A key must be text, not a list or an object.")
            return
        value: Any = {} if isinstance(event, yaml.MappingStartEvent) else []
        self.stack.append(_Frame(_node(value, event), self.stack[-1].next_path if self.stack else ()))

    def close(self, event: yaml.CollectionEndEvent) -> None:
        node = self.stack.pop().node
        node.end = _end(event)
        self.add(node)

    def scalar(self, event: yaml.ScalarEvent) -> None:
        self.refuse_decoration(event)
        frame = self.stack[-1] if self.stack else None
        node = _node(event.value, event)
        if frame is not None and frame.wants_key:
            self.key(frame, event)
            return
        if event.implicit[0]:  # plain: what it is depends on how it looks
            node.value = self.resolve(event)
        elif "\0" in event.value:
            self.problem(node.mark, "The character U+0000 cannot be stored. Remove it.")
        self.add(node)

    def key(self, frame: _Frame, event: yaml.ScalarEvent) -> None:
        name, mark = event.value, _mark(event)
        path = (*frame.path, name)
        if event.implicit[0]:
            if name == "<<":
                self.problem(mark, 'Merge keys ("<<") are not allowed: write the keys out.', path)
            elif not isinstance(_resolved(name), str):
                self.problem(mark, f'Keys must be text: write "{name}" in quotes.', path)
        if name in frame.node.value:
            first = frame.node.keys[name].line
            self.problem(mark, f'The key "{name[:80]}" is here already, on line {first}. Remove or rename one.', path)
        elif "\0" in name:
            self.problem(mark, "The character U+0000 cannot be stored. Remove it.", path)
        elif "{{" in name:
            self.problem(mark, "Placeholders work in values, not in keys. Make the object with one expression.", path)
        frame.key, frame.key_mark = name, mark

    def add(self, node: Node) -> None:
        if not self.stack:
            self.root = node
            return
        frame = self.stack[-1]
        parent = frame.node
        if isinstance(parent.value, list):
            parent.value.append(node)
        elif frame.key is None:  # a key that was refused
            frame.key, frame.key_mark = str(node.value)[:80], node.mark
        else:
            if frame.key not in parent.value:
                parent.value[frame.key] = node
                parent.keys[frame.key] = frame.key_mark or node.mark
            frame.key = None

    def refuse_decoration(self, event: yaml.NodeEvent) -> None:
        if event.anchor is not None:
            self.problem(_mark(event), f'Anchors are not allowed: remove "&{_anchor(event)}" and write the value out.')
        tag = getattr(event, "tag", None)
        if tag is not None:
            short = tag.replace("tag:yaml.org,2002:", "!!")
            self.problem(_mark(event), f'Tags are not allowed: remove "{short[:80]}".')

    def resolve(self, event: yaml.ScalarEvent) -> Any:
        value = _resolved(event.value)
        if isinstance(value, _Refused):
            self.problem(_mark(event), value.why)
            return event.value
        return value


@dataclass(frozen=True, slots=True)
class _Refused:
    why: str


def _resolved(text: str) -> Any:
    """What a plain scalar is: None, bool, int, float or str, or `_Refused`."""
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if text[0] not in "+-.0123456789":
        return text
    shown = text if len(text) <= 40 else text[:37] + "..."
    if _LEADING_ZERO.fullmatch(text):
        return _Refused(f'Leading zeros are ambiguous (YAML 1.1 reads octal): quote "{shown}", or drop the zeros.')
    if _INT.fullmatch(text):
        value = int(text, 0 if text[:2] in ("0o", "0x") else 10) if len(text) < 40 else None  # 2**63 has 19 digits
        if value is None or not -(2**63) <= value < 2**63:
            return _Refused(f'The integer {shown} does not fit in 64 bits: write "{shown}" in quotes.')
        return value
    if _NOT_FINITE.fullmatch(text):
        return _Refused(f'"{shown}" is not a number that JSON can hold. Quote it if it is meant as text.')
    if _FLOAT.fullmatch(text):
        number = float(text)
        return number if math.isfinite(number) else _Refused(f"The number {shown} is too large.")
    return text


# PyYAML's types allow an event without marks; its parsers give every event both.


def _anchor(event: yaml.NodeEvent) -> str:
    return (event.anchor or "")[:80]


def _start(event: yaml.Event) -> int:
    return event.start_mark.index  # type: ignore[union-attr]


def _end(event: yaml.Event) -> int:
    return event.end_mark.index  # type: ignore[union-attr]


def _mark(event: yaml.Event) -> Mark:
    return Mark(event.start_mark.line + 1, event.start_mark.column + 1)  # type: ignore[union-attr]


def _node(value: Any, event: yaml.Event) -> Node:
    return Node(value, _mark(event), _start(event), _end(event))
