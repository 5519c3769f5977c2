"""An execution as server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html).

`step` carries a step as the trace shows it, each time that it changes; `status` carries the execution's summary at
the start, when it changes, and at the end, after which the stream closes. `token` carries what a model says in a turn
that is under way: who comes while it speaks gets all that it has said so far. An event's id is the number of the last
step sent, with `-end` when nothing follows: a client that comes back with it goes on from there.
"""

import logging
import re
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Self
from uuid import UUID

from django.db import DatabaseError
from rest_framework.exceptions import ValidationError

from bloxserver.api.renderers import CamelCaseRenderer
from bloxserver.core.streams import acquire_stream_slot
from executions.events import watch
from executions.models import MODEL_BLOCK, Execution, State, Step, StepStatus
from executions.serializers import ExecutionSummarySerializer, StepSerializer
from executions.speech import Heard, Turn, listen
from executions.trace import trace

logger = logging.getLogger(__name__)

LONGEST_STREAM_SECONDS = 600.0  # then the client comes back, and finds other web processes too
HEARTBEAT_SECONDS = 15.0  # a comment, so that proxies keep the connection and a client that is gone is noticed
RECONNECT_MS = 2000
STEPS_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class Position:
    """How far a client has come: the number of the last step that it has, and whether it has the end."""

    number: int = 0
    ended: bool = False

    @classmethod
    def parse(cls, text: str | None) -> Self:
        """From a `Last-Event-ID`. Raises `ValidationError` for what this server has never sent."""
        if not text:
            return cls()
        found = re.fullmatch(r"(\d{1,9})(-end)?", text, re.ASCII)
        if found is None:
            raise ValidationError({"lastEventId": ["Not an event id of this stream: leave it out to start anew."]})
        return cls(int(found[1]), found[2] is not None)

    def __str__(self) -> str:
        return f"{self.number}-end" if self.ended else str(self.number)


class EventStream:
    """The body of the response. It holds one of the process's stream slots until it is closed, even if never read."""

    def __init__(self, execution_id: UUID, position: Position) -> None:
        """Raises `bloxserver.core.streams.StreamsBusy` when no slot is free."""
        self._slot = ExitStack()
        self._slot.enter_context(acquire_stream_slot())
        self._frames = _frames(execution_id, position)

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._frames
        finally:
            self.close()

    def close(self) -> None:
        self._frames.close()
        self._slot.close()


def _frames(execution_id: UUID, position: Position) -> Generator[bytes]:
    yield f"retry: {RECONNECT_MS}\n\n".encode()
    try:
        yield from _follow(execution_id, position)
    except DatabaseError as error:  # the client comes back, and goes on where it was
        logger.warning("The event stream of execution %s ends early: %s", execution_id, error)


def _follow(execution_id: UUID, position: Position) -> Iterator[bytes]:
    reader = _Reader(execution_id, position)
    look = reader.news
    end = time.monotonic() + LONGEST_STREAM_SECONDS
    spoke = time.monotonic()
    with watch(execution_id) as changes:
        while not reader.finished and time.monotonic() < end:
            for frame in look():
                yield frame
                spoke = time.monotonic()
            if reader.finished:
                return
            if time.monotonic() - spoke >= HEARTBEAT_SECONDS:
                yield b": still here\n\n"
                spoke = time.monotonic()
            look = reader.news if changes.wait(HEARTBEAT_SECONDS) else reader.speech


class _Reader:
    """Reads what has changed since the last look, as frames."""

    def __init__(self, execution_id: UUID, position: Position) -> None:
        self._id = execution_id
        self._position = position
        self._shown: tuple[Any, ...] | None = None  # the part of the execution that the last status event showed
        self._speaking: dict[UUID, Heard] = {}  # turns of models that are under way, by step
        self.finished = False

    def news(self) -> Iterator[bytes]:
        # The execution before its steps: when it had ended, all its steps are there to be read.
        execution = Execution.objects.filter(pk=self._id).first()
        if execution is None:  # deleted with its flow
            self.finished = True
            return
        if execution.state == State.ENDED:
            yield from self._steps()
            self._position = Position(self._position.number, ended=True)
            self.finished = True
            yield self._status(execution)
            return
        looks = (execution.claimed_at, execution.cancel_requested_at)
        if self._shown is None:
            self._find_speaking()
        if looks != self._shown:
            self._shown = looks
            yield self._status(execution)
        yield from self._steps()
        yield from self.speech()

    def speech(self) -> Iterator[bytes]:
        """What models have said since."""
        for step_id, before in list(self._speaking.items()):
            self._speaking[step_id], pieces = listen(before)
            for piece in pieces:
                said = {"step_id": step_id, "listener": before.listener, **piece._asdict()}
                yield _frame("token", self._position, said)

    def _find_speaking(self) -> None:
        """The turns under way of which a client that comes back has the step already."""
        seen = Step.objects.filter(execution_id=self._id, number__lte=self._position.number)
        self._note(seen.filter(block=MODEL_BLOCK, status=StepStatus.RUNNING).defer("input", "output"))

    def _note(self, steps: Iterable[Step]) -> None:
        """Which models begin to speak, and which have ended."""
        for step in steps:
            if step.is_model_turn and step.status == StepStatus.RUNNING:
                self._speaking[step.pk] = Heard(Turn(self._id, step.pk, step.attempt), step.listener)
            else:
                self._speaking.pop(step.pk, None)

    def _steps(self) -> Iterator[bytes]:
        while steps := self._next_steps():
            self._note(steps)
            for traced in trace(steps):
                self._position = Position(traced.step.number)
                yield _frame("step", self._position, StepSerializer(traced).data)

    def _next_steps(self) -> list[Step]:
        steps = Step.objects.filter(execution_id=self._id, number__gt=self._position.number)
        return list(steps.defer("input", "output").order_by("number")[:STEPS_AT_ONCE])

    def _status(self, execution: Execution) -> bytes:
        return _frame("status", self._position, ExecutionSummarySerializer(execution).data)


def _frame(event: str, position: Position, data: Any) -> bytes:
    # JSON escapes line breaks, so the data is one line.
    return b"event: %s\nid: %s\ndata: %s\n\n" % (
        event.encode(),
        str(position).encode(),
        CamelCaseRenderer().render(data),
    )
