"""The server's side of HTTP: requests in, answers out, and the ways in which a network fails."""

import json
import socket
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from threading import Lock
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tests.stripe_server.api import LoggedRequest, params_of
from tests.stripe_server.errors import StripeError
from tests.stripe_server.world import API_VERSION

if TYPE_CHECKING:
    from tests.stripe_server.server import StripeServer


class Faults:
    """What goes wrong with the next requests."""

    def __init__(self) -> None:
        self.delay = 0.0  # seconds before an answer
        self._lock = Lock()
        self._failing: list[bool] = []  # of the requests to come, which
        self._cutting: list[bool] = []
        self._status = 500

    def fail(self, requests: int, status: int, after: int = 0) -> None:
        """So many more requests, after some others, are answered with the status, and not carried out."""
        self._failing, self._status = [False] * after + [True] * requests, status

    def cut(self, requests: int, after: int = 0) -> None:
        """So many more, after some others, are carried out, and their answers lost."""
        self._cutting = [False] * after + [True] * requests

    def failure(self) -> StripeError | None:
        with self._lock:
            if not self._failing or not self._failing.pop(0):
                return None
        if self._status == 429:
            message = (
                "Request rate limit exceeded. Learn more about rate limits in https://stripe.com/docs/rate-limits."
            )
            return StripeError(429, "invalid_request_error", message, code="rate_limit")
        message = "An unknown error occurred. This error has been logged."
        return StripeError(self._status, "api_error", message)

    def loses_answer(self) -> bool:
        with self._lock:
            return bool(self._cutting) and self._cutting.pop(0)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: "StripeServer"

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_DELETE(self) -> None:
        self._serve()

    def _serve(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        if self.path.startswith("/_control/"):
            self._drive(content)
            return
        request = self._noted(content)
        time.sleep(self.server.faults.delay)
        if (failure := self.server.faults.failure()) is not None:
            request.status = failure.status
            self._send(failure.status, failure.body, request)
            return
        answer = self.server.answer(request)
        if self.server.faults.loses_answer():
            self._hang_up()
            return
        request.status, request.replayed = answer.status, answer.replayed
        self._send(answer.status, answer.body, request)

    def _noted(self, content: str) -> LoggedRequest:
        url = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = LoggedRequest(self.command, url.path, params_of(url.query, content), headers, time.time())
        self.server.note(request)
        return request

    def _drive(self, content: str) -> None:
        """`POST /_control/NAME` with {"args": [], "kwargs": {}} calls the control and gives what it gives."""
        given = json.loads(content or "{}")
        try:
            name = self.path.removeprefix("/_control/")
            said = self.server.control(name, *given.get("args", []), **given.get("kwargs", {}))
            self._send_json(200, {"result": said}, {})
        except StripeError as refusal:
            self._send_json(refusal.status, refusal.body, {})

    def _send(self, status: int, body: Any, request: LoggedRequest) -> None:
        headers = {"Request-Id": request.id, "Stripe-Version": request.headers.get("stripe-version", API_VERSION)}
        if request.idempotency_key:
            headers["Idempotency-Key"] = request.idempotency_key
        if request.replayed:
            headers["Idempotent-Replayed"] = "true"
        self._send_json(status, body, headers)

    def _send_json(self, status: int, value: Any, headers: dict[str, str]) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        for name, said in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name, said)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _hang_up(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: Any) -> None:
        pass
