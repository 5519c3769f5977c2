"""An upper bound on the work that an expression can do on given data, found before it is evaluated.

CEL always ends, but an evaluation cannot be interrupted: it holds the interpreter and its memory until it is done. Its
loops that make a list copy it in every round (2,000 items: 60 ms and 70 MB; 9,000: 3 s), loops nest, and a text can
grow by a factor with each call. So the work is estimated on the real data, as cel-go's cost estimator does on declared
sizes, and what could be too much is refused. A unit is about a byte written or a nanosecond.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from flows.organism.syntax import Call, Constant, Key, Literal, Loop, Name, Select, Syntax, Tree

MAX_LOOP_ITEMS = 2_000
MAX_WORK = 150_000_000  # units: two lists of 2,000 made item by item

_OPERATION = 50  # units an operation costs at least
_VALUE = 16  # units a value takes beside its text
_COPIED = 17  # units an item: a list of n that is made item by item is copied n times, n / 2 items of 34 bytes each
_PASSED = 4  # units an item: a loop that makes no list still looks each item up in linear time

# Functions whose result is no larger than their arguments together.
_KEEPING = frozenset(
    "lowerAscii upperAscii trim substring reverse charAt dyn orValue or value optional.of optional.ofNonZeroValue".split()
)
_TRUTHS = frozenset("_==_ _!=_ _<_ _<=_ _>_ _>=_ @in _&&_ _||_ !_ optional.none".split())
_INDEX = frozenset("_[_] _[?_] _?._".split())


class TooMuchWork(Exception):
    """`items` is the length of the list that is too long for a loop, or None where the whole is too much."""

    def __init__(self, items: int | None = None) -> None:
        super().__init__()
        self.items = items


class Bound:
    """What is known of a value: at most so large (`size`) and so long (`count`: items, entries or characters)."""

    is_flat = False  # whether it surely is no list or object

    def __init__(self, size: int, count: int | None = None, item: "Bound | None" = None) -> None:
        self._size = size
        self._count = size if count is None else count
        self._item = item

    @property
    def size(self) -> int:
        return self._size

    @property
    def count(self) -> int:
        return self._count

    @property
    def item(self) -> "Bound":
        """What a loop goes through: an item of a list, a key of an object."""
        return self._item or Bound(self.size)

    def select(self, key: Key | None) -> "Bound":
        """One value inside; with `None` any of them."""
        return self.item

    def repeats(self) -> int:
        """How much larger than its text a regular expression is, its {n} written out. RE2 takes no n over 1,000."""
        return 1_000


class Known(Bound):
    """A value that is one of the real ones."""

    def __init__(self, candidates: list[Any]) -> None:
        self.candidates = candidates
        self._known_size: int | None = None

    @property
    def is_flat(self) -> bool:  # type: ignore[override]
        return not any(isinstance(value, list | dict) for value in self.candidates)

    @property
    def size(self) -> int:
        if self._known_size is None:
            self._known_size = max(map(_size, self.candidates), default=_VALUE)
        return self._known_size

    @property
    def count(self) -> int:
        return max((len(value) for value in self.candidates if isinstance(value, str | list | dict)), default=0)

    @property
    def item(self) -> Bound:
        return Known([item for value in self.candidates if isinstance(value, list | dict) for item in value])

    def select(self, key: Key | None) -> Bound:
        if key is None:
            return Known([child for value in self.candidates for child in _children(value)])
        if isinstance(key, str):
            return Known([value[key] for value in self.candidates if isinstance(value, dict) and key in value])
        return Known([value[key] for value in self.candidates if isinstance(value, list) and 0 <= key < len(value)])

    def repeats(self) -> int:
        return max((_repeats(value) for value in self.candidates if isinstance(value, str)), default=1)


def _children(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _size(value: Any) -> int:
    if isinstance(value, str | bytes):
        return _VALUE + len(value)
    if isinstance(value, dict):
        return _VALUE + sum(_VALUE + len(key) + _size(child) for key, child in value.items())
    if isinstance(value, list):
        return _VALUE + sum(map(_size, value))
    return _VALUE


def _repeats(pattern: str) -> int:
    product = 1
    for counts in re.findall(r"\{(\d{1,4})(?:,(\d{0,4}))?\}", pattern):
        product = min(product * max(1, *(int(count) for count in counts if count)), 100_000)
    return product


_SMALL = Bound(_VALUE, 0)


def check(syntax: Syntax, scope: Mapping[str, Any], size: int) -> None:
    """Raises `TooMuchWork` where evaluating on `scope` (of `size` units) could take too long or too much memory."""
    if not syntax.has_loop and not syntax.functions & _GROWTH.keys() and syntax.size**2 * (size + 1_000) < MAX_WORK:
        return  # each operation touches at most all that the others made
    _Estimate(scope).run(syntax.tree)


@dataclass
class _Estimate:
    scope: Mapping[str, Any]
    work: int = 0

    def run(self, tree: Tree) -> None:
        result = self.bound(tree, {}, 1)
        self.charge(result.size, 1)  # of turning it into JSON

    def charge(self, units: int, times: int) -> None:
        self.work += (units + _OPERATION) * times
        if self.work > MAX_WORK:
            raise TooMuchWork

    def bound(self, tree: Tree, loops: dict[str, Bound], times: int) -> Bound:
        """The bound of a node that is evaluated `times` times."""
        match tree:
            case Constant(value=value):
                return Known([value])
            case Name(name=name):
                self.charge(0, times)
                return loops[name] if name in loops else Known([self.scope[name]] if name in self.scope else [])
            case Select(operand=operand, key=key, is_test=is_test):
                whole = self.bound(operand, loops, times)
                self.charge(0, times)
                return _SMALL if is_test else whole.select(key)
            case Literal(items=items):
                return self.literal([self.bound(item, loops, times) for item in items], times)
            case Loop():
                return self.loop(tree, loops, times)
            case Call(function=function, args=args):
                return self.call(function, args, loops, times)
        return _SMALL

    def literal(self, items: list[Bound], times: int) -> Bound:
        size = _VALUE + sum(item.size for item in items)
        self.charge(len(items) * _VALUE, times)
        return Bound(size, len(items), _largest(items))

    def loop(self, loop: Loop, loops: dict[str, Bound], times: int) -> Bound:
        items = self.bound(loop.items, loops, times)
        count = items.count
        if count > MAX_LOOP_ITEMS:
            raise TooMuchWork(count)
        makes_list = isinstance(loop.start, Literal)
        self.charge((_COPIED if makes_list else _PASSED) * count * count, times)
        rounds = times * count
        inside = {**loops, loop.variable: items.item, loop.result_variable: self.bound(loop.start, loops, times)}
        self.bound(loop.condition, inside, rounds)
        step = self.bound(loop.step, inside, rounds)
        # The macros' steps are `result + [value]`, the same under a condition, or true, false or a count.
        made = Bound(count * (step.item.size + _VALUE), count, step.item) if makes_list else _SMALL
        return self.bound(loop.result, {**loops, loop.result_variable: made}, times)

    def call(self, function: str, args: tuple[Tree, ...], loops: dict[str, Bound], times: int) -> Bound:
        bounds = [self.bound(arg, loops, times) for arg in args]
        if function in _INDEX and len(args) == 2:
            self.charge(0, times)
            key = args[1].value if isinstance(args[1], Constant) else None
            return bounds[0].select(key if isinstance(key, str | int) and not isinstance(key, bool) else None)
        result = _result(function, bounds)
        self.charge(_cost(function, bounds) + result.size, times)
        return result


def _largest(bounds: Iterable[Bound]) -> Bound:
    return max(bounds, key=lambda bound: bound.size, default=_SMALL)


def _cost(function: str, args: list[Bound]) -> int:
    """What a call costs beside making its result."""
    if function in ("_==_", "_!=_"):
        return min(arg.size for arg in args)
    if function == "@in":
        wanted, items = args
        each = min(wanted.size, items.item.size)
        return items.count * (32 + (each // 8 if wanted.is_flat else each))  # texts are compared eight bytes at once
    if function == "matches" and len(args) == 2:
        text, pattern = args
        program = pattern.count * pattern.repeats()
        return 20_000 + program * (200 + text.size)  # RE2, compiled each time; linear in the text
    return sum(arg.size for arg in args)


def _result(function: str, args: list[Bound]) -> Bound:
    total = sum(arg.size for arg in args)
    if (exact := _exact(function, args)) is not None:
        return exact
    if function in _GROWTH:
        return _GROWTH[function](args)
    if function == "_+_":
        return Bound(total, sum(arg.count for arg in args), _largest(arg.item for arg in args))
    if function == "_?_:_":
        return Bound(
            max(arg.size for arg in args), max(arg.count for arg in args), _largest(arg.item for arg in args[1:])
        )
    if function in _TRUTHS:
        return _SMALL
    if function in _KEEPING:
        return Bound(total, max((arg.count for arg in args), default=0), _largest(arg.item for arg in args))
    return Bound(4 * total + 64)


def _exact(function: str, args: list[Bound]) -> Bound | None:
    """What people do to a text before they loop over its lines, done: a bound by size alone would refuse too much."""
    text, *others = args or [_SMALL]
    if not isinstance(text, Known) or not text.is_flat or text.size > 1_000_000:
        return None
    texts = [value for value in text.candidates if isinstance(value, str)]
    known = [other.candidates[0] for other in others if isinstance(other, Known) and len(other.candidates) == 1]
    if len(known) < len(others):
        return None
    match function, known:
        case (("trim" | "substring" | "lowerAscii" | "upperAscii"), _):
            return text
        case "replace", [str() as old, str() as new] if len(new) <= max(len(old), 1):
            return Known([value.replace(old, new) for value in texts])
        case "split", [str() as separator] if separator:
            if max((value.count(separator) for value in texts), default=0) <= MAX_LOOP_ITEMS:
                return Known([value.split(separator) for value in texts])
    return None


def _joined(args: list[Bound]) -> Bound:
    separator = args[1].count if len(args) > 1 else 0
    return Bound(args[0].size + args[0].count * separator)


def _replaced(args: list[Bound]) -> Bound:
    text, _, new = args[:3]
    return Bound(text.size + (text.count + 1) * new.count)


def _split(args: list[Bound]) -> Bound:
    pieces = args[0].count + 1
    return Bound(args[0].size + pieces * _VALUE, pieces, Bound(args[0].size))


def _formatted(args: list[Bound]) -> Bound:
    return Bound(args[0].count * 700 + 4 * sum(arg.size for arg in args))  # "%.1000f" is 1,310 characters at most


_GROWTH: dict[str, Callable[[list[Bound]], Bound]] = {
    "join": _joined,
    "replace": _replaced,
    "split": _split,
    "format": _formatted,
    "matches": lambda args: _SMALL,
}
