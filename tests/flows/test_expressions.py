"""CEL, and the guards around it."""

import math
import threading
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.organism.expressions import MAX_SOURCE, CompileError, ExpressionError, compile_expression
from flows.organism.scope import Scope

pytestmark = pytest.mark.once

PAYLOAD = {
    "total": 3,
    "price": 1.5,
    "name": "Ada",
    "items": [{"id": 1, "tags": ["x"]}, {"id": 2, "tags": []}],
    "nothing": None,
    "a-b": {"c": 1},
}
SCOPE = {
    "payload": PAYLOAD,
    "trigger": {"type": "webhook"},
    "steps": {"fetch-order": {"body": 1}, "check": {"ok": True}},
    "flow": {},
    "execution": {},
    "vars": {"REGION": "eu"},
}


def evaluate(source: str, payload: Any = PAYLOAD) -> Any:
    return compile_expression(source).evaluate({**SCOPE, "payload": payload})


def failure(source: str, payload: Any = PAYLOAD) -> str:
    with pytest.raises(ExpressionError) as caught:
        evaluate(source, payload)
    assert (caught.value.code, caught.value.retryable) == ("expression_failed", False)
    return caught.value.message


def compile_failure(source: str) -> CompileError:
    with pytest.raises(CompileError) as caught:
        compile_expression(source)
    return caught.value


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("payload.total", 3),
        ("payload['a-b'].c", 1),
        ('steps["fetch-order"].body + 1', 2),
        ("payload.total == 3.0", True),
        ("double(payload.total) * payload.price", 4.5),
        ("payload.items.map(i, i.id)", [1, 2]),
        ("payload.items.filter(i, i.tags.size() > 0)[0].id", 1),
        ("payload.items[1].tags", []),
        ("payload.name.lowerAscii() + '!'", "ada!"),
        ("math.greatest(payload.total, 7)", 7),
        ("has(payload.missing) ? 1 : 2", 2),
        ("payload.?missing", None),
        ("payload.?name", "Ada"),
        ("payload.?missing.orValue('x')", "x"),
        ("payload.nothing == null", True),
        ("1u", 1),
        ("b'abc'", "YWJj"),
        ("timestamp('2026-01-02T03:04:05.5+01:00')", "2026-01-02T02:04:05.500000Z"),
        ("duration('90.5s')", "90.5s"),
        ("duration('-1.5s')", "-1.5s"),
        ("duration('2h')", "7200s"),
        ("type(1)", "int"),
        ("{1: 'a', 'k': timestamp(0)}", {"1": "a", "k": "1970-01-01T00:00:00Z"}),
        ('\'é\' + """a"b""" + r\'\\n\'', 'éa"b\\n'),
        ("true || payload.missing", True),
        ("[1, 2].map(payload, payload + 1)", [2, 3]),  # a loop variable hides a name of the scope
    ],
)
def test_an_expression_gives_plain_json(source: str, value: Any) -> None:
    result = evaluate(source)
    assert result == value and type(result) is type(value)


def test_keys_of_a_computed_object_are_in_order_and_of_a_path_as_they_came() -> None:
    assert list(evaluate("{'b': 1, 'c': 2, 'a': 3}")) == ["a", "b", "c"]
    assert list(evaluate("payload")) == list(PAYLOAD)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("payload.totl", 'payload.totl: the payload has no "totl"; did you mean "total"?'),
        ("payload.totl > 1", 'payload.totl > 1: the payload has no "totl"; did you mean "total"?'),
        ("payload.nothing.x", "payload.nothing.x: payload.nothing is null"),
        ("payload.total.x == 1", 'payload.total.x == 1: payload.total is a number and has no "x"'),
        ("payload.items[5].id", "payload.items[5].id: payload.items has 2 items, so there is no [5]; the first is [0]"),
        (
            "payload.items.map(i, i.idd)",
            'payload.items.map(i, i.idd): payload.items[0] has no "idd"; did you mean "id"?',
        ),
        ("steps.chek.ok", 'steps.chek.ok: no step "chek" has finished before this one; did you mean "check"?'),
        ("vars.REGIO", 'vars.REGIO: there is no variable "REGIO"; did you mean "REGION"?'),
        ("1 / 0", "1 / 0: divide by zero"),
        ("payload.nothing > 1", "null; test it with != null first"),
        (
            "payload.total + payload.price",
            "+ has no meaning for int and double; CEL does not mix numbers: write double(...) around the int",
        ),
        ("payload.name + payload.total", "write string(...) around the int"),
        ("payload.name && true", "takes only true and false"),
        ("payload.total ? 1 : 2", "must be true or false"),
        ("payload.total.map(x, x)", "go through a list or an object"),
        ("payload.name.matches('(')", "invalid regular expression"),
        ("int(payload.name)", "cannot convert string to int"),
        ("1.0 / 0.0", "not a number that JSON can hold"),
        ("double('nan')", "not a number that JSON can hold"),
        ("'a\\u0000b'", "U+0000"),
        ("[payload.?x]", "end it with .orValue(...)"),
        ("secrets.KEY", 'there is no "secrets" in scope here'),
    ],
)
def test_a_failure_names_the_expression_and_what_is_missing(source: str, message: str) -> None:
    assert message in failure(source)
    assert failure(source).startswith(source)


@pytest.mark.parametrize(
    ("source", "offset", "words"),
    [
        ("steps.fetch-order.body", 0, 'write steps["fetch-order"]'),
        ("1 + payload.a-b", 4, 'write payload["a-b"]'),
        (
            "1 + payloda.total",
            4,
            'There is no "payloda" here; did you mean "payload"? In scope are payload, trigger, steps',
        ),
        ("1 + len(payload.name)", 4, 'did you mean "size"?'),
        ("payload.total +", 15, "it ends too early"),
        ("payload.total = 1", 14, "compare with =="),
        ("payload.a and payload.b", 10, "write && for and"),
        ("'a' + 1", 4, "write string(...) around the int"),
        ("{{ payload.x }}", 0, "without {{ }}"),
        ("1 +\n  nope", 6, 'There is no "nope"'),
        ("  ", 0, "empty"),
        ("a\0b", 1, "U+0000"),
        ("'\ud800'", 1, "U+D800"),
        ("1" + "+1" * 40, 0, "more than 32 deep"),
        ("(" * 100 + "1" + ")" * 100, 0, "more than 32 deep"),
        ("[1].map(x, " * 17 + "x" + ")" * 17, 0, "too deeply"),
        ("1" * (MAX_SOURCE + 1), 0, "at most 4,096"),
        ("9223372036854775808", 0, "int literal"),
    ],
)
def test_what_is_not_cel_is_an_error_with_its_place_and_a_way_out(source: str, offset: int, words: str) -> None:
    error = compile_failure(source)
    assert words in error.message
    assert error.offset == offset


def test_values_that_cel_cannot_take_are_replaced_and_reported() -> None:
    scope = Scope({"payload": {"big": 2**70, "cut": "a\0b", "half": ["x\ud800"], "fine": 1}})
    assert compile_expression("payload.cut + payload.half[0]").evaluate(scope) == "a\ufffdbx\ufffd"
    assert compile_expression("payload.big > 1.0").evaluate(scope) is True
    assert [line.partition(":")[0] for line in scope.replaced] == ["payload.cut", "payload.half[0]", "payload.big"]


def test_nothing_is_replaced_where_a_path_reads_the_value_as_it_is() -> None:
    scope = Scope({"payload": {"big": 2**70, "cut": "a\0b"}})
    assert compile_expression("payload").evaluate(scope) == {"big": 2**70, "cut": "a\0b"}
    assert compile_expression("payload.big").evaluate(scope) == 2**70
    assert scope.replaced == []


def test_what_an_expression_does_not_name_does_not_matter_to_it() -> None:
    scope = Scope({"payload": {"total": 1, "big": 2**70}, "steps": {"huge": {"x": ["\0"] * 1000}}})
    assert compile_expression("payload.total + 1").evaluate(scope) == 2
    assert scope.replaced == []


@pytest.mark.parametrize(
    "loop", ["map(i, i)", "filter(i, true)", "all(i, true)", "exists(i, false)", "exists_one(i, i == 1)"]
)
def test_a_loop_takes_2000_items_and_says_where_more_belong(loop: str) -> None:
    evaluate(f"payload.{loop}", list(range(2_000)))
    assert "a loop over up to 2,001 items" in failure(f"payload.{loop}", list(range(2_001)))
    assert "blox.for_each" in failure(f"payload.{loop}", list(range(2_001)))


@pytest.mark.parametrize(
    ("source", "payload"),
    [
        ("payload.replace('a', payload)", "a" * 1_000_000),
        ("'aaaaaaaaaa'" + ".replace('a', 'aaaaaaaaaa')" * 25, None),
        ("[payload]" + ".map(x, x + x)" * 25, "a" * 100),
        ("[payload]" + ".map(x, [x, x])" * 25, "a"),
        ("payload.split('').join(payload)", "ab" * 100_000),
        ("payload.map(x, x).map(x, x).map(x, x)", list(range(2_000))),
        ("[1, 2, 3].map(i, payload.map(x, x)).size()", list(range(2_000))),
        ("payload.all(x, payload == payload)", ["x" * 1_000] * 1_000),
        ("payload.all(x, x in payload)", [[i] * 500 for i in range(500)]),
        ("payload.matches('((a?){30}){30}b')", "a" * 100_000),
        ("payload.matches(payload)", "a{1000}" * 1_000),
        ("'%s'.format([payload]) + '%.1000f'.format([1.0])", {"x": ["y" * 1_000] * 100_000}),
    ],
)
def test_what_could_take_too_long_or_too_much_memory_is_refused_before_it_starts(source: str, payload: Any) -> None:
    assert "too much work for one expression" in failure(source, payload)


def test_nested_loops_are_bounded_as_a_whole() -> None:
    assert evaluate("payload.map(x, payload.map(y, x * y).size()).size()", list(range(90))) == 90
    assert "10,000 rounds" in failure("payload.all(x, payload.all(y, x + y >= 0))", list(range(200)))


def test_ordinary_work_on_large_data_is_not_refused() -> None:
    orders = [{"id": i, "note": "x" * 200, "lines": [{"price": 1.5}] * 5} for i in range(1_500)]
    assert len(evaluate("payload.filter(o, o.id % 2 == 0).map(o, o.id)", orders)) == 750
    assert evaluate("payload.map(o, o.lines.size())", orders)[0] == 5
    assert evaluate("payload.text.split(' ').map(w, w.upperAscii()).join('-').size()", {"text": "ab " * 1_000}) == 3_000
    assert (
        evaluate(
            "payload.ids.filter(i, i in payload.known).size()", {"ids": ["a1", "b2"] * 700, "known": ["b2"] * 1_000}
        )
        == 700
    )
    text = "one,two \r\n" * 1_500
    pieces = "payload.trim().replace('\\r', '').split('\\n').map(line, line.split(',')[0].trim())"
    assert evaluate(f"{pieces}.size()", text) == 1_500


def test_a_result_of_more_than_256_kib_of_text_is_refused_but_a_path_reads_any_size() -> None:
    assert "256 KiB" in failure("payload + 'x'", "a" * 262_144)
    assert len(evaluate("payload", "a" * 1_000_000)) == 1_000_000


def test_one_expression_serves_many_threads() -> None:
    expression = compile_expression("payload.n * 2 + payload.items.map(i, i + payload.n).size()")
    wrong: list[int] = []

    def work(start: int) -> None:
        for n in range(start, start + 300):
            if expression.evaluate({"payload": {"n": n, "items": [1, 2, 3]}}) != n * 2 + 3:
                wrong.append(n)

    threads = [threading.Thread(target=work, args=(start,)) for start in range(0, 2_400, 300)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)
TOKENS = (
    "payload | steps | .x | .total | [0] | ['a'] | ( | ) | + | - | * | / | % | == | < | && | ! | ? | : | 1 | 1.5 | 'a' | b'a'"
    " | 2u | [ | ] | { | } | , | .map(i, | .filter(i, | .all(i, | i | has( | size( | string( | .replace('a', 'bb') | .split('')"
    " | .matches('a+') | .join(',') | timestamp( | duration( | .?x | .orValue(1) | null"
).split(" | ")


@settings(max_examples=600, deadline=None)
@given(st.one_of(st.lists(st.sampled_from(TOKENS), max_size=14).map("".join), st.text(max_size=60)), JSON_VALUES)
def test_any_text_on_any_data_gives_json_or_an_error_of_ours(source: str, payload: Any) -> None:
    try:
        result = compile_expression(source).evaluate({**SCOPE, "payload": payload})
    except (CompileError, ExpressionError):
        return
    assert is_json(result)


@settings(max_examples=200, deadline=None)
@given(JSON_VALUES)
def test_a_value_comes_back_from_cel_as_it_went_in_but_for_what_is_replaced(payload: Any) -> None:
    scope = Scope({"payload": payload})
    result = compile_expression("[payload][0]").evaluate(scope)
    assert scope.replaced or result == payload


def is_json(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and is_json(child) for key, child in value.items())
    if isinstance(value, list):
        return all(map(is_json, value))
    return value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value))
