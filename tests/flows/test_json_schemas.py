"""JSON Schemas that tenants write are checked without harm to whoever shares the process."""

import time
from typing import Any

import pytest

from flows.json_schemas import misfit, schema_problem

pytestmark = pytest.mark.once


@pytest.mark.parametrize(
    ("schema", "path", "part"),
    [
        ({"type": "objct"}, ("type",), "the types are array"),
        ({"properties": {"a": {"minimum": "1"}}}, ("properties", "a", "minimum"), "'1' is not of type 'number'"),
        ({"properties": {"pattern": {"pattern": "(?=a)"}}}, ("properties", "pattern", "pattern"), "RE2"),
        ({"items": {"$ref": "https://x.example/schema"}}, ("items", "$ref"), "another document"),
        ({"$ref": "#/$defs/gone"}, ("$ref",), "nothing at"),
        ({"allOf": [{"patternProperties": {"a": {}}}]}, ("allOf", 0, "patternProperties"), "cannot be checked"),
        ([], (), "not of type"),
        ({"items": {"$id": "https://x.example/a"}}, ("items", "$id"), "one document"),
        ({"unevaluatedProperties": False}, ("unevaluatedProperties",), "Use additionalProperties"),
        ({"pattern": "a" * 1_001}, ("pattern",), "1,001 characters"),
        # What a reference leads to must be a schema that was looked at.
        ({"required": ["x"], "$ref": "#/required/x"}, ("$ref",), "nothing at"),
        ({"type": "object", "$ref": "#/type/x"}, ("$ref",), "nothing at"),
        ({"type": "object", "$ref": "#/type"}, ("$ref",), "is no schema"),
        ({"default": {"type": "objct"}, "$ref": "#/default"}, ("$ref",), "is no schema"),
        ({"x-own": {"minimum": "1"}, "$ref": "#/x-own"}, ("$ref",), "is no schema"),
    ],
)
def test_what_is_no_schema_is_said_with_its_place(schema: Any, path: tuple[Any, ...], part: str) -> None:
    problem = schema_problem(schema)
    assert problem is not None
    assert problem[0] == path
    assert part in problem[1]


def test_keywords_in_data_and_names_are_no_keywords() -> None:
    schema = {
        "properties": {"patternProperties": {"const": {"$ref": "x", "pattern": "("}}, "pattern": {"type": "string"}},
        "$defs": {"$ref": {"enum": [{"pattern": "("}]}},
        "items": {"$ref": "#/$defs/$ref"},
    }
    assert schema_problem(schema) is None


def test_a_misfit_names_the_place_and_the_reason() -> None:
    schema = {"type": "object", "properties": {"lines": {"items": {"type": "number"}}}, "required": ["id"]}
    assert misfit({"id": 1, "lines": [1, "x"]}, schema) == "At $.lines[1]: 'x' is not of type 'number'"
    assert misfit({}, schema) == "At $: 'id' is a required property"
    assert misfit({"id": 1, "lines": []}, schema) is None


def test_a_pattern_takes_linear_time() -> None:
    started = time.monotonic()
    assert misfit({"a": "a" * 40 + "!"}, {"properties": {"a": {"pattern": "^(a+)+$"}}}) is not None
    assert misfit({"a": "aaa"}, {"properties": {"a": {"pattern": "^(a+)+$"}}}) is None
    assert time.monotonic() - started < 5


def test_a_schema_that_doubles_its_work_at_each_level_is_given_up() -> None:
    levels = {f"l{n}": {"anyOf": [{"$ref": f"#/$defs/l{n + 1}"}] * 2} for n in range(40)}
    schema = {"$ref": "#/$defs/l0", "$defs": {**levels, "l40": {"type": "number"}}}
    assert schema_problem(schema) is None
    assert "too much work" in str(misfit("x", schema))
    assert "too much work" in str(misfit("x", {"$ref": "#"}))


def test_a_pattern_that_python_could_not_compile_raises_nothing() -> None:
    schema = {"pattern": "^a{99999999999}$"}
    assert schema_problem(schema) is None  # RE2 takes it for text
    assert misfit("a", schema) is not None


@pytest.mark.parametrize(
    ("value", "schema", "fits"),
    [
        (1, {"enum": [1.0]}, True),
        (True, {"enum": [1]}, False),
        ("1", {"enum": [1]}, False),
        ({"a": 1, "b": [2]}, {"enum": [{"b": [2.0], "a": 1}]}, True),
        ([1, 2], {"const": [2, 1]}, False),
        ({"a": 1}, {"const": {"a": 1.0}}, True),
        ([1, 1.0], {"uniqueItems": True}, False),
        ([1, True, "1", [1], {"1": 1}], {"uniqueItems": True}, True),
        ([{"a": 1, "b": 2}, {"b": 2, "a": 1}], {"uniqueItems": True}, False),
        ("x", {"uniqueItems": True}, True),
    ],
)
def test_values_are_the_same_where_json_says_so(value: Any, schema: dict[str, Any], fits: bool) -> None:
    assert (misfit(value, schema) is None) is fits


def test_a_long_enum_is_not_quoted_whole() -> None:
    assert len(str(misfit("x", {"enum": [f"word {n}" for n in range(40_000)]}))) < 400


def test_a_long_answer_is_checked_to_its_end() -> None:
    types: dict[str, Any] = {"name": "string", "count": "integer", "price": "number", "sold": "boolean", "note": "null"}
    row = {"properties": {name: {"type": type_} for name, type_ in types.items()}, "required": list(types)}
    schema = {"type": "object", "properties": {"rows": {"items": row}}}
    rows = [{"name": "a", "count": n, "price": 0.5, "sold": True, "note": None} for n in range(2_000)]
    assert misfit({"rows": rows}, schema) is None
    assert "$.rows[2000]" in str(misfit({"rows": [*rows, {**rows[0], "count": "x"}]}, schema))


MIXED = [*range(20_000), "x"]  # cannot be sorted
ITEMS = list(range(9_000))


@pytest.mark.parametrize(
    ("value", "schema"),
    [
        (ITEMS, {"items": {"enum": list(range(100_000, 140_000))}}),
        (ITEMS, {"items": {"const": list(range(9_000))}}),
        (MIXED, {"uniqueItems": True}),
        (ITEMS, {"allOf": [{"type": "string"}] * 5_000}),
        (ITEMS, {"items": {"not": {"enum": list(range(40_000))}}}),
        (ITEMS, {"anyOf": [{"contains": {}, "maxContains": 1}] * 2_000}),
        ([{}] * 9_000, {"items": {"properties": {f"p{n}": {} for n in range(9_000)}}}),
        ([10**300] * 9_000, {"items": {"multipleOf": 1e-300}}),
        (["a" * 100] * 9_000, {"items": {"pattern": "(x{500}y{500}|a)*z"}}),
        # A part with another "$schema" must not get the library's own validator, with Python's patterns.
        ("a" * 40 + "!", {"allOf": [{"$schema": "http://json-schema.org/draft-07/schema#", "pattern": "^(a+)+$"}]}),
    ],
    ids=["enum", "const", "unique", "words", "not", "contains", "properties", "fractions", "pattern", "draft-07"],
)
def test_no_check_holds_the_process_up(value: Any, schema: dict[str, Any]) -> None:
    started = time.process_time()
    assert misfit(value, schema) is not None or schema == {"uniqueItems": True}
    assert time.process_time() - started < 0.5  # half of it at most on a machine that does nothing else


@pytest.mark.parametrize(
    "schema",
    [{"type": MIXED}, {"required": [str(n) for n in MIXED] * 2}, {"properties": {f"p{n}": {} for n in range(50_000)}}],
    ids=["types", "required", "properties"],
)
def test_no_check_of_a_schema_takes_long(schema: dict[str, Any]) -> None:
    started = time.process_time()
    assert schema_problem(schema) is not None
    assert time.process_time() - started < 3


def test_what_the_library_stumbles_over_is_a_misfit() -> None:
    assert "cannot be applied" in str(misfit(10**400, {"multipleOf": 0.5}))
