"""A load of HTTP requests over kept-alive connections, cheap enough to share the machine with the server that it loads."""

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import cycle, islice


@dataclass
class Load:
    """What came of it. Latencies are in seconds, from the first byte sent to the last byte read."""

    seconds: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    sent_at: list[float] = field(default_factory=list)  # epoch seconds
    bodies: list[bytes] = field(default_factory=list)

    @property
    def per_second(self) -> float:
        return sum(self.statuses.values()) / self.seconds

    def percentile(self, percent: int) -> float:
        return percentile(self.latencies, percent)


def percentile(values: list[float], percent: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def post(port: int, path: str, body: bytes) -> bytes:
    """The bytes of one request."""
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


class _Connection(asyncio.Protocol):
    """Sends one request after the other until `requests` is empty."""

    def __init__(self, requests: Iterator[bytes], load: Load, done: asyncio.Future[None], *, keep: bool) -> None:
        self.requests, self.load, self.done, self.keep = requests, load, done, keep
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._send()

    def _send(self) -> None:
        request = next(self.requests, None)
        if request is None:
            self.transport.close()
            self.done.set_result(None)
            return
        if self.keep:
            self.load.sent_at.append(time.time())
        self.started = time.perf_counter()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self.buffer[:end].lower()
        at = head.index(b"content-length:") + 15
        length = int(head[at : head.find(b"\r\n", at) if b"\r\n" in head[at:] else None])
        if len(self.buffer) < end + 4 + length:
            return
        self.load.latencies.append(time.perf_counter() - self.started)
        self.load.statuses[int(head[9:12])] += 1
        if self.keep:
            self.load.bodies.append(self.buffer[end + 4 :])
        self.buffer = b""
        self._send()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(error or ConnectionError("The server closed the connection."))


def run(port: int, requests: list[bytes], *, connections: int, total: int, keep: bool = False) -> Load:
    """Send `total` requests, in turn those given, over so many connections; with `keep`, keep answers and send times."""
    return asyncio.run(_run(port, requests, connections, total, keep))


async def _run(port: int, requests: list[bytes], connections: int, total: int, keep: bool) -> Load:
    load, loop = Load(), asyncio.get_running_loop()
    bounded = islice(cycle(requests), total)
    started = time.perf_counter()
    futures = []
    for _ in range(connections):
        done = loop.create_future()
        await loop.create_connection(lambda done=done: _Connection(bounded, load, done, keep=keep), "127.0.0.1", port)  # type: ignore[misc]
        futures.append(done)
    await asyncio.gather(*futures)
    load.seconds = time.perf_counter() - started
    return load
