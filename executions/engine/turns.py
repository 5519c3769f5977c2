"""When does a run stand still? Once nothing in it goes on by itself, no worker needs to be held."""

import asyncio
from collections.abc import Callable
from datetime import datetime

SETTLE_SECONDS = 0.02


class Turns:
    """Counts what goes on by itself in one run (deliveries, and what a block does for itself), and what waits.

    `when_idle` is called once every delivery under way waits for a moment or a person, or, when handing back, none is
    under way. Before that it looks twice: between the end of one wait and what its block does next, a run may seem idle
    for an instant.
    """

    def __init__(self, when_idle: Callable[[], None]) -> None:
        self.parked: list[tuple[str, datetime | None]] = []  # the waits as they were when the run was found idle
        self._when_idle = when_idle
        self._active = 0  # deliveries that can go on by themselves; at zero the run is idle
        self._moves = 0  # grows with every change of the above
        self._waits: dict[object, tuple[str, datetime | None]] = {}  # step key and moment, where there is one
        self._for_outside: set[object] = set()  # those of the waits that end by a moment or a person, not by a step
        self._at_standstill = False

    def take(self) -> None:
        self._active += 1
        self._moves += 1

    def over(self) -> None:
        self._active -= 1
        self._moves += 1
        self._look()

    def begin_wait(self, key: str, until: datetime | None, *, for_person: bool = False) -> object:
        """Without a moment and a person, what is waited for is other steps of the run."""
        wait = object()
        self._waits[wait] = (key, until)
        if until is not None or for_person:
            self._for_outside.add(wait)
            self._look()
        return wait

    def end_wait(self, wait: object) -> None:
        del self._waits[wait]
        self._for_outside.discard(wait)

    def stop_at_standstill(self) -> None:
        """From now on the run is idle as soon as nothing goes on, whatever it waits for."""
        self._at_standstill = True
        self._look()

    @property
    def _is_idle(self) -> bool:
        return self._active == 0 and (bool(self._for_outside) or self._at_standstill)

    def _look(self) -> None:
        if self._is_idle:
            asyncio.get_running_loop().call_later(SETTLE_SECONDS, self._look_again, self._moves)

    def _look_again(self, moves: int) -> None:
        if self._is_idle and moves == self._moves:
            self.parked = list(self._waits.values())
            self._when_idle()
