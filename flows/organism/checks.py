"""Gathers what is wrong with an organism, and reads single values out of it with their types and limits checked."""

from collections.abc import Collection, Iterable
from typing import Any

from bloxserver.core.words import closest
from flows.organism.nodes import Document, Mark, Node, Path, path_text
from flows.organism.spec import Problem

_KINDS = {str: "a text", bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object"}


def kind_of(value: Any) -> str:
    """What a value is, for messages: "a text", "a list" ..."""
    return _KINDS.get(type(value), "empty")


def nearest(name: str, known: Iterable[str]) -> str:
    """` Did you mean "total"?`, or nothing."""
    close = closest(name, known)
    return f' Did you mean "{close}"?' if close else ""


class Findings:
    """Errors and warnings, each with its path, line and column. One value has one error: the first that was found."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.errors = list(document.problems)
        self.warnings: list[Problem] = []
        self._places = {(problem.line, problem.column, problem.path) for problem in self.errors}

    def error(self, mark: Mark, path: Path, message: str) -> None:
        problem = Problem(path_text(path), mark.line, mark.column, message)
        place = (problem.line, problem.column, problem.path)
        if place not in self._places:
            self._places.add(place)
            self.errors.append(problem)

    def warning(self, mark: Mark, path: Path, message: str) -> None:
        self.warnings.append(Problem(path_text(path), mark.line, mark.column, message))

    def ordered(self) -> tuple[list[Problem], list[Problem]]:
        def place(problem: Problem) -> tuple[int, int]:
            return problem.line, problem.column

        return sorted(self.errors, key=place), sorted(self.warnings, key=place)


class Section:
    """A mapping of the organism, read key by key. A key without a value counts as absent.

    Every reader gives `None` (or the default) where the value is absent or wrong; what is wrong is then in the findings.
    """

    def __init__(self, findings: Findings, node: Node, path: Path) -> None:
        self.findings = findings
        self.node = node
        self.path = path

    def has(self, key: str) -> bool:
        return key in self.node.value

    def get(self, key: str) -> Node | None:
        child: Node | None = self.node.value.get(key)
        return None if child is None or child.value is None else child

    def mark(self, key: str) -> Mark:
        """Where the key's value stands, or the key, or the section."""
        child = self.node.value.get(key)
        return child.mark if child is not None and child.value is not None else self.key_mark(key)

    def key_mark(self, key: str) -> Mark:
        mark: Mark = self.node.keys.get(key, self.node.mark)
        return mark

    def error(self, key: str, message: str) -> None:
        self.findings.error(self.mark(key), (*self.path, key), message)

    def warning(self, key: str, message: str) -> None:
        self.findings.warning(self.key_mark(key), (*self.path, key), message)

    def unknown_keys(self, known: Collection[str], where: str) -> None:
        """An error for every key that is not known here."""
        for key, mark in self.node.keys.items():
            if key not in known:
                hint = nearest(key, known) or f" Allowed are {', '.join(known)}."
                self.findings.error(mark, (*self.path, key), f'There is no "{key[:80]}" in {where}.{hint}')

    def text(self, key: str, *, limit: int) -> str | None:
        node = self.get(key)
        if node is None:
            return None
        if not isinstance(node.value, str):
            shown = f": write it in quotes, '{node.value}'" if isinstance(node.value, bool | int | float) else ""
            self.error(key, f"This must be a text, not {kind_of(node.value)}{shown}.")
        elif len(node.value) > limit:
            self.error(key, f"This is {len(node.value):,} characters long; at most {limit:,} are allowed.")
        else:
            return node.value
        return None

    def number(
        self, key: str, *, low: float, high: float, of: str = "", whole: bool = False, above: bool = False
    ) -> float | None:
        """A number of `of`, from `low` to `high`; `above`: the lowest value itself is not allowed."""
        node = self.get(key)
        if node is None:
            return None
        value = node.value
        kind = ("a whole number" if whole else "a number") + (f" of {of}" if of else "")
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            hint = " Placeholders are evaluated in config only." if isinstance(value, str) and "{{" in value else ""
            self.error(
                key, f"This must be {kind}, not {kind_of(value) if not isinstance(value, float) else value}.{hint}"
            )
        elif not (low < value if above else low <= value) or value > high:
            between = f"more than {low:,} and at most {high:,}" if above else f"from {low:,} to {high:,}"
            self.error(key, f"This must be {kind}, {between}, not {value}.")
        else:
            return value
        return None

    def flag(self, key: str) -> bool:
        node = self.get(key)
        if node is not None and not isinstance(node.value, bool):
            self.error(key, f"This must be true or false, not {kind_of(node.value)}.")
        return node is not None and node.value is True

    def section(self, key: str) -> "Section | None":
        node = self.get(key)
        if node is None:
            return None
        if not isinstance(node.value, dict):
            self.error(key, f"This must be an object (keys and values), not {kind_of(node.value)}.")
            return None
        return Section(self.findings, node, (*self.path, key))

    def names(self, key: str) -> list[tuple[str, Node, Path]]:
        """A list of texts, each with its place; what stands twice is read once."""
        node = self.get(key)
        if node is None:
            return []
        if not isinstance(node.value, list):
            shown = f": [{node.value}]" if isinstance(node.value, str) else ""
            self.error(key, f"This must be a list of listeners{shown}, not {kind_of(node.value)}.")
            return []
        found: dict[str, tuple[str, Node, Path]] = {}
        for index, item in enumerate(node.value):
            path = (*self.path, key, index)
            if not isinstance(item.value, str):
                self.findings.error(item.mark, path, f"This must be the name of a listener, not {kind_of(item.value)}.")
            elif item.value in found:
                self.findings.warning(
                    item.mark, path, f'"{item.value[:80]}" stands here twice; it gets each message once.'
                )
            else:
                found[item.value] = (item.value, item, path)
        return list(found.values())
