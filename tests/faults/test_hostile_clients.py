"""E14, E15: clients that send too much, too slowly, or do not read, on the real web process while others call."""

import json
import selectors
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from threading import Event, Thread

import pytest

from tests.faults.conftest import Begin
from tests.faults.experiment import full_form_only, scaled
from tests.faults.processes import resident_bytes
from tests.faults.server import Server
from tests.waiting import wait_until

pytestmark = pytest.mark.experiment

MIB = 1024 * 1024
QUIET = "  - {name: done, handler: blox.output}\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
END = b""  # no more is sent
CUT_SECONDS = 45.0  # the server cuts after 30
LARGE_FILE = "/static/drf_spectacular_sidecar/swagger-ui-dist/swagger-ui-bundle.js"


def connect(server: Server, *, receive_buffer: int = 0) -> socket.socket:
    connection = socket.socket()
    if receive_buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.settimeout(20)
    connection.connect(("127.0.0.1", server.port))
    return connection


def head(path: str, *lines: str, method: str = "POST") -> bytes:
    return "\r\n".join(
        [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json", *lines]
    ).encode()


def sized(body: bytes, *lines: str) -> Callable[[str], Iterator[bytes]]:
    return lambda path: iter([head(path, *lines, f"Content-Length: {len(body)}") + b"\r\n\r\n", body])


def endless(path: str) -> Iterator[bytes]:
    """A hundred megabytes with their length."""
    yield head(path, f"Content-Length: {100 * MIB}") + b"\r\n\r\n"
    yield from [b"x" * MIB] * 100


def chunked(path: str) -> Iterator[bytes]:
    """The same without."""
    yield head(path) + b"\r\n" + CHUNKED
    yield from [b"100000\r\n" + b"x" * MIB + b"\r\n"] * 100


def raw(*parts: bytes) -> Callable[[str], Iterator[bytes]]:
    return lambda path: iter([head(path) + b"\r\n", *parts])


# What is sent, and what it may be answered with; 0: the connection is closed without a word.
ATTACKS: dict[str, tuple[Callable[[str], Iterator[bytes]], set[int]]] = {
    "a byte more than a webhook takes": (sized(b'"' + b"x" * (MIB - 1) + b'"'), {413}),
    "a hundred megabytes": (endless, {413}),
    "a hundred megabytes in chunks": (chunked, {413}),
    "a gzip bomb": (sized(b"\x1f\x8b" + b"\0" * 1000, "Content-Encoding: gzip"), {415}),
    "a length that is no number": (raw(b"Content-Length: many\r\n\r\n{}"), {400}),
    "a length below zero": (raw(b"Content-Length: -1\r\n\r\n{}"), {400}),
    "two lengths": (raw(b"Content-Length: 2\r\nContent-Length: 20\r\n\r\n{}"), {400}),
    "a length of more than there is": (raw(b"Content-Length: 20\r\n\r\n{}", END), {0, 400}),
    "a length of 2^64": (raw(b"Content-Length: 18446744073709551616\r\n\r\n{}"), {400, 413}),
    "both a length and chunks": (raw(b"Content-Length: 200\r\n" + CHUNKED + b"2\r\n{}\r\n0\r\n\r\n"), {202, 400}),
    "chunks without an end": (raw(CHUNKED + b"2\r\n{}\r\n", END), {0, 400}),
    "a chunk that lies": (raw(CHUNKED + b"ffffffffffffffff\r\n{}", END), {0, 400}),
    "100,000 keys": (sized(json.dumps({f"{n:x}": 0 for n in range(100_000)}, separators=(",", ":")).encode()), {202}),
    "100,000 fields": (
        lambda path: iter(
            [
                head(path).replace(b"json", b"x-www-form-urlencoded"),
                b"\r\nContent-Length: 300000\r\n\r\n",
                b"a=&" * 100_000,
            ]
        ),
        {400},
    ),
    "100,000 deep": (sized(b"[" * 100_000 + b"]" * 100_000), {400}),
    "a header of a megabyte": (raw(b"X-Long: " + b"x" * MIB + b"\r\n\r\n"), {0, 400, 431}),
    "10,000 headers": (raw(b"X-Many: 1\r\n" * 10_000 + b"\r\n"), {0, 400, 431}),
    "10,000 query parameters": (
        lambda path: iter(
            [head(f"{path}?{'&'.join(f'a{n}=1' for n in range(10_000))}", "Content-Length: 0"), b"\r\n\r\n"]
        ),
        {400, 414},
    ),
}


def status_of(server: Server, parts: Iterator[bytes]) -> int:
    with closing(connect(server)) as connection:
        with suppress(ConnectionError):  # it is told so before it has sent all
            for part in parts:
                if part is END:
                    connection.shutdown(socket.SHUT_WR)
                connection.sendall(part)
        received = b""
        with suppress(ConnectionError):
            while b"\r\n" not in received and (part := connection.recv(65536)):
                received += part
    return int(received.split()[1]) if received else 0


class Memory:
    """The most that a server's web processes hold, looked at a hundred times a second."""

    def __init__(self, server: Server) -> None:
        self._pids, self._over = server.processes["web"].group(), Event()
        self.before = self.most = self._held()
        self._thread = Thread(target=self._watch, daemon=True)
        self._thread.start()

    def growth(self) -> int:
        self._over.set()
        self._thread.join()
        return self.most - self.before

    def _watch(self) -> None:
        while not self._over.wait(0.01):
            self.most = max(self.most, self._held())

    def _held(self) -> int:
        return sum(map(resident_bytes, self._pids))


def test_e14_what_is_too_much_is_refused_at_no_cost_to_others(begin: Begin, server: Server) -> None:
    with begin("E14 oversize") as trial:
        target, others = server.tenant().flow(QUIET), trial.tenant().flow(QUIET)  # some attacks make executions
        for send, _ in ATTACKS.values():  # once, so that what Python keeps for good is there
            status_of(server, send("/webhooks/unknown"))
        failures = []
        with trial.load([others], rate=50, callers=4):
            for name, (send, allowed) in ATTACKS.items():
                memory = Memory(server)
                status = status_of(server, send(target.webhook))
                grown = memory.growth() / MIB
                # What is taken is parsed, within the limit of a megabyte; what is not costs next to nothing.
                if status not in allowed or grown >= (40 if status == 202 else 20):
                    failures.append(f"{name}: {status}, {grown:.1f} MiB more")
        assert not failures, "\n".join(failures)


@full_form_only  # half a minute each; the short form is tests/bloxserver/test_slow_clients.py
@pytest.mark.parametrize("where", ["body", "header", "chunks"])
def test_e15_clients_that_send_a_byte_a_second_are_cut_and_hold_nobody_up(
    begin: Begin, server: Server, where: str
) -> None:
    begun = {
        "header": b"\r\nX-Slow: ",
        "body": b"\r\nContent-Length: 1000\r\n\r\n",
        "chunks": b"\r\n" + CHUNKED + b"3e8\r\n",
    }
    with begin(f"E15 slow in the {where}") as trial:
        flows = [trial.tenant().flow(QUIET)]
        slow = [connect(server) for _ in range(scaled(500, least=200))]
        for connection in slow:
            connection.sendall(head("/webhooks/unknown") + begun[where])
            connection.setblocking(False)
        with trial.load(flows, rate=10, callers=4) as load:
            cut_after = drip(slow)
        trial.remarks.append(f"{len(slow)} cut after {cut_after:.0f} s, others' p99 {load.percentile(99):.2f} s")
        assert len(load.accepted()) > 100


def drip(connections: list[socket.socket]) -> float:
    """A byte a second into each until the server has cut them all; the seconds until then."""
    selector, began = selectors.DefaultSelector(), time.monotonic()
    for connection in connections:
        selector.register(connection, selectors.EVENT_READ)
    due = began
    while selector.get_map():
        assert time.monotonic() < began + CUT_SECONDS, f"{len(selector.get_map())} are still there"
        for key, _ in selector.select(timeout=max(0.0, due - time.monotonic())):
            with suppress(ConnectionError):
                if key.fileobj.recv(65536):  # type: ignore[union-attr]  # the answer; its end comes next
                    continue
            selector.unregister(key.fileobj)
            key.fileobj.close()  # type: ignore[union-attr]
        if time.monotonic() >= due:
            due += 1
            for key in selector.get_map().values():
                with suppress(ConnectionError, BlockingIOError):
                    key.fileobj.send(b"x")  # type: ignore[union-attr]
    return time.monotonic() - began


@pytest.mark.parametrize("path", [LARGE_FILE, "/api/schema"])
def test_e15_clients_that_do_not_read_hold_nobody_up(begin: Begin, server: Server, path: str) -> None:
    with begin(f"E15 unread {path[:12]}") as trial:
        flows = [trial.tenant().flow(QUIET)]
        memory = Memory(server)
        slow = [connect(server, receive_buffer=2048) for _ in range(scaled(500, least=200))]
        for connection in slow:
            connection.sendall(head(path, method="GET") + b"\r\n\r\n")
        try:
            with trial.load(flows, rate=10, callers=4) as load:
                wait_until(lambda: len(load.accepted()) > 50)
        finally:
            for connection in slow:
                connection.close()
        grown = memory.growth() / MIB
        trial.remarks.append(
            f"{len(slow)} do not read, others' p99 {load.percentile(99):.2f} s, {grown:.0f} MiB more held"
        )
