"""Stripe's form encoding: nested brackets in, nested values out."""

import re
from typing import Any
from urllib.parse import parse_qsl

_PARTS = re.compile(r"\[([^\]]*)\]")


def decode(encoded: str) -> dict[str, Any]:
    """`a[b]=1&c[0][d]=2&e[]=3` as {"a": {"b": "1"}, "c": [{"d": "2"}], "e": ["3"]}; all leaves are text."""
    tree: dict[str, Any] = {}
    for name, value in parse_qsl(encoded, keep_blank_values=True):
        head, brackets = (name.split("[", 1)[0], _PARTS.findall(name))
        _put(tree, [head, *brackets], value)
    return {key: _lists(value) for key, value in tree.items()}


def _put(node: dict[str, Any], path: list[str], value: str) -> None:
    key = path[0] or str(len(node))
    if len(path) == 1:
        node[key] = value
    else:
        inner = node.setdefault(key, {})
        if isinstance(inner, dict):
            _put(inner, path[1:], value)


def _lists(node: Any) -> Any:
    if not isinstance(node, dict):
        return node
    inner = {key: _lists(value) for key, value in node.items()}
    if inner and list(inner) == [str(place) for place in range(len(inner))]:
        return list(inner.values())
    return inner
