"""A server on localhost that answers HTTP just as a test wants it: byte for byte, slowly, or wrongly."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Received:
    method: str
    target: str
    headers: dict[str, str]  # names in lower case
    body: bytes


Answer = Callable[[Received], bytes | Iterable[bytes]]


def answer(status: int = 200, body: bytes = b"", **headers: str) -> bytes:
    """A whole response; header names are written with underscores."""
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body)}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@dataclass
class LocalServer:
    """One thread a connection; what it is sent is in `received`, every connection counts in `connections`."""

    respond: Answer
    host: str = "127.0.0.1"
    tls: ssl.SSLContext | None = None
    received: list[Received] = field(default_factory=list)
    connections: int = 0

    def __post_init__(self) -> None:
        self._socket = socket.create_server((self.host, 0))
        self.port: int = self._socket.getsockname()[1]
        self.url = f"{'https' if self.tls else 'http'}://{self.host}:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection, self.tls.wrap_socket(connection, server_side=True) if self.tls else connection as stream:
                request = _read(stream)
                if request is None:
                    return
                self.received.append(request)
                response = self.respond(request)
                for part in [response] if isinstance(response, bytes) else response:
                    stream.sendall(part)
        except OSError:
            pass  # the client has gone

    def close(self) -> None:
        self._socket.close()


def _read(stream: socket.socket) -> Received | None:
    data = b""
    while b"\r\n\r\n" not in data:
        if not (part := stream.recv(65536)):
            return None
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    request_line, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    while len(body) < int(headers.get("content-length", 0)):
        body += stream.recv(65536)
    method, target, _ = request_line.split(" ")
    return Received(method, target, headers, body)


@contextmanager
def serving(respond: Answer, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> Iterator[LocalServer]:
    server = LocalServer(respond, host, tls)
    try:
        yield server
    finally:
        server.close()
