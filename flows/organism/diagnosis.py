"""Says what is wrong with an expression in words that its author can act on: which name is missing, and the nearest one."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from bloxserver.core.words import closest
from flows.organism.cost import MAX_LOOP_ITEMS
from flows.organism.scope import MISSING, lookup
from flows.organism.syntax import VARIABLES, Key, Syntax

_OVERLOAD = re.compile(r"No matching overloads found : ([^(]*)(?:\((.*)\))?")
_NO_OVERLOAD = re.compile(r"found no matching overload for '(.*?)' applied to '\((.*)\)'")
_UNDECLARED = re.compile(r"undeclared reference to '(.*?)' \(")
_KEY = re.compile(r'Key not found in map : "?(.*?)"?$')
_HYPHENATED = re.compile(r"([A-Za-z_]\w*)((?:\.\w+)*)\.(\w+(?:-\w+)+)")
_IDENTIFIER = re.compile(r"[A-Za-z_]\w*")
_TYPES = {
    "int64": "int",
    "uint64": "uint",
    "null_type": "null",
    "dyn": "any value",
    "google.protobuf.Timestamp": "timestamp",
}
_NUMBERS = {"int", "uint", "double"}
_FUNCTIONS = (
    "all bool bytes charAt contains double duration dyn endsWith exists exists_one filter format getDate getDayOfMonth "
    "getDayOfWeek getDayOfYear getFullYear getHours getMilliseconds getMinutes getMonth getSeconds has hasValue indexOf int "
    "join lastIndexOf lowerAscii map matches orValue replace reverse size split startsWith string substring timestamp trim "
    "type uint upperAscii value"
).split()
_ELSEWHERE = {  # what people know from other languages
    "True": "true", "False": "false", "None": "null", "nil": "null", "undefined": "null",
    "len": "size", "length": "size", "str": "string", "float": "double", "Number": "double", "strip": "trim",
    "lower": "lowerAscii", "toLowerCase": "lowerAscii", "upper": "upperAscii", "toUpperCase": "upperAscii",
    "includes": "contains", "startswith": "startsWith", "endswith": "endsWith",
    "any": "exists", "some": "exists", "every": "all", "find": "filter", "not": "!",
    "item": "payload", "input": "payload", "body": "payload", "env": "vars", "variables": "vars",
    "secret": "secrets", "step": "steps", "workflow": "flow",
}  # fmt: skip


def did_you_mean(name: str, known: Iterable[str], *, fallback: str = "") -> str:
    """`; did you mean "total"?` with the nearest of the known names, or else `fallback`."""
    candidates = list(known)
    nearest = closest(name, candidates)
    if not nearest:
        folded = {candidate.lower().replace("-", "_"): candidate for candidate in candidates}
        nearest = folded.get(name.lower().replace("-", "_"))
    return f'; did you mean "{nearest}"?' if nearest else fallback


def _listing(names: Iterable[str], limit: int = 8) -> str:
    shown = sorted(names)
    if not shown:
        return ""
    more = f" and {len(shown) - limit} more" if len(shown) > limit else ""
    return ", ".join(shown[:limit]) + more


def written(path: tuple[Key, ...]) -> str:
    """A path as CEL writes it: `steps["a-b"].items[0]`."""
    text = str(path[0])
    for key in path[1:]:
        if isinstance(key, str) and _IDENTIFIER.fullmatch(key):
            text += f".{key}"
        else:
            text += f'["{key}"]' if isinstance(key, str) else f"[{key}]"
    return text


# -- while compiling -----------------------------------------------------------------------------------------------


def of_compile_error(source: str, offset: int, message: str) -> tuple[str, int]:
    """A compiler's message in plain words, and where in `source` it is about. `offset` is where the compiler points."""
    if undeclared := _UNDECLARED.search(message):
        return _undeclared(source, offset, undeclared[1].split(".")[0])
    if overload := _NO_OVERLOAD.search(message):
        return _no_overload(overload[1], overload[2].split(", ")) + ".", offset
    if source.lstrip().startswith("{{"):
        return "Write the expression alone, without {{ }}.", source.index("{{")
    return _syntax_error(source, offset, message), offset


def _syntax_error(source: str, offset: int, message: str) -> str:
    near = source[max(offset - 1, 0) : offset + 2]
    hints = (
        (re.search(r"(?<![=!<>])=(?!=)", source), "compare with =="),
        ("===" in source, "compare with =="),
        (re.search(r"\b(and|or|not)\b", source), "write && for and, || for or, ! for not"),
        ("`" in near, "quote texts with ' or \""),
    )
    hint = next((f" Hint: {text}." for found, text in hints if found), "")
    short = re.sub(r" expecting \{.*", "", message.removeprefix("Syntax error: "))
    short = short.replace("mismatched input '<EOF>'", "it ends too early")
    short = short.replace("no viable alternative at", "cannot be read at")
    return f"This is not a CEL expression: {short}.{hint}"


def _undeclared(source: str, offset: int, name: str) -> tuple[str, int]:
    for match in _HYPHENATED.finditer(source):
        if match.start() <= offset <= match.end() and name in match[3].split("-"):
            better = f'{match[1]}{match[2]}["{match[3]}"]'
            return f"A name with a hyphen stands in brackets: write {better} (here - is a subtraction).", match.start()
    # The compiler points behind some names, at a dot or a bracket.
    starts = [match.start() for match in re.finditer(rf"\b{re.escape(name)}\b", source) if match.start() <= offset]
    return _no_such_name(name, is_function=source[offset : offset + 1] == "("), starts[-1] if starts else offset


def _no_such_name(name: str, *, is_function: bool) -> str:
    if name in _ELSEWHERE:
        return f'There is no "{name}"; did you mean "{_ELSEWHERE[name]}"?'
    if is_function:
        return f'There is no function "{name}"{did_you_mean(name, _FUNCTIONS, fallback=".")}'
    scope = ", ".join(VARIABLES)
    return f'There is no "{name}" here{did_you_mean(name, VARIABLES, fallback=".")} In scope are {scope}. Texts stand in quotes.'


def _no_overload(function: str, types: list[str]) -> str:
    types = [_TYPES.get(kind, kind) for kind in types if kind]
    operator = function.replace("_", "").replace("@in", "in").replace("[]", "[ ]")
    listed = " and ".join(re.sub(r"\(.*", "", kind) for kind in types)
    if function in ("_?_:_", "<jump_condition>"):
        return "the condition before ? must be true or false, and what follows of one type"
    if function in ("_&&_", "_||_", "!_"):
        return f"{operator} takes only true and false: compare first, as in x != null"
    if function == "<iter_range>":
        return "map, filter, all and exists go through a list or an object, and this is neither"
    why = f"{operator} has no meaning for {listed}" if listed else f"{operator} has no meaning for these types"
    kinds = set(types)
    if kinds & {"null"}:
        return f"{why}: one of them is null; test it with != null first"
    if kinds <= _NUMBERS and len(kinds) > 1:
        other = "int" if "int" in kinds else "uint"
        return f"{why}; CEL does not mix numbers: write double(...) around the {other}"
    if "string" in kinds and kinds & _NUMBERS:
        number = next(kind for kind in types if kind in _NUMBERS)
        return f"{why}; write string(...) around the {number}, or {number}(...) around the text"
    if "list" in listed and function == "contains":
        return f"{why}; for a list write: value in list"
    return why


# -- while evaluating ----------------------------------------------------------------------------------------------


def of_work(items: int | None) -> str:
    if items is not None:
        why = f"a loop over up to {items:,} items; an expression loops over {MAX_LOOP_ITEMS:,} at most"
    else:
        why = "too much work for one expression on this data (loops in loops, a growing text)"
    return f"{why}. Use a blox.for_each listener."


def of_failure(syntax: Syntax, scope: Mapping[str, Any], failure: str) -> str:
    """Why an evaluation failed. `failure` is the runtime's own message."""
    text = re.sub(r"^[A-Z_]+: ", "", failure).strip()
    text = re.sub(r" \[[A-Z_]+\]$", "", text)
    if "Iteration budget" in text:
        return "its loops make more than 10,000 rounds in all. Use a blox.for_each listener."
    if overload := _OVERLOAD.search(text):
        return _no_overload(overload[1].strip(), (overload[2] or "").split(", "))
    if (
        "return value to a Python type" in text or "with an exception set" in text
    ):  # how the runtime refuses an optional
        return "the result is an optional value; end it with .orValue(...)"
    key = match[1] if (match := _KEY.search(text)) else None
    if missing := _missing(syntax, scope, key, failure):
        return missing
    if key is not None:
        return f'there is no "{key}" in the object'
    return text or "it failed"


def _missing(syntax: Syntax, scope: Mapping[str, Any], key: str | None, failure: str) -> str | None:
    if key is None and not re.search("NOT_FOUND|SELECT|Index error|No value with name|container type", failure):
        return None
    for reference in syntax.references:
        known = len(reference.path) - 1 if reference.is_test else len(reference.path)
        for depth in range(known):
            if lookup(scope, reference.path[: depth + 1]) is MISSING:
                if key is None or str(reference.path[depth]) == key:
                    return _absent(scope, reference.path[: depth + 1])
                break
    return _missing_in_items(syntax, scope, key)


def _absent(scope: Mapping[str, Any], path: tuple[Key, ...]) -> str:
    """Why there is nothing at `path`, all of which but the last key is there."""
    key, above = path[-1], path[:-1]
    if not above:
        return f'there is no "{key}" in scope here'
    parent = lookup(scope, above)
    if isinstance(parent, Mapping) and isinstance(key, str):
        return _absent_key(above, key, parent)
    name = written(above)
    if parent is None:
        return f"{name} is null"
    if isinstance(parent, list):
        if isinstance(key, int):
            return f"{name} has {len(parent)} item{'' if len(parent) == 1 else 's'}, so there is no [{key}]; the first is [0]"
        return f'{name} is a list and has no "{key}"; read one item with {name}[0], or all with {name}.map(i, i.{key})'
    kind = {bool: "true or false", int: "a number", float: "a number", str: "a text"}.get(type(parent), "an object")
    return (
        f'{name} is {kind} and has no "{key}"'
        if isinstance(key, str)
        else f"{name} is {kind}, not a list, so it has no [{key}]"
    )


def _absent_key(above: tuple[Key, ...], key: str, parent: Mapping[str, Any]) -> str:
    has = f" (it has {_listing(parent)})" if parent else " (it is empty)"
    if above == ("steps",):
        ran = f"; so far there are {_listing(parent)}" if parent else ""
        return f'no step "{key}" has finished before this one{did_you_mean(key, parent, fallback=ran)}'
    if above == ("vars",):
        return f'there is no variable "{key}"{did_you_mean(key, parent, fallback="; add it under variables")}'
    if above == ("secrets",):
        return f'there is no secret "{key}"; add it under secrets'
    owner = f"the {above[0]}" if len(above) == 1 else written(above)
    return f'{owner} has no "{key}"{did_you_mean(key, parent, fallback=has)}'


def _missing_in_items(syntax: Syntax, scope: Mapping[str, Any], key: str | None) -> str | None:
    """Of `payload.items.map(i, i.totl)`: which item lacks the key."""
    for name, sources in syntax.item_keys.items():
        if key not in (None, name):
            continue
        for source in sources:
            items = lookup(scope, source)
            for index, item in enumerate(items if isinstance(items, list) else []):
                if not isinstance(item, Mapping) or name not in item:
                    return _absent(scope, (*source, index, name))
    return None
