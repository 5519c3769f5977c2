"""How an agent comes to its answer: turn, tool calls, their results, the next turn.

All that it learns is journalled at positions that do not depend on what ends first: turn 3 at `t3`, the second call of
its answer at `t3.2` (and a person's leave for it at `t3.2a`), so that an agent that runs again meets the same
conversation, failed calls included, and asks and pays for none of it again.
"""

import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING

from flows.blocks.asking import AnswerDoesNotFit, check_stop, fitting, given_up, repair_turn, user_text, value_of
from flows.blocks.base import JSON, BlockError, Context, PeerTool
from flows.blocks.parallel import in_parallel
from flows.json_schemas import misfit
from flows.organism.templates import as_text
from llm.exchange import Answer, AssistantMessage, Message, Request, Tool, ToolCall, ToolResult, UserMessage

if TYPE_CHECKING:
    from flows.blocks.agent import AgentConfig

AT_ONCE = 10  # calls of one turn that are under way together
MAX_CALLS = 100  # of one turn
WARNED_AT, ENDED_AT = 3, 5  # the same call, with the same arguments
MAX_RESULT = 64 * 1024  # characters of a tool's result that the model is given
MAX_ASKED = 5_000  # characters of the arguments that a person is shown
# An answer is bounded by what is left of `max_tokens` once that is little: more than this, some models refuse as too much.
LEAST_BOUND = 4_096
APPROVAL_WAIT = timedelta(days=7)


_TOO_MANY = f"This was not called: one turn may ask for {MAX_CALLS} calls. Ask again in the next."


class Conversation:
    """One run of an agent, in one attempt. `run` gives the final answer, or raises `BlockError`."""

    def __init__(self, ctx: Context, config: "AgentConfig", payload: JSON) -> None:
        self._ctx = ctx
        self._config = config
        self._asked = user_text(payload)
        self._tools = {tool.name: tool for tool in ctx.tools}
        self._messages: list[Message] = []
        self._turns = 0
        self._tokens = 0
        self._cost = Decimal(0)
        self._made: Counter[tuple[str, str]] = Counter()  # calls, by name and arguments

    async def run(self) -> JSON:
        self._messages = [*await self._remembered(), UserMessage(self._asked)]
        may_repair = True
        while True:
            answer = await self._turn()
            if answer.calls:
                self._check_limits(answer)
                self._messages += [answer.message, *await self._results(answer.calls)]
                continue
            try:
                value = value_of(answer, self._config.schema_)
            except AnswerDoesNotFit as problem:
                if not may_repair:
                    raise given_up(problem) from None
                may_repair = False
                self._check_limits(answer)
                self._messages += repair_turn(answer, problem)
            else:
                await self._remember(answer.text)
                return value

    # Turns. -------------------------------------------------------------------------------------------------------

    async def _turn(self) -> Answer:
        self._turns += 1
        request = self._request()
        answer = await self._ctx.ask_model(request, position=f"t{self._turns}")
        self._tokens += answer.usage.tokens_in + answer.usage.tokens_out
        self._add_cost(answer)
        if answer.stop == "length" and request.max_tokens is not None:
            raise self._token_limit()
        check_stop(answer)
        return answer

    def _request(self) -> Request:
        config = self._config
        left = LEAST_BOUND if config.max_tokens is None else config.max_tokens - self._tokens
        return Request(
            model=config.model,
            messages=tuple(self._messages),
            system=config.prompt,
            tools=tuple(Tool(tool.name, tool.description, tool.input_schema) for tool in self._ctx.tools),
            schema=config.schema_,
            fits=fitting(config.schema_),
            temperature=config.temperature,
            max_tokens=left if left < LEAST_BOUND else None,
            fallback=tuple(config.fallback),
            **config.cache_options(),
        )

    def _add_cost(self, answer: Answer) -> None:
        if answer.cost is not None:
            self._cost += answer.cost
        elif self._config.max_cost is not None and not answer.cached:
            raise _limit(
                "cost_unknown",
                f"max_cost cannot be kept: the price of {answer.model or self._config.model} is not known here. "
                "Bound the agent by max_tokens instead.",
            )

    def _check_limits(self, answer: Answer) -> None:
        """Before anything more is done: whether another turn may follow. Raises `BlockError`."""
        config = self._config
        if self._turns >= config.max_turns:
            wanted = f"; it wanted to call {', '.join(call.name for call in answer.calls[:5])}" if answer.calls else ""
            raise _limit(
                "too_many_turns",
                f"The agent came to no answer within {config.max_turns} turns{wanted}. Raise max_turns, or say in the"
                " prompt when to stop.",
            )
        if config.max_tokens is not None and self._tokens >= config.max_tokens:
            raise self._token_limit()
        if config.max_cost is not None and self._cost >= config.max_cost:
            raise _limit(
                "cost_limit",
                f"The agent has cost ${self._cost:.4f} in {self._turns} turns; max_cost is ${config.max_cost:f}.",
            )

    def _token_limit(self) -> BlockError:
        used = f"The agent has used {self._tokens:,} tokens in {self._turns} turns"
        return _limit("token_limit", f"{used}; max_tokens is {self._config.max_tokens:,}.")

    # Tools. -------------------------------------------------------------------------------------------------------

    async def _results(self, calls: tuple[ToolCall, ...]) -> list[ToolResult]:
        """What the calls gave, in their order, whichever ended first."""
        counts = [self._count(call) for call in calls]
        results = [ToolResult(call.id, call.name, _TOO_MANY, is_error=True) for call in calls]

        async def run(index: int) -> bool:
            call = calls[index]
            content, is_error = await self._result(call, f"t{self._turns}.{index + 1}")
            results[index] = ToolResult(call.id, call.name, content + _warning(counts[index]), is_error)
            return True

        await in_parallel(run, min(len(calls), MAX_CALLS), AT_ONCE)
        return results

    def _count(self, call: ToolCall) -> int:
        """How often this very call was asked for, this time included. Raises `BlockError` when that goes on for ever."""
        made = call.name, _arguments_text(call)
        self._made[made] += 1
        if self._made[made] >= ENDED_AT:
            raise _limit(
                "repeated_call",
                f"The agent called {call.name} with the same arguments {ENDED_AT} times: {made[1][:300]}. Say in the prompt"
                " what it is to do with the result.",
            )
        return self._made[made]

    async def _result(self, call: ToolCall, position: str) -> tuple[str, bool]:
        """What the model is told of a call, and whether that is an error."""
        tool = self._tools.get(call.name)
        if tool is None:
            return f"There is no tool {call.name[:80]!r}. The tools are {', '.join(self._tools) or 'none'}.", True
        if not isinstance(call.arguments, dict):
            return f"The arguments are no JSON object: {call.arguments[:200]}", True
        if reason := misfit(call.arguments, tool.input_schema):
            return f"The arguments do not fit the tool's input schema. {reason}.", True
        if tool.name in self._config.approve and (refusal := await self._refusal(call, position)):
            return refusal, True
        return await self._call(tool, call.arguments, position)

    async def _call(self, tool: PeerTool, arguments: dict[str, JSON], position: str) -> tuple[str, bool]:
        payload = arguments.get("input") if tool.wraps else arguments
        try:
            value = await self._ctx.call(tool.name, payload, position=position, keep_failure=True)
        except BlockError as error:
            return error.message, True
        return _shortened("null" if value is None else as_text(value)), False

    async def _refusal(self, call: ToolCall, position: str) -> str | None:
        """Why a person does not want the call to be made; None where one has said yes."""
        arguments = _shortened(_arguments_text(call), MAX_ASKED)
        message = f"The agent {self._ctx.listener} wants to call {call.name} with {arguments}"
        until = datetime.now(UTC) + APPROVAL_WAIT
        answer = await self._ctx.ask(message, until=until, position=f"{position}a")
        if answer.approved:
            return None
        if answer.by == "timeout":
            return "Nobody answered in time whether this call may be made, so it was not made."
        return f"A person refused this call{f': {answer.comment}' if answer.comment else '.'}"

    # Memory. ------------------------------------------------------------------------------------------------------

    async def _remembered(self) -> list[Message]:
        from flows.memories import recall

        memory = self._config.flow_memory
        if memory is None:
            return []
        read = partial(recall, flow_id=self._ctx.flow_id, listener=self._ctx.listener, key=memory.key)
        exchanges = await self._ctx.transact(read, position="recall")
        messages: list[Message] = []
        for exchange in exchanges[-memory.max_turns :]:
            messages += [UserMessage(exchange["user"]), AssistantMessage(exchange["answer"] or "(nothing)")]
        return messages

    async def _remember(self, answer: str) -> None:
        from flows.memories import remember

        memory = self._config.flow_memory
        if memory is None:
            return
        keep = partial(
            remember,
            flow_id=self._ctx.flow_id,
            listener=self._ctx.listener,
            key=memory.key,
            user=self._asked,
            answer=answer,
            now=datetime.now(UTC),
        )
        await self._ctx.transact(keep, position="remember")


def _limit(code: str, message: str) -> BlockError:
    """Another attempt would find the same turns on record."""
    return BlockError(message, code=code, retryable=False)


def _arguments_text(call: ToolCall) -> str:
    if isinstance(call.arguments, str):
        return call.arguments
    return json.dumps(call.arguments, ensure_ascii=False, sort_keys=True)


def _shortened(text: str, most: int = MAX_RESULT) -> str:
    if len(text) <= most:
        return text
    return f"{text[:most]}\n[The result goes on: {len(text) - most:,} more characters were left out.]"


def _warning(count: int) -> str:
    if count < WARNED_AT:
        return ""
    return (
        f"\n\n[This very call was made {count} times. Its result is above. Go on with it, or answer; at the {ENDED_AT}th the"
        " agent is ended.]"
    )
