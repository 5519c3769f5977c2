"""A compiled CEL expression as a tree, and what can be read off it without evaluating it.

The runtime gives the tree as a serialized `cel.expr.CheckedExpr`. Its messages come in no package on PyPI, so the part
that is needed is declared here, from https://github.com/google/cel-spec/blob/master/proto/cel/expr/syntax.proto and
checked.proto. Field numbers are part of that format and do not change.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory  # type: ignore[import-untyped]
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

_Field = descriptor_pb2.FieldDescriptorProto
_MESSAGES: dict[str, list[tuple[str, int, str]]] = {  # "*" marks a repeated field
    "Any": [("value", 2, "bytes")],
    "CheckedExpr": [("expr", 4, "Expr"), ("source_info", 5, "SourceInfo")],
    "SourceInfo": [("positions", 4, "*Position")],
    "Position": [("key", 1, "int64"), ("value", 2, "int32")],
    "Constant": [
        ("null_value", 1, "int64"),
        ("bool_value", 2, "bool"),
        ("int64_value", 3, "int64"),
        ("uint64_value", 4, "uint64"),
        ("double_value", 5, "double"),
        ("string_value", 6, "string"),
        ("bytes_value", 7, "bytes"),
    ],
    "Ident": [("name", 1, "string")],
    "Select": [("operand", 1, "Expr"), ("field", 2, "string"), ("test_only", 3, "bool")],
    "Call": [("target", 1, "Expr"), ("function", 2, "string"), ("args", 3, "*Expr")],
    "CreateList": [("elements", 1, "*Expr")],
    "Entry": [("id", 1, "int64"), ("map_key", 3, "Expr"), ("value", 4, "Expr")],
    "CreateStruct": [("entries", 2, "*Entry")],
    "Comprehension": [
        ("iter_var", 1, "string"),
        ("iter_range", 2, "Expr"),
        ("accu_var", 3, "string"),
        ("accu_init", 4, "Expr"),
        ("loop_condition", 5, "Expr"),
        ("loop_step", 6, "Expr"),
        ("result", 7, "Expr"),
    ],
    "Expr": [
        ("id", 2, "int64"),
        ("const_expr", 3, "Constant"),
        ("ident_expr", 4, "Ident"),
        ("select_expr", 5, "Select"),
        ("call_expr", 6, "Call"),
        ("list_expr", 7, "CreateList"),
        ("struct_expr", 8, "CreateStruct"),
        ("comprehension_expr", 9, "Comprehension"),
    ],
}
_SCALARS = {
    "int64": _Field.TYPE_INT64,
    "int32": _Field.TYPE_INT32,
    "uint64": _Field.TYPE_UINT64,
    "double": _Field.TYPE_DOUBLE,
    "bool": _Field.TYPE_BOOL,
    "string": _Field.TYPE_STRING,
    "bytes": _Field.TYPE_BYTES,
}

Key = str | int
VARIABLES = ("payload", "trigger", "steps", "flow", "execution", "vars", "secrets")  # what a scope is made of


class TooDeep(Exception):
    """The expression nests deeper than protobuf reads (100 messages)."""


# -- the tree ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tree:
    """A node of the expression. `at` is its offset in the source, in characters; -1 where it has none."""

    at: int


@dataclass(frozen=True, slots=True)
class Constant(Tree):
    value: Any


@dataclass(frozen=True, slots=True)
class Name(Tree):
    name: str


@dataclass(frozen=True, slots=True)
class Select(Tree):
    operand: Tree
    key: str
    is_test: bool  # has(operand.key)


@dataclass(frozen=True, slots=True)
class Call(Tree):
    function: str
    args: tuple[Tree, ...]  # the target of a method is the first


@dataclass(frozen=True, slots=True)
class Literal(Tree):
    """A list, or an object (its keys and values in turn)."""

    items: tuple[Tree, ...]
    is_object: bool


@dataclass(frozen=True, slots=True)
class Loop(Tree):
    """What `map`, `filter`, `all`, `exists` and `exists_one` are made of."""

    variable: str
    items: Tree
    result_variable: str
    start: Tree
    condition: Tree
    step: Tree
    result: Tree


@dataclass(frozen=True, slots=True)
class Reference:
    """A read of the scope: `payload.items[0].id` is ("payload", "items", 0, "id").

    It ends where the rest depends on more than the name: at a call, a computed index, an optional selection.
    """

    path: tuple[Key, ...]
    at: int
    is_test: bool = False  # has(...): the last key may be missing


@dataclass(frozen=True, slots=True)
class Syntax:
    """An expression's tree and its facts."""

    tree: Tree
    references: tuple[Reference, ...]
    has_loop: bool
    functions: frozenset[str]
    size: int  # nodes
    path: tuple[Key, ...] | None  # where the value stands, if the expression only reads one, as `payload.items[0]` does
    item_keys: dict[str, list[tuple[Key, ...]]]  # key -> the lists in the scope from whose items a loop reads it


def parse(serialized: bytes) -> Syntax:
    """Read what `cel.Expression.serialize` gives. Raises `TooDeep`."""
    try:
        checked = _types["CheckedExpr"].FromString(_types["Any"].FromString(serialized).value)
    except DecodeError as error:
        raise TooDeep from error
    positions = {position.key: position.value for position in checked.source_info.positions}
    tree = _tree(checked.expr, positions)
    references: list[Reference] = []
    item_keys: dict[str, list[tuple[Key, ...]]] = {}
    _collect(tree, {}, references, item_keys)
    nodes = list(walk(tree))
    return Syntax(
        tree=tree,
        references=tuple(references),
        has_loop=any(isinstance(node, Loop) for node in nodes),
        functions=frozenset(node.function for node in nodes if isinstance(node, Call)),
        size=len(nodes),
        path=scope_path(tree, frozenset()),
        item_keys=item_keys,
    )


def walk(tree: Tree) -> Iterator[Tree]:
    """The node and all below it."""
    pending = [tree]
    while pending:
        node = pending.pop()
        yield node
        pending.extend(children(node))


def children(node: Tree) -> tuple[Tree, ...]:
    match node:
        case Select():
            return (node.operand,)
        case Call():
            return node.args
        case Literal():
            return node.items
        case Loop():
            return (node.items, node.start, node.condition, node.step, node.result)
    return ()


def scope_path(tree: Tree, hidden: frozenset[str]) -> tuple[Key, ...] | None:
    """The path in the scope that a node reads, or None. `hidden` are the loop variables around it."""
    keys: list[Key] = []
    while True:
        match tree:
            case Name(name=name):
                name = name.removeprefix(".")
                return (name, *reversed(keys)) if name in VARIABLES and name not in hidden else None
            case Select(operand=operand, key=key, is_test=False):
                keys.append(key)
                tree = operand
            case Call(function="_[_]", args=(operand, Constant(value=str() | int() as key))) if not isinstance(
                key, bool
            ):
                keys.append(key)
                tree = operand
            case _:
                return None


def _collect(
    tree: Tree,
    loops: dict[str, tuple[Key, ...] | None],
    references: list[Reference],
    item_keys: dict[str, list[tuple[Key, ...]]],
) -> None:
    """Gather the reads of the scope. `loops` maps each loop variable in view to the list it goes through, if known."""
    hidden = frozenset(loops)
    is_test = isinstance(tree, Select) and tree.is_test
    whole = Select(tree.at, tree.operand, tree.key, False) if isinstance(tree, Select) and is_test else tree
    path = scope_path(whole, hidden)
    if path is not None:
        references.append(Reference(path, _start(whole), is_test))
        return
    if isinstance(tree, Select) and isinstance(tree.operand, Name) and (source := loops.get(tree.operand.name)):
        item_keys.setdefault(tree.key, []).append(source)
    if isinstance(tree, Loop):
        _collect(tree.items, loops, references, item_keys)
        _collect(tree.start, loops, references, item_keys)
        inside = {**loops, tree.result_variable: None, tree.variable: scope_path(tree.items, hidden)}
        for part in (tree.condition, tree.step, tree.result):
            _collect(part, inside, references, item_keys)
        return
    for child in children(tree):
        _collect(child, loops, references, item_keys)


def _start(tree: Tree) -> int:
    while isinstance(tree, Select | Call):
        tree = tree.operand if isinstance(tree, Select) else tree.args[0]
    return tree.at


# -- reading the protobuf ------------------------------------------------------------------------------------------


def _tree(expr: Any, positions: dict[int, int]) -> Tree:
    at = positions.get(expr.id, -1)
    if expr.HasField("const_expr"):
        fields = expr.const_expr.ListFields()
        return Constant(at, None if not fields or fields[0][0].name == "null_value" else fields[0][1])
    if expr.HasField("ident_expr"):
        return Name(at, expr.ident_expr.name)
    if expr.HasField("select_expr"):
        select = expr.select_expr
        return Select(at, _tree(select.operand, positions), select.field, select.test_only)
    if expr.HasField("call_expr"):
        call = expr.call_expr
        target = (call.target,) if call.HasField("target") else ()
        return Call(at, call.function, tuple(_tree(arg, positions) for arg in (*target, *call.args)))
    if expr.HasField("list_expr"):
        return Literal(at, tuple(_tree(item, positions) for item in expr.list_expr.elements), False)
    if expr.HasField("comprehension_expr"):
        return _loop(at, expr.comprehension_expr, positions)
    entries = expr.struct_expr.entries
    items = (part for entry in entries for part in (entry.map_key, entry.value))
    return Literal(at, tuple(_tree(item, positions) for item in items), True)


def _loop(at: int, loop: Any, positions: dict[int, int]) -> Loop:
    return Loop(
        at,
        variable=loop.iter_var,
        items=_tree(loop.iter_range, positions),
        result_variable=loop.accu_var,
        start=_tree(loop.accu_init, positions),
        condition=_tree(loop.loop_condition, positions),
        step=_tree(loop.loop_step, positions),
        result=_tree(loop.result, positions),
    )


def _declare() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="cel_syntax.proto", package="cel.expr", syntax="proto2")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field_name, number, kind in fields:
            base = kind.removeprefix("*")
            added = message.field.add(name=field_name, number=number, type=_SCALARS.get(base, _Field.TYPE_MESSAGE))
            added.label = _Field.LABEL_REPEATED if kind.startswith("*") else _Field.LABEL_OPTIONAL
            if base not in _SCALARS:
                added.type_name = f".cel.expr.{base}"
    pool = descriptor_pool.DescriptorPool()  # of its own: nobody else's `cel.expr` can clash with it
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"cel.expr.{name}")) for name in _MESSAGES}


_types = _declare()
