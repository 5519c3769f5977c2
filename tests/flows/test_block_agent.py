"""`blox.agent`: turn, tool calls, their results, until there is an answer."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from flows.blocks.agent import Agent
from flows.blocks.base import Answer as PersonsAnswer
from flows.blocks.base import BlockError, PeerTool
from llm.exchange import Answer, AssistantMessage, ToolResult, UserMessage
from tests.flows.fakes import FakeContext, calls, run_block, said

pytestmark = pytest.mark.once

ADD = PeerTool(
    "add",
    "Adds",
    {"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "number"}}, "required": ["a", "b"]},
)
FIND = PeerTool("find", "Finds", {"type": "object"})
SCHEMA = {"type": "object", "properties": {"sum": {"type": "number"}}, "required": ["sum"]}


async def work(peer: str, payload: Any) -> Any:
    if peer == "add":
        return payload["a"] + payload["b"]
    if payload.get("fail"):
        raise BlockError(f"{peer}: the shop is closed", code="closed")
    return {"found": payload}


class Agents:
    """Runs of one agent that share a journal, as attempts do."""

    def __init__(self, call: Callable[[str, Any], Awaitable[Any]] = work, **context: Any) -> None:
        self.called: list[tuple[str, Any]] = []
        self.journal: dict[str, Any] = {}
        self._call, self._context = call, context

    async def call(self, peer: str, payload: Any) -> Any:
        self.called.append((peer, payload))
        return await self._call(peer, payload)

    def run(self, *answers: Answer | BlockError, payload: Any = "Go", **config: Any) -> Any:
        context = {"peers": ("add", "find"), "tools": (ADD, FIND), **self._context}
        self.ctx = FakeContext(call=self.call, answers=answers, journal=self.journal, **context)
        return run_block(Agent(), {"model": "openai:gpt-5", **config}, payload, self.ctx)

    def failure(self, *answers: Answer | BlockError, **config: Any) -> BlockError:
        with pytest.raises(BlockError) as caught:
            self.run(*answers, **config)
        return caught.value

    def results(self, turn: int) -> list[tuple[str, bool]]:
        """What the model was told of its calls, when it was asked for the turn."""
        messages = self.ctx.requests[turn - 1].messages
        return [(each.content, each.is_error) for each in messages if isinstance(each, ToolResult)]


def test_the_model_gets_instructions_payload_and_tools() -> None:
    agents = Agents()
    assert agents.run(said("Done"), prompt="Be kind.", payload={"order": 7}) == "Done"
    [request] = agents.ctx.requests
    assert (request.system, request.messages) == ("Be kind.", (UserMessage('{"order":7}'),))
    assert [(tool.name, tool.description, tool.input_schema) for tool in request.tools] == [
        ("add", "Adds", ADD.input_schema),
        ("find", "Finds", FIND.input_schema),
    ]


def test_results_go_back_in_the_order_of_the_calls() -> None:
    agents = Agents()
    asked = calls(("add", {"a": 1, "b": 2}), ("find", {"q": "x"}))
    assert agents.run(asked, said("3")) == "3"
    assert agents.ctx.requests[1].messages == (
        UserMessage("Go"),
        AssistantMessage("", asked.calls),
        ToolResult("call-1", "add", "3"),
        ToolResult("call-2", "find", '{"found":{"q":"x"}}'),
    )


def test_calls_of_a_turn_run_at_once() -> None:
    both = asyncio.Barrier(2)

    async def meet(peer: str, payload: Any) -> Any:
        async with asyncio.timeout(5):
            await both.wait()
        return peer

    agents = Agents(meet)
    agents.run(calls(("find", {"n": 1}), ("find", {"n": 2})), said("ok"))
    assert [content for content, _ in agents.results(2)] == ["find", "find"]


@pytest.mark.parametrize(
    ("name", "arguments", "part"),
    [
        ("fly", {}, "There is no tool 'fly'. The tools are add, find."),
        ("add", {"a": 1}, "'b' is a required property"),
        ("add", '{"a": 1,', "no JSON object"),
    ],
)
def test_a_call_that_cannot_be_made_is_an_error_result(name: str, arguments: Any, part: str) -> None:
    agents = Agents()
    assert agents.run(calls((name, arguments)), said("Sorry")) == "Sorry"
    [(content, is_error)] = agents.results(2)
    assert part in content
    assert is_error
    assert agents.called == []


def test_a_tools_failure_is_an_error_result() -> None:
    agents = Agents()
    agents.run(calls(("find", {"fail": True})), said("Closed"))
    assert agents.results(2) == [("find: the shop is closed", True)]


def test_a_tool_that_wants_no_object_gets_its_value() -> None:
    schema = {"type": "object", "properties": {"input": {"type": "array"}}, "required": ["input"]}
    agents = Agents(tools=(PeerTool("find", "Finds", schema, wraps=True),), peers=("find",))

    async def count(peer: str, payload: Any) -> Any:
        return len(payload)

    agents._call = count
    agents.run(calls(("find", {"input": [1, 2]})), said("two"))
    assert agents.results(2) == [("2", False)]


def test_a_long_result_is_cut_and_says_so() -> None:
    async def long(peer: str, payload: Any) -> Any:
        return "x" * 70_000

    agents = Agents(long)
    agents.run(calls(("find", {})), said("ok"))
    [(content, _)] = agents.results(2)
    assert content.endswith("[The result goes on: 4,464 more characters were left out.]")


# Attempts. -------------------------------------------------------------------------------------------------------
def test_a_later_attempt_has_the_same_conversation_and_repeats_nothing() -> None:
    agents = Agents()
    asked = calls(("find", {"fail": True}), ("add", {"a": 1, "b": 1}))
    agents.failure(asked, BlockError("overloaded"))
    first = agents.ctx.requests[1]

    async def opened(peer: str, payload: Any) -> Any:
        return "open now"

    agents._call = opened
    made = list(agents.called)
    assert agents.run(said("ok")) == "ok"
    assert agents.ctx.requests == [first]
    assert agents.called == made


# Limits. ---------------------------------------------------------------------------------------------------------
def test_the_turns_are_limited_and_the_last_calls_are_not_made() -> None:
    agents = Agents()
    error = agents.failure(calls(("find", {"n": 1})), calls(("find", {"n": 2})), max_turns=2)
    assert (error.code, error.retryable) == ("too_many_turns", False)
    assert "within 2 turns; it wanted to call find" in error.message
    assert agents.called == [("find", {"n": 1})]


def test_the_tokens_of_all_turns_are_limited() -> None:
    agents = Agents()
    error = agents.failure(calls(("find", {"n": 1}), tokens=30), calls(("find", {"n": 2}), tokens=30), max_tokens=100)
    assert (error.code, error.retryable) == ("token_limit", False)
    assert "120 tokens in 2 turns; max_tokens is 100" in error.message
    assert [request.max_tokens for request in agents.ctx.requests] == [100, 40]


@pytest.mark.parametrize(
    ("model", "limits", "bounds"),
    [
        ("openai:gpt-5", {"max_tokens": 5_000}, [4_096, 4_096]),
        ("openai:gpt-5", {"max_tokens": 500_000}, [None, None]),  # more than it can say
        ("openai:gpt-4o", {"max_tokens": 20_000}, [None, None]),
        ("acme:m", {"max_tokens": 5_000}, [None, None]),  # what it lets an answer be bounded to is not known
        ("acme:m", {"max_tokens": 4_000}, [4_000, 3_980]),
        ("openai:gpt-5", {"max_cost": "0.05"}, [4_096, 3_896]),  # 10 dollars a million
        ("openai:gpt-5", {"max_cost": "0.05", "max_tokens": 900}, [900, 880]),
        ("acme:m", {"max_cost": "0.05"}, [None, None]),
    ],
)
def test_an_answer_is_bounded_by_what_the_limits_leave(
    model: str, limits: dict[str, Any], bounds: list[int | None]
) -> None:
    agents = Agents(tools=(FIND,))
    agents.run(calls(("find", {}), cost="0.011"), said("ok"), model=model, **limits)
    told = [request.max_tokens for request in agents.ctx.requests]
    assert [each is None for each in told] == [each is None for each in bounds]
    assert all(abs(each - bound) <= 20 for each, bound in zip(told, bounds, strict=True) if each and bound)


def test_a_turn_that_the_rest_of_the_money_cannot_pay_is_not_asked_for() -> None:
    agents = Agents()
    error = agents.failure(max_cost="0.000001", payload="word " * 1_000)
    assert (error.code, error.retryable) == ("cost_limit", False)
    assert agents.ctx.requests == []


def test_an_answer_cut_by_what_the_money_leaves_is_the_limits_doing() -> None:
    assert Agents().failure(said("Once", stop="length"), max_cost="0.01").code == "cost_limit"


def test_an_answer_cut_by_what_is_left_of_the_tokens_is_the_limits_doing() -> None:
    assert Agents().failure(said("Once", stop="length"), max_tokens=100).code == "token_limit"
    assert Agents().failure(said("Once", stop="length")).code == "answer_cut"


def test_an_answer_that_reaches_the_limit_is_still_an_answer() -> None:
    assert Agents().run(said("Done", tokens=500, cost="9"), max_tokens=100, max_cost=1) == "Done"


def test_the_cost_is_limited() -> None:
    error = Agents().failure(calls(("find", {}), cost="0.6"), calls(("find", {"n": 1}), cost="0.6"), max_cost="1.00")
    assert (error.code, error.retryable) == ("cost_limit", False)
    assert "$1.2000 in 2 turns; max_cost is $1.00" in error.message


def test_an_unknown_price_is_not_taken_as_nothing() -> None:
    error = Agents().failure(calls(("find", {}), cost=None), max_cost=1)
    assert error.code == "cost_unknown"
    assert "max_tokens instead" in error.message
    assert Agents().run(calls(("find", {}), cost=None, cached="exact"), said("ok"), max_cost=1) == "ok"
    assert Agents().run(calls(("find", {}), cost=None), said("ok")) == "ok"


def test_the_same_call_again_is_warned_of_at_the_third_and_ends_it_at_the_fifth() -> None:
    agents = Agents()
    same = [calls(("find", {"a": 1, "b": 2})), calls(("find", {"b": 2, "a": 1}))]
    error = agents.failure(*same, *same, *same)
    assert (error.code, error.retryable) == ("repeated_call", False)
    assert len(agents.called) == 4
    warned = ["made" in content for content, _ in agents.results(5)]
    assert warned == [False, False, True, True]


def test_other_arguments_are_another_call() -> None:
    agents = Agents()
    turns = [calls(("find", {"n": n})) for n in range(8)]
    assert agents.run(*turns, said("ok")) == "ok"
    assert not any("made" in content for content, _ in agents.results(9))


def test_calls_beyond_what_a_turn_may_make_are_said_not_to_have_been_made() -> None:
    agents = Agents()
    agents.run(calls(*[("find", {"n": n}) for n in range(102)]), said("ok"))
    assert len(agents.called) == 100
    assert [is_error for _, is_error in agents.results(2)] == [False] * 100 + [True] * 2


# The answer. -----------------------------------------------------------------------------------------------------
def test_the_answer_fits_the_schema_after_one_repair() -> None:
    agents = Agents()
    assert agents.run(said("three"), said('{"sum": 3}'), schema=SCHEMA) == {"sum": 3}
    repair = agents.ctx.requests[1].messages[-1]
    assert isinstance(repair, UserMessage)
    assert "does not fit the JSON Schema" in repair.text


def test_one_repair_is_all() -> None:
    error = Agents().failure(said("three"), said("{}"), schema=SCHEMA)
    assert (error.code, error.retryable) == ("answer_does_not_fit", False)


# A person. -------------------------------------------------------------------------------------------------------
def test_a_tool_to_be_approved_is_called_after_a_yes() -> None:
    agents = Agents()
    agents.run(calls(("add", {"a": 1, "b": 2}), ("find", {})), said("ok"), approve=["add"])
    assert agents.ctx.questions == ['The agent under_test wants to call add with {"a": 1, "b": 2}']
    assert agents.results(2)[0] == ("3", False)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (PersonsAnswer(False, "ann", "too dear"), "A person refused this call: too dear"),
        (PersonsAnswer(False, "ann"), "A person refused this call."),
        (PersonsAnswer(False, "timeout"), "Nobody answered in time whether this call may be made, so it was not made."),
    ],
)
def test_a_refused_call_is_an_error_result_and_is_not_made(answer: PersonsAnswer, told: str) -> None:
    agents = Agents(person=lambda message: answer)
    agents.run(calls(("add", {"a": 1, "b": 2})), said("Then not"), approve=["add"])
    assert agents.results(2) == [(told, True)]
    assert agents.called == []


def test_nobody_is_asked_about_a_call_that_cannot_be_made() -> None:
    agents = Agents()
    agents.run(calls(("add", {"a": "x"})), said("ok"), approve=["add"])
    assert agents.ctx.questions == []
