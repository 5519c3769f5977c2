"""An HTTP server on localhost that plays the outside world, and bears witness to what was done to it.

`/echo` answers with what it got, `/status/N` with that status, `/slow?s=N` after N seconds, `/drip?s=N` with a byte a
second for N seconds, `/flaky/N` with 503 until the Nth call with the same idempotency key.
"""

import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit


@dataclass(slots=True)
class Call:
    method: str
    path: str
    key: str  # the Idempotency-Key: of one step, whatever attempt
    began: float  # seconds since the epoch
    ended: float | None = None  # when it had been answered
    status: int = 0  # of the answer; 0 while there is none, or when nobody was there to take it


class Witness(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self._lock = Lock()
        self._calls: list[Call] = []
        self._seen: Counter[str] = Counter()

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that was killed; some tests are about that

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    @property
    def calls(self) -> list[Call]:
        """All calls so far, in the order in which they came in."""
        with self._lock:
            return list(self._calls)

    def paths(self) -> list[str]:
        return [call.path for call in self.calls]

    def by_key(self) -> Counter[str]:
        with self._lock:
            return self._seen.copy()

    def begin(self, method: str, path: str, key: str) -> tuple[Call, int]:
        """Notes a call; gives it, and how many came with its key until now."""
        call = Call(method, path, key, time.time())
        with self._lock:
            self._calls.append(call)
            self._seen[key] += 1
            return call, self._seen[key]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Witness

    def _answer(self) -> None:
        split = urlsplit(self.path)
        call, seen = self.server.begin(self.command, self.path, self.headers.get("Idempotency-Key", ""))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, value = (
            200,
            {"method": self.command, "path": self.path, "body": _parsed(body), "headers": dict(self.headers)},
        )
        match split.path.strip("/").split("/"):
            case ["status", wanted]:
                status = int(wanted)
            case ["flaky", wanted] if seen < int(wanted):
                status = 503
            case ["slow"]:
                time.sleep(_seconds(split.query))
        if split.path == "/drip":
            self._drip(round(_seconds(split.query)))
        else:
            self._send(status, value)
        call.status, call.ended = status, time.time()

    do_GET = do_POST = do_PUT = do_DELETE = _answer

    def _send(self, status: int, value: Any) -> None:
        text = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _drip(self, seconds: int) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(seconds))
        self.end_headers()
        for _ in range(seconds):
            self.wfile.write(b".")
            time.sleep(1)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _seconds(query: str) -> float:
    return float(parse_qs(query)["s"][0])


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body.decode(errors="replace")


@contextmanager
def witness() -> Iterator[Witness]:
    server = Witness()
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
