"""An HTTP server on localhost that plays the outside world, and bears witness to what was done to it.

`/echo` answers with what it got, `/status/N` with that status, `/slow?s=N` after N seconds, `/flaky/N` with 503 until
the Nth call with the same idempotency key.
"""

import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit


class Witness(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.lock = Lock()
        self.calls: list[tuple[str, str, str]] = []  # (method, path, idempotency key), when they came in
        self.ended: list[str] = []  # paths, when they had been answered

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that was killed; some tests are about that

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    def paths(self) -> list[str]:
        return [path for _, path, _ in self.calls]

    def by_key(self) -> Counter[str]:
        return Counter(key for _, _, key in self.calls)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Witness

    def _answer(self) -> None:
        split = urlsplit(self.path)
        key = self.headers.get("Idempotency-Key", "")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with self.server.lock:
            self.server.calls.append((self.command, self.path, key))
            seen = self.server.by_key()[key]
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
                time.sleep(float(parse_qs(split.query)["s"][0]))
        self._send(status, value)
        with self.server.lock:
            self.server.ended.append(self.path)

    do_GET = do_POST = do_PUT = do_DELETE = _answer

    def _send(self, status: int, value: Any) -> None:
        text = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: Any) -> None:
        pass


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
