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
