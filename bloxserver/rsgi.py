"""The WSGI application behind granian's RSGI, so that a slow client holds no thread.

Under granian's own WSGI a thread waits for the body that it reads: 32 clients that send a byte a second were an outage,
and its maintainers leave a limit on slow bodies to the application (granian, issue 728). Here the event loop takes in
the whole body first, within limits; only then does a thread run Django, and it never waits for the client's sending.
(Django's own ASGI handler is no way out: the same views ran fourteen times slower under it.)
"""

import asyncio
import logging
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Any

from django.conf import settings
from django.http import HttpResponse
from django.urls import Resolver404, resolve
from granian.rsgi import HTTPProtocol, ProtocolClosed, Scope

from bloxserver.core.deferred import CAN_DEFER, Deferred
from bloxserver.core.garbage import leave_alone_what_is_loaded
from bloxserver.wsgi import application as wsgi_application

logger = logging.getLogger(__name__)

BODY_SECONDS = 30.0  # for a whole body
MAX_HELD_BYTES = 256 * 1024 * 1024  # of the bodies that are coming in, together

WsgiApplication = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class Refused(Exception):
    """The body is not waited for any longer."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.body = f'{{"code":"{code}","message":"{message}","details":null}}'


class Application:
    def __init__(self, wsgi: WsgiApplication, *, threads: int) -> None:
        self._wsgi = wsgi
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="web")
        self._held = 0  # bytes; the event loop's alone

    async def __rsgi__(self, scope: Scope, protocol: HTTPProtocol) -> None:
        parts: list[bytes] = []
        try:
            await self._take_in(scope, protocol, parts)
            await self._answer(scope, protocol, b"".join(parts))
        except Refused as refused:
            headers = [("content-type", "application/json"), ("connection", "close"), ("retry-after", "1")]
            protocol.response_str(refused.status, headers, refused.body)
        except ProtocolClosed:
            logger.debug("The client left before the end of its answer.")
        finally:
            self._held -= sum(map(len, parts))

    async def _answer(self, scope: Scope, protocol: HTTPProtocol, body: bytes) -> None:
        loop = asyncio.get_running_loop()
        if not _defers(scope.path):
            await loop.run_in_executor(self._threads, self._run, scope, protocol, body, loop)
            return
        # Its view waits for nothing, so it needs no thread, which would cost more than all it does.
        response: Any = self._wsgi(environ(scope, body, can_defer=True), lambda *_: None)
        try:
            if isinstance(response, Deferred):
                result = await response.future
                if not isinstance(result, HttpResponse):
                    result = await loop.run_in_executor(self._threads, result)
                response.become(result)
            protocol.response_bytes(response.status_code, list(response.items()), response.content)
        finally:
            response.close()

    async def _take_in(self, scope: Scope, protocol: HTTPProtocol, parts: list[bytes]) -> None:
        """Collect the body in `parts`. Raises `Refused` for one that is too large, too slow, broken off, or one too many."""
        announced = int(scope.headers.get("content-length", "0"))  # granian has refused what is no number
        if not announced and "transfer-encoding" not in scope.headers:
            return
        _check_size(announced)
        size = 0
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for part in protocol:
                    parts.append(part)
                    size += len(part)
                    self._held += len(part)
                    _check_size(size)
                    if self._held > MAX_HELD_BYTES:
                        raise Refused(503, "server_busy", "Too many bodies are coming in: try again in a moment.")
        except TimeoutError:
            raise Refused(408, "request_timeout", f"The body did not come in {BODY_SECONDS:g} seconds.") from None
        # A client that breaks off is no error to granian: its body ends, with one empty part more than others have.
        if size < announced or parts.count(b"") > 1:
            raise Refused(400, "unreadable_body", "The body ended before all of it had arrived: send it again.")

    def _run(self, scope: Scope, protocol: HTTPProtocol, body: bytes, loop: asyncio.AbstractEventLoop) -> None:
        status, headers = 500, list[tuple[str, str]]()

        def start_response(status_line: str, given: list[tuple[str, str]], exc_info: Any = None) -> None:
            nonlocal status, headers
            status, headers = int(status_line[:3]), given

        chunks: Any = self._wsgi(environ(scope, body), start_response)
        try:
            if getattr(chunks, "streaming", False):
                transport = protocol.response_stream(status, headers)
                for chunk in chunks:  # the next is made when this one is on its way: no faster than the client reads
                    asyncio.run_coroutine_threadsafe(_send(transport, chunk), loop).result()
            else:
                protocol.response_bytes(status, headers, b"".join(chunks))
        finally:
            chunks.close()


def _defers(path: str) -> bool:
    """Whether the path is of a view that can answer by a `Deferred`, and waits for nothing itself."""
    try:
        return path.startswith("/webhooks/") and hasattr(resolve(path).func, "defers")
    except Resolver404:
        return False


async def _send(transport: Any, chunk: bytes) -> None:
    """As a coroutine, which what granian gives is not."""
    await transport.send_bytes(chunk)


def _check_size(size: int) -> None:
    limit = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
    if size > limit:
        raise Refused(413, "payload_too_large", f"The body is larger than {limit} bytes.")


def environ(scope: Scope, body: bytes, *, can_defer: bool = False) -> dict[str, Any]:
    """The request as PEP 3333 has it."""
    server, _, server_port = scope.server.rpartition(":")
    client, _, client_port = scope.client.rpartition(":")
    found: dict[str, Any] = {
        "REQUEST_METHOD": scope.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": scope.path.encode().decode("latin-1"),
        "QUERY_STRING": scope.query_string,
        "SERVER_NAME": server.strip("[]"),
        "SERVER_PORT": server_port,
        "SERVER_PROTOCOL": f"HTTP/{scope.http_version}",
        "REMOTE_ADDR": client.strip("[]"),
        "REMOTE_PORT": client_port,
        "HTTP_HOST": "",  # where a client sends none, that is an error and not the server's own name
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope.scheme,
        "wsgi.input": BytesIO(body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": settings.BLOX_WEB_PROCESSES > 1,
        "wsgi.run_once": False,
    }
    for name, value in scope.headers.items():
        if "_" in name:
            continue  # as X_Forwarded_For it would pass for the proxy's X-Forwarded-For
        key = name.upper().replace("-", "_")
        if key not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            key = f"HTTP_{key}"
        found[key] = f"{found[key]}{';' if key == 'HTTP_COOKIE' else ','}{value}" if found.get(key) else value
    if can_defer:
        found[CAN_DEFER] = True
    return found


resolve("/")  # loads every view, so that the first request does not wait for them
leave_alone_what_is_loaded()
application = Application(wsgi_application, threads=settings.BLOX_WEB_THREADS)
