"""The run's side of `flows.blocks.base.Context`, in memory: it journals by position as the engine does."""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

from asgiref.sync import async_to_sync, sync_to_async
from django.db import transaction

from bloxserver.core.safe_http import GuardedClient, close_shared_client, shared_client
from flows.blocks.base import Answer, Block, BlockError, PeerTool
from llm.exchange import Answer as ModelAnswer
from llm.exchange import Request, ToolCall, Usage


class FakeContext:
    """`journal` outlives it: a second one with the same journal is the same step, run again after a crash."""

    def __init__(
        self,
        *,
        flow_id: UUID | None = None,
        peers: tuple[str, ...] = (),
        call: Callable[[str, Any], Awaitable[Any]] | None = None,
        executions: dict[UUID, Any] | None = None,
        tools: tuple[PeerTool, ...] = (),
        answers: Sequence[ModelAnswer | BlockError] = (),
        person: Callable[[str], Answer] | None = None,
        journal: dict[str, Any] | None = None,
    ) -> None:
        self.execution_id = self.user_id = UUID(int=1)
        self.flow_id = flow_id or UUID(int=2)
        self.listener, self.peers, self.attempt, self.idempotency_key = "under_test", peers, 1, "execution-1:step-1"
        self.journal = {} if journal is None else journal
        self.slept_until: list[datetime] = []
        self.started: list[tuple[str, Any]] = []
        self.responses: list[tuple[int, dict[str, str], Any]] = []
        self.lines: list[tuple[str, str]] = []
        self.tools, self._answers, self._person = tools, list(answers), person
        self.requests: list[Request] = []  # what models were asked, beyond what is journalled
        self.questions: list[str] = []  # that were put to a person
        self._call, self._executions, self._asked = call, executions or {}, 0

    @property
    def http(self) -> GuardedClient:
        return shared_client()

    async def call(self, peer: str, payload: Any, *, position: str | None = None, keep_failure: bool = False) -> Any:
        call = self._call
        assert call is not None and peer in self.peers

        async def outcome() -> Any:
            try:
                return {"value": await call(peer, payload)}
            except BlockError as error:
                if not keep_failure:
                    raise
                return {"failure": error.message}

        kept = await self._once(outcome, position)
        if "failure" in kept:
            raise BlockError(kept["failure"])
        return kept["value"]

    async def ask_model(self, request: Request, *, position: str | None = None) -> ModelAnswer:
        async def ask() -> Any:
            self.requests.append(request)
            answer = self._answers.pop(0)
            if isinstance(answer, BlockError):
                raise answer
            return answer.as_json()

        return ModelAnswer.from_json(await self._once(ask, position))

    async def record(self, fn: Callable[[], Awaitable[Any]], *, position: str | None = None) -> Any:
        return await self._once(fn, position)

    async def transact(self, fn: Callable[[], Any], *, position: str | None = None) -> Any:
        return await self._once(lambda: sync_to_async(transaction.atomic(fn))(), position)

    async def sleep_until(self, moment: datetime, *, position: str | None = None) -> None:
        async def first() -> str:
            return moment.isoformat()

        self.slept_until.append(datetime.fromisoformat(await self._once(first, position)))

    async def ask(
        self, message: str, *, until: datetime | None, notify: Sequence[str] = (), position: str | None = None
    ) -> Answer:
        async def answer() -> Any:
            self.questions.append(message)
            return asdict(self._person(message) if self._person else Answer(approved=True, by="somebody"))

        return Answer(**await self._once(answer, position))

    async def start_flow(self, flow: str, payload: Any, *, position: str | None = None) -> UUID:
        async def start() -> str:
            self.started.append((flow, payload))
            return str(uuid4()) if not self._executions else str(next(iter(self._executions)))

        return UUID(await self._once(start, position))

    async def wait_for_execution(self, execution_id: UUID, *, position: str | None = None) -> Any:
        return self._executions[execution_id]

    async def respond(self, status: int, headers: Mapping[str, str], body: Any) -> None:
        self.responses.append((status, dict(headers), body))

    def log(self, level: str, message: str) -> None:
        self.lines.append((level, message))

    async def _once(self, fn: Callable[[], Awaitable[Any]], position: str | None) -> Any:
        if position is None:
            self._asked += 1
            position = str(self._asked)
        if position not in self.journal:
            self.journal[position] = json.dumps(await fn())
        return json.loads(self.journal[position])


def said(text: str, *, tokens: int = 10, cost: str | None = "0.001", **more: Any) -> ModelAnswer:
    """A model's answer in words."""
    price = None if cost is None else Decimal(cost)
    return ModelAnswer(text, usage=Usage(tokens, tokens), model="test-model", provider="test", cost=price, **more)


def calls(*wanted: tuple[str, Any], **more: Any) -> ModelAnswer:
    """A model's answer that calls tools: (name, arguments) each."""
    made = tuple(ToolCall(f"call-{index}", name, arguments) for index, (name, arguments) in enumerate(wanted, 1))
    return said("", calls=made, stop="tools", **more)


class Known:
    """A rendered expression whose value the test gives; it counts how often it was asked."""

    def __init__(self, value: Any) -> None:
        self.value, self.asked = value, 0

    def evaluate(self) -> Any:
        self.asked += 1
        return self.value


def run_block(block: Block, config: Mapping[str, Any], payload: Any = None, ctx: FakeContext | None = None) -> Any:
    """Run `block` once with a config as it is after rendering."""

    async def run() -> Any:
        try:
            return await block.run(ctx or FakeContext(), block.Config.model_validate(config), payload)
        finally:
            await close_shared_client()

    return async_to_sync(run)()
