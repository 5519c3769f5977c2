"""Blocks that only make or choose values: transform, calculate, branch, merge, output, fail, log, respond."""

from typing import Any

import pytest
from pydantic import ValidationError

from flows.blocks import get_block
from flows.blocks.base import Arrival, BlockError, Output
from tests.flows.fakes import FakeContext, Known, run_block

pytestmark = pytest.mark.once


def block(name: str) -> Any:
    found = get_block(f"blox.{name}")
    assert found is not None
    return found


def refusal(name: str, config: dict[str, Any], payload: Any = None) -> BlockError:
    with pytest.raises(BlockError) as caught:
        run_block(block(name), config, payload)
    return caught.value


# transform, output. ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("value", [None, False, 0, "", [1, {"userID": [None]}], {"": 1}])
def test_transform_gives_its_value_as_it_is(value: Any) -> None:
    assert run_block(block("transform"), {"value": value}, {"other": 1}) == value


def test_transform_needs_a_value() -> None:
    with pytest.raises(ValidationError, match="value"):
        run_block(block("transform"), {})


def test_output_gives_the_payload_when_it_has_no_value() -> None:
    assert run_block(block("output"), {}, {"a": 1}) == {"a": 1}


def test_output_gives_null_when_its_value_is_null() -> None:
    assert run_block(block("output"), {"value": None}, {"a": 1}) is None


# branch. ---------------------------------------------------------------------------------------------------------
def test_branch_takes_the_first_true_case_and_asks_no_further() -> None:
    conditions = [Known(False), Known(True), Known(True)]
    cases = [{"when": when, "to": to} for when, to in zip(conditions, ("a", "b", "c"), strict=True)]

    assert run_block(block("branch"), {"cases": cases, "otherwise": "d"}, {"n": 1}) == Output({"n": 1}, to=("b",))
    assert [condition.asked for condition in conditions] == [1, 1, 0]


def test_branch_takes_every_true_case_in_mode_all_and_each_peer_once() -> None:
    cases = [{"when": Known(value), "to": to} for value, to in ((True, "a"), (False, "b"), (True, "c"), (True, "a"))]

    assert run_block(block("branch"), {"cases": cases, "mode": "all", "otherwise": "d"}, 1) == Output(1, to=("a", "c"))


def test_branch_takes_otherwise_when_nothing_holds() -> None:
    config = {"cases": [{"when": Known(False), "to": "a"}], "otherwise": "b"}
    assert run_block(block("branch"), config, 1) == Output(1, to=("b",))


def test_branch_goes_nowhere_when_nothing_holds_and_there_is_no_otherwise() -> None:
    assert run_block(block("branch"), {"cases": [{"when": Known(False), "to": "a"}]}, 1) == Output(1, to=())


@pytest.mark.parametrize(("value", "kind"), [(1, "a number"), ("true", "a text"), (None, "null"), ([], "a list")])
def test_branch_says_what_came_instead_of_true_or_false(value: Any, kind: str) -> None:
    error = refusal("branch", {"cases": [{"when": Known(False), "to": "a"}, {"when": Known(value), "to": "b"}]})
    assert (error.code, error.retryable) == ("condition_not_boolean", False)
    assert error.message.startswith(f"cases[1].when gave {kind}, where true or false is needed.")


def test_branch_never_evaluates_an_expression_that_came_as_data() -> None:
    error = refusal("branch", {"cases": [{"when": "true", "to": "a"}]})
    assert (error.code, error.retryable) == ("condition_not_compiled", False)


def test_branch_wants_an_expression_as_a_text() -> None:
    with pytest.raises(ValidationError, match="must be a CEL expression, written as a text"):
        run_block(block("branch"), {"cases": [{"when": True, "to": "a"}]})


def test_branch_names_each_peer_and_where_it_stands() -> None:
    config = {"cases": [{"when": "x", "to": "a"}, {"when": "y", "to": 3}, "odd"], "otherwise": "b"}
    assert block("branch").named_peers(config) == [(("cases", 0, "to"), "a"), (("otherwise",), "b")]
    assert block("branch").named_peers({"cases": "odd"}) == []


# merge. ----------------------------------------------------------------------------------------------------------
ARRIVALS = [Arrival("b", 1), Arrival("a", None), Arrival("b", {"x": 2})]


def test_merge_gives_what_arrived_in_order_of_arrival() -> None:
    assert run_block(block("merge"), {}, ARRIVALS) == [1, None, {"x": 2}]


def test_merge_gives_what_arrived_by_sender() -> None:
    assert run_block(block("merge"), {"as": "object"}, ARRIVALS) == {"b": [1, {"x": 2}], "a": None}


def test_only_merge_is_a_merge() -> None:
    assert block("merge").is_merge() is True
    assert block("transform").is_merge() is False


# calculate. ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("2 + 2", 4),
        ("1 + 2 * 3", 7),
        ("(1 + 2) * 3", 9),
        ("2 ** 3 ** 2", 512),
        ("-2 ** 2", -4),
        ("7 / 2", 3.5),
        ("6 / 2", 3),
        ("-7 % 3", 2),
        ("0.1 + 0.2", 0.30000000000000004),
        ("9007199254740993", 9007199254740992),
        ("2 ** 60", 2.0**60),
        ("1e3", 1000),
        ("  sqrt(16) ", 4),
        ("round(2.5)", 3),
        ("round(-2.5)", -3),
        ("round(2.675, 2)", 2.68),
        ("round(1234, -2)", 1200),
        ("max(1, 3, 2) - min(4)", -1),
        ("sum(0.1, 0.2, 0.3)", 0.6),
        ("floor(-1.5) + ceil(1.2) + trunc(-1.7) + abs(-3)", 2),
        ("log(8, 2) + log10(100) + log2(4) + log(e)", 8),
        ("sin(pi / 2) + cos(0) + degrees(tau)", 362),
        ("cbrt(27) + hypot(3, 4) + pow(2, 5)", 40),
        ("+".join(["1"] * 150), 150),
    ],
)
def test_calculate_gives_the_value(expression: str, value: float) -> None:
    result = run_block(block("calculate"), {"expression": expression})
    assert result == value
    assert isinstance(result, int) == (float(value).is_integer() and abs(value) <= 2**53)


def test_calculate_reads_the_payload_when_it_has_no_expression() -> None:
    assert run_block(block("calculate"), {}, {"expression": "6 * 7"}) == 42


def test_calculate_takes_a_number_for_an_expression() -> None:
    assert run_block(block("calculate"), {"expression": 4.5}) == 4.5


@pytest.mark.parametrize(
    ("expression", "complaint"),
    [
        ("1 / 0", "1 / 0 divides by zero."),
        ("5 % 0", "5 % 0 divides by zero."),
        ("0 ** -1", "0 ** -1 divides by zero."),
        ("9 ** 9 ** 9", "9 ** 9 ** 9 is too large for a double."),
        ("1e400", "1e400 is too large for a double."),
        ("1" * 400, "is too large for a double."),
        ("1e308 * 10", "1e308 * 10 is too large for a double."),
        ("exp(1000)", "exp(1000) is too large for a double."),
        ("sqrt(-1)", "sqrt(-1) has no real value."),
        ("(-8) ** 0.5", "(-8) ** 0.5 has no real value."),
        ("log(0)", "log(0) has no real value."),
        ("round(1, 99)", "round(1, 99) has no real value."),
        ("sqrt(1, 2)", "sqrt(1, 2) has the wrong number of arguments."),
        ("max()", "max() has the wrong number of arguments."),
        ("2 ^ 3", "2 ^ 3: ^ is not an operator here; a power is written **."),
        ("x + 1", "x is not known; the constants are pi, e, tau."),
        ("sqroot(4)", "sqroot is not known; the functions are abs, acos,"),
        ("", " is not an arithmetic expression."),
        ("1 +", "1 + is not an arithmetic expression."),
        ("2; 3", "2; 3 is not an arithmetic expression."),
        ("\0", "is not an arithmetic expression."),
        ("\ud800", "is not an arithmetic expression."),
        ("(" * 300 + "1" + ")" * 300, "is not an arithmetic expression."),
        ("-" * 500 + "1", "The expression is nested more than 200 deep."),
        ("1 + " * 240 + "1", "The expression is nested more than 200 deep."),
        ("1" * 1001, "The expression has 1,001 characters; at most 1,000 are read."),
    ],
)
def test_calculate_says_what_is_wrong(expression: str, complaint: str) -> None:
    error = refusal("calculate", {"expression": expression})
    assert complaint in error.message
    assert (error.code, error.retryable) == ("invalid_expression", False)


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os').system('true')",
        "().__class__",
        "pi.__class__",
        "[1][0]",
        "'a' * 10",
        "lambda: 1",
        "1 if 1 else 2",
        "1 < 2",
        "True",
        "None",
        "1j",
        "not 1",
        "~1",
        "1 // 2",
        "1 << 9999999",
        "{1}",
        "f'{1}'",
        "(x := 1)",
        "max(*[1])",
        "log(x=8)",
        "abs(abs)",
        "pi(1)",
        "sqrt",
        "...",
        "b'a'",
    ],
)
def test_calculate_works_out_nothing_but_arithmetic(expression: str) -> None:
    assert refusal("calculate", {"expression": expression}).code == "invalid_expression"


@pytest.mark.parametrize(
    "payload", [None, {}, {"expression": None}, {"expression": True}, {"expression": [1]}, "1 + 1"]
)
def test_calculate_says_when_there_is_no_expression(payload: Any) -> None:
    assert "There is no expression" in refusal("calculate", {}, payload).message


# fail, log. ------------------------------------------------------------------------------------------------------
def test_fail_fails_with_its_message_and_is_not_tried_again() -> None:
    error = refusal("fail", {"message": "out of stock"})
    assert (error.message, error.code, error.retryable) == ("out of stock", "failed_by_flow", False)


def test_fail_shows_a_value_as_json() -> None:
    assert refusal("fail", {"message": {"left": None}}).message == '{"left": null}'


def test_log_writes_one_line_and_passes_the_payload_on() -> None:
    ctx = FakeContext()
    config = {"message": "a\n2026-01-01 ERROR forged\x1b[31m\u2028é", "level": "warning"}
    assert run_block(block("log"), config, {"a": 1}, ctx) == {"a": 1}
    assert ctx.lines == [("warning", "a\\n2026-01-01 ERROR forged\\x1b[31m\\u2028é")]


def test_log_writes_a_value_as_json_and_cuts_a_long_one() -> None:
    ctx = FakeContext()
    run_block(block("log"), {"message": {"a": "x" * 20_000}}, None, ctx)
    [(level, message)] = ctx.lines
    assert (level, len(message), message[:6]) == ("info", 10_000, '{"a": ')


# respond. --------------------------------------------------------------------------------------------------------
def test_respond_shapes_the_answer_and_passes_the_payload_on() -> None:
    ctx = FakeContext()
    config = {"status": 201, "headers": {"Location": "/orders/1", "X-Count": 3}, "body": None}
    assert run_block(block("respond"), config, {"a": 1}, ctx) == {"a": 1}
    assert ctx.responses == [(201, {"Location": "/orders/1", "X-Count": "3"}, None)]


def test_respond_answers_200_with_the_payload_when_nothing_else_is_said() -> None:
    ctx = FakeContext()
    run_block(block("respond"), {}, {"a": 1}, ctx)
    assert ctx.responses == [(200, {}, {"a": 1})]


@pytest.mark.parametrize(
    "config",
    [
        {"status": 199},
        {"status": 600},
        {"status": "ok"},
        {"headers": {"X-A": "1\r\nSet-Cookie: a=b"}},
        {"headers": {"X-A\r\nX-B": "1"}},
        {"headers": {"X-A": "€"}},
        {"headers": {"Set-Cookie": "a=b"}},
        {"headers": {"set-cookie": "a=b"}},
        {"headers": {"Transfer-Encoding": "chunked"}},
        {"headers": {"Connection": "close"}},
        {"headers": {"Content-Length": "1"}},
        {"headers": {"Access-Control-Allow-Origin": "*"}},
        {"header": {}},
    ],
)
def test_respond_refuses_what_would_break_or_forge_the_answer(config: dict[str, Any]) -> None:
    ctx = FakeContext()
    with pytest.raises(ValidationError):
        run_block(block("respond"), config, None, ctx)
    assert ctx.responses == []
