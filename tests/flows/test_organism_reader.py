"""YAML in: what is read, what is refused, and where it says so."""

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.organism import validate
from flows.organism.nodes import Mark
from flows.organism.reader import MAX_BYTES, read

pytestmark = pytest.mark.once


def plain(text: str) -> Any:
    document = read(text)
    assert document.problems == []
    assert document.root is not None
    return document.root.plain()


def only_problem(text: str) -> tuple[int, int, str]:
    problems = read(text).problems
    assert len(problems) == 1, problems
    return problems[0].line, problems[0].column, problems[0].message


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("null", None),
        ("~", None),
        ("", None),
        ("true", True),
        ("FALSE", False),
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("12:30", "12:30"),
        ("12:30:45", "12:30:45"),
        ("2026-01-31", "2026-01-31"),
        ("1_000", "1_000"),
        ("0", 0),
        ("-17", -17),
        ("0x1F", 31),
        ("0o17", 15),
        ("9223372036854775807", 2**63 - 1),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("'010'", "010"),
        ('"true"', "true"),
        ("1.2.3", "1.2.3"),
        ("-", [None]),
        ("=", "="),
    ],
)
def test_a_plain_value_is_read_as_yaml_1_2_reads_it(source: str, value: Any) -> None:
    read_as = plain(f"a:\n  {source}\n")["a"]
    assert read_as == value and type(read_as) is type(value)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("010", "drop the zeros"),
        ("-007", "drop the zeros"),
        ("01.5", "drop the zeros"),
        ("9223372036854775808", "64 bits"),
        ("9" * 5_000, "64 bits"),
        (".inf", "JSON"),
        ("-.INF", "JSON"),
        (".nan", "JSON"),
        ("1e999", "too large"),
        ("!!python/object/apply:os.system ['id']", "Tags are not allowed"),
        ("!!int 3", 'remove "!!int"'),
        ("&a 3", "Anchors are not allowed"),
        ("*a", "Aliases are not allowed"),
        ('"a\\0b"', "U+0000"),
        ("{<<: {b: 1}}", "Merge keys"),
        ("{1: b}", 'write "1" in quotes'),
        ("{true: b}", "Keys must be text"),
        ("{null: b}", "Keys must be text"),
        ("{[x]: b}", "not a list"),
        ("{b: 1, b: 2}", "here already, on line 2"),
        ("{'{{ x }}': 1}", "not in keys"),
    ],
)
def test_what_is_ambiguous_or_dangerous_is_refused_where_it_stands(source: str, words: str) -> None:
    line, column, message = only_problem(f"first: 1\na: {source}")
    assert words in message
    assert line == 2 and column >= 4


def test_a_key_that_stands_twice_says_where_it_stood_first() -> None:
    assert only_problem("a: 1\nb: 2\n\na: 3\n") == (
        4,
        1,
        'The key "a" is here already, on line 1. Remove or rename one.',
    )


@pytest.mark.parametrize(
    "value",
    ["{{ payload.x }}", "{{payload.x}}/y", '{{ payload["x"] }}', "{{ steps['a'].b }} and {{ c }}", "{{ [1, 2] }}"],
)
def test_an_unquoted_placeholder_says_to_quote_it(value: str) -> None:
    line, column, message = only_problem(f"a: 1\nb: {value}\n")
    assert (line, column) == (2, 4)
    assert "must stand in quotes" in message


def test_after_an_unquoted_placeholder_the_other_errors_are_found_too() -> None:
    document = read("a: {{ x }}\nb: 010\nc: [{{ y }}, 1]\n")
    assert [(problem.line, problem.column, problem.path) for problem in document.problems] == [
        (1, 4, "a"),
        (2, 4, "b"),
        (3, 5, "c[0]"),
    ]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a:\n\t- b", 2, "not tabs"),
        ("a: b: c", 1, "quotes"),
        ("a: 1\nb: 'x", 2, "quote is not closed"),
        ("a:\n   b: 1\n  c: 2", 3, "indentation"),
        ("a: @x", 1, "quote texts"),
        ('a: "\\q"', 1, "backslash"),
        ("a: [1, 2", 2, "starts on line 1"),
    ],
)
def test_a_syntax_error_has_its_line_and_a_hint(text: str, line: int, words: str) -> None:
    found, _, message = only_problem(text)
    assert found == line
    assert words in message


def test_only_one_document_is_read() -> None:
    assert only_problem("a: 1\n---\nb: 2\n")[0] == 2


@pytest.mark.parametrize(
    ("text", "place"), [("a: 1\nb: \x00", (2, 4)), ("a\ud800", (1, 2)), ("é: \x1b", (1, 4)), ("a: 1\r\nb\x07", (2, 2))]
)
def test_characters_that_no_text_may_hold_are_named_with_their_place(text: str, place: tuple[int, int]) -> None:
    assert only_problem(text)[:2] == place


def test_depth_and_size_are_limited() -> None:
    assert plain("[" * 50 + "]" * 50) is not None
    assert "50 deep" in only_problem("[" * 51 + "]" * 51)[2]
    assert "50 deep" in only_problem("{" * 100_000)[2]
    assert "at most 262,144" in only_problem("x" * (MAX_BYTES + 1))[2]
    assert "at most 262,144" in only_problem("é" * (MAX_BYTES // 2 + 1))[2]


def test_a_byte_order_mark_and_a_directive_are_read_over() -> None:
    assert plain("\ufeff%YAML 1.2\n---\na: 1\n...\n") == {"a": 1}


def test_positions_count_characters_and_all_kinds_of_line_breaks() -> None:
    document = read("é: 'ü'\r\nb: [日本, x]\rc: |\n  one\n  two {{ x }}\n")
    assert document.root is not None
    root = document.root.value
    assert root["é"].mark == Mark(1, 4)
    assert root["b"].value[1].mark == Mark(2, 9)
    assert document.mark_inside(root["c"], "one\ntwo {{ x }}\n", 11) == Mark(5, 10)


@pytest.mark.parametrize(
    "piece",
    ["- a\n", "[[]],", "{a: ", "? ", "a: ", "&a ", "*a,", "{{x}},", "'", "\\", "\r", "!", "%", "--- ", "# x\n", "- - "],
)
def test_a_full_text_of_anything_is_read_in_linear_time(piece: str) -> None:
    text = (piece * MAX_BYTES)[: MAX_BYTES - 2]
    started = time.process_time()
    read("[" + text)
    read(text)
    assert time.process_time() - started < 5  # quadratic would be minutes


@settings(max_examples=400, deadline=None)
@given(
    st.one_of(
        st.text(max_size=300),
        st.lists(
            st.sampled_from(
                [
                    *"{}[]:,-?&*!|>'\"%@`#\n \t",
                    "{{",
                    "}}",
                    "a",
                    "0",
                    "organism:",
                    "listeners:",
                    "- name: a",
                    "\x00",
                    "é",
                ]
            ),
            max_size=60,
        ).map("".join),
    )
)
def test_no_text_makes_validation_raise(text: str) -> None:
    validation = validate(text)
    assert validation.valid is (validation.organism is not None)
    for problem in [*validation.errors, *validation.warnings]:
        assert problem.line >= 1 and problem.column >= 1 and problem.message
