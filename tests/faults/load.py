"""Callers of webhooks: each call has an idempotency key of its own, and is made again until it is acknowledged."""

import http.client
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Event, Lock, Thread
from typing import Any, Self

from tests.faults.server import Api, Flow

PATIENCE_SECONDS = 60.0  # of a caller whose call is not acknowledged
PAUSE_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Answer:
    key: str
    began: float  # seconds since the epoch
    seconds: float
    status: int  # 0: none came
    retry_after: str | None
    execution_id: str
    replayed: bool
    text: str

    @property
    def ended(self) -> float:
        return self.began + self.seconds


class Load:
    """Fires `flows` in turn. Inside its `with` it fires `rate` times a second; `fire` fires at once.

    `times` callers make each call, all at once.
    """

    _numbers = itertools.count()

    def __init__(
        self, port: int, flows: Sequence[Flow], *, rate: float = 20.0, callers: int = 16, times: int = 1
    ) -> None:
        self.port, self.flows, self.rate, self.callers, self.times = port, flows, rate, callers, times
        self.answers: list[Answer] = []
        self.keys: set[str] = set()
        self._prefix = f"load-{next(self._numbers)}"
        self._lock = Lock()
        self._over = Event()
        self._next = 0
        self._began = 0.0
        self._threads: list[Thread] = []

    def __enter__(self) -> Self:
        self._start(limit=None)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._join()

    def fire(self, number: int) -> Self:
        """`number` calls, as fast as the callers can."""
        rate, self.rate = self.rate, float("inf")
        self._start(limit=self._next + number * self.times)
        self._join()
        self.rate = rate
        return self

    def accepted(self) -> dict[str, set[str]]:
        """By key the executions that acknowledged calls were given: one each, if all is well."""
        found: dict[str, set[str]] = {}
        with self._lock:
            for answer in self.answers:
                if 200 <= answer.status < 300:
                    found.setdefault(answer.key, set()).add(answer.execution_id)
        return found

    def percentile(self, percent: float) -> float:
        """Of the seconds in which calls were answered, whatever the answer."""
        with self._lock:
            seconds = sorted(answer.seconds for answer in self.answers)
        return seconds[min(len(seconds) - 1, int(len(seconds) * percent / 100))]

    def seconds(self) -> float:
        """From the first call to the last answer."""
        with self._lock:
            return max(answer.ended for answer in self.answers) - min(answer.began for answer in self.answers)

    def _start(self, limit: int | None) -> None:
        self._began = time.monotonic() - self._next / self.rate
        self._threads = [Thread(target=self._call, args=(limit,), daemon=True) for _ in range(self.callers)]
        for thread in self._threads:
            thread.start()

    def _join(self) -> None:
        for thread in self._threads:
            thread.join()

    def _call(self, limit: int | None) -> None:
        api = Api(self.port)
        while not self._over.is_set():
            with self._lock:
                number = self._next
                if number == limit:
                    break
                self._next += 1
            if self._over.wait(max(0.0, self._began + number / self.rate - time.monotonic())):
                break
            call = number // self.times
            key = f"{self._prefix}-{call}"
            with self._lock:
                self.keys.add(key)
            give_up_at = time.monotonic() + PATIENCE_SECONDS
            while not self._is_acknowledged(api, self.flows[call % len(self.flows)], key, call):
                if time.monotonic() > give_up_at:
                    break
                time.sleep(PAUSE_SECONDS)
        api.close()

    def _is_acknowledged(self, api: Api, flow: Flow, key: str, call: int) -> bool:
        began, clock = time.time(), time.monotonic()
        status, headers = 0, http.client.HTTPMessage()
        body: Any
        try:
            status, headers, body = api.request("POST", flow.webhook, {"n": call}, Idempotency_Key=key)
        except (OSError, http.client.HTTPException, ValueError) as error:
            body = repr(error)
        answer = Answer(
            key,
            began,
            time.monotonic() - clock,
            status,
            headers.get("Retry-After"),
            str(body.get("executionId")) if isinstance(body, dict) else "",
            "Idempotent-Replayed" in headers,
            str(body)[:200],
        )
        with self._lock:
            self.answers.append(answer)
        return 200 <= status < 300
