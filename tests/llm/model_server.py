"""A server on localhost that plays a provider of models, and bears witness to what it was asked.

It speaks OpenAI's chat completions and responses, Anthropic's messages, streams and tools included, and the list of
models, under any base URL: `server.url`, or `server.url + "/eu"`, so that one server can play two providers (a logged
request has its `path`). The wire format is told by the path's end.

    with ModelServer() as server:
        server.script(text("Hello"), calls([("search", {"q": "shoes"})]), fail(429, {"Retry-After": "7"}))
        server.script(slow(2, text("late")), cut(), unfinished(), garbage(), error_event())
        ...
        assert [request.model for request in server.log] == ["gpt-5"]

Replies are used up in the order of the queue, whoever asks. When it is empty, the function of `answer_with(fn)` says
what to answer (`fn(body of the request) -> Reply`; `last_user(body)`, `tool_results(body)` and `system(body)` read any
of the three formats), and without one the last user message comes back as it is. `refuse_key(key)` answers 401 to a
key from then on, `serve_only(models)` 404 to other models. `peak` is the most requests that were under way at once.

As a process of its own, `python -m tests.llm.model_server [PORT]`, it prints its URL as its first line, and is driven
over HTTP: `POST /_script` a list of `Reply.as_json()`, `GET /_log` the requests, `POST /_refuse` {"key": "..."},
`GET /_peak`, `POST /_reset` forgets queue and log. `RemoteModelServer(url)` does that with the methods of `ModelServer`.
"""

import json
import socket
import sys
import time
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any, Self

from tests.llm import formats
from tests.llm.replies import Reply, Wire, calls, cut, error_event, fail, garbage, slow, text, unfinished

__all__ = [
    "LoggedRequest",
    "ModelServer",
    "RemoteModelServer",
    "Reply",
    "calls",
    "cut",
    "error_event",
    "fail",
    "garbage",
    "last_user",
    "slow",
    "system",
    "text",
    "tool_results",
    "unfinished",
]

WIRES: dict[str, Wire] = {"/chat/completions": "chat", "/responses": "responses", "/messages": "messages"}
DEFAULT_MODELS = ("gpt-5", "gpt-4o-mini", "claude-sonnet-4-5", "grok-4")

AnswerWith = Callable[[dict[str, Any]], Reply]


@dataclass(slots=True)
class LoggedRequest:
    """One request, as it came in. `status` is 0 and `ended` None while it has no answer, or nobody was there to take it."""

    wire: Wire
    path: str
    model: str  # "" for the list of models
    key: str  # the API key that it was asked with
    stream: bool
    headers: dict[str, str]  # names in lower case
    body: dict[str, Any]
    began: float  # seconds since the epoch
    ended: float | None = None
    status: int = 0

    @property
    def prompt(self) -> str:
        return last_user(self.body)


class ModelServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self._lock = Lock()
        self._queue: deque[Reply] = deque()
        self._log: list[LoggedRequest] = []
        self._answer_with: AnswerWith | None = None
        self._refused_keys: set[str] = set()
        self._models: tuple[str, ...] = ()
        self._under_way = 0
        self.peak = 0

    def __enter__(self) -> Self:
        Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    @property
    def host(self) -> str:
        """What `BLOX_HTTP_ALLOW` must hold for a guarded client to come here."""
        return f"127.0.0.1:{self.server_port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    @property
    def log(self) -> list[LoggedRequest]:
        """All requests so far, in the order in which they came in; lists of models too."""
        with self._lock:
            return list(self._log)

    def script(self, *replies: Reply) -> None:
        """Answer the next requests with these, after what is in the queue already."""
        with self._lock:
            self._queue.extend(replies)

    def answer_with(self, fn: AnswerWith | None) -> None:
        """Ask `fn` when the queue is empty; it gets the request's body as it was sent, in one of many threads."""
        self._answer_with = fn

    def refuse_key(self, key: str) -> None:
        self._refused_keys.add(key)

    def serve_only(self, *models: str) -> None:
        self._models = models

    def reset(self) -> None:
        """Forget what was scripted and what was asked."""
        with self._lock:
            self._queue.clear()
            self._log.clear()
            self._refused_keys.clear()
            self._models, self._answer_with, self.peak = (), None, 0

    def begin(self, request: LoggedRequest) -> Reply | None:
        """Note a request and give its scripted reply; None where there is none."""
        with self._lock:
            self._log.append(request)
            self._under_way += 1
            self.peak = max(self.peak, self._under_way)
            refused = self._refusal(request)
            if refused is not None or request.wire == "models":
                return refused
            return self._queue.popleft() if self._queue else None

    def _refusal(self, request: LoggedRequest) -> Reply | None:
        if request.key in self._refused_keys:
            return fail(401, code="" if request.wire == "messages" else "invalid_api_key", message="invalid key")
        if request.model and self._models and request.model not in self._models:
            code = "" if request.wire == "messages" else "model_not_found"
            return fail(404, code=code, message=f"model: {request.model} does not exist")
        return None

    def unscripted(self, request: LoggedRequest) -> Reply:
        return self._answer_with(request.body) if self._answer_with is not None else text(request.prompt)

    def end(self, request: LoggedRequest, status: int) -> None:
        with self._lock:
            request.status, request.ended = status, time.time()

    def leave(self) -> None:
        with self._lock:
            self._under_way -= 1

    def models(self) -> tuple[str, ...]:
        return self._models or DEFAULT_MODELS

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that went away; some tests are about that


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: ModelServer

    def do_GET(self) -> None:
        match self.path:
            case "/_log":
                self._send_json(200, [asdict(request) for request in self.server.log])
            case "/_peak":
                self._send_json(200, self.server.peak)
            case _:
                self._serve("models", {})

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path.startswith("/_"):
            self._drive(json.loads(content or b"null"))
            return
        wire = next((wire for end, wire in WIRES.items() if self.path.split("?")[0].endswith(end)), None)
        if wire is None:
            self._send_json(404, {"error": {"message": f"nothing is served at {self.path}", "code": None}})
        else:
            self._serve(wire, json.loads(content))

    def _drive(self, value: Any) -> None:
        match self.path:
            case "/_script":
                self.server.script(*map(Reply.from_json, value))
            case "/_refuse":
                self.server.refuse_key(value["key"])
            case "/_reset":
                self.server.reset()
        self._send_json(200, None)

    def _serve(self, wire: Wire, asked: dict[str, Any]) -> None:
        request = self._noted(wire, asked)
        reply = self.server.begin(request)
        try:
            if reply is None and wire == "models":
                self._send_json(200, formats.models(self.server.models()))
                self.server.end(request, 200)
            else:
                self._answer(request, reply or self.server.unscripted(request))
        finally:
            self.server.leave()

    def _noted(self, wire: Wire, asked: dict[str, Any]) -> LoggedRequest:
        headers = {name.lower(): value for name, value in self.headers.items()}
        key = headers.get("x-api-key") or headers.get("authorization", "").removeprefix("Bearer ")
        model, stream = str(asked.get("model", "")), bool(asked.get("stream"))
        return LoggedRequest(wire, self.path, model, key, stream, headers, asked, time.time())

    def _answer(self, request: LoggedRequest, reply: Reply) -> None:
        time.sleep(reply.delay)
        status = 529 if reply.broken == "error_event" and not request.stream else reply.status
        if status != 200:
            error = formats.error_body(request.wire, status, reply.code, reply.message)
            self._send_json(status, error if reply.body is None else reply.body, reply.headers)
        elif request.stream:
            self._stream(request, reply)
        else:
            self._send_whole(request, reply)
        self.server.end(request, status)

    def _send_whole(self, request: LoggedRequest, reply: Reply) -> None:
        content = json.dumps(formats.body(request.wire, reply, request.body)).encode()
        if reply.broken == "garbage":
            content = b'{"id": "no", "choi<html>'
        cut_at = len(content) // 2 if reply.broken in ("cut", "unfinished") else None
        self._send(200, content, {"Content-Type": "application/json"}, cut_at)

    def _stream(self, request: LoggedRequest, reply: Reply) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for name, data in self._events(request, reply):
            said = data if isinstance(data, str) else json.dumps(data)
            self._send_chunk(f"event: {name}\ndata: {said}\n\n" if name else f"data: {said}\n\n")
            time.sleep(reply.pause)
        if reply.broken == "cut":
            self._hang_up()
        else:
            self._send_chunk("")

    def _events(self, request: LoggedRequest, reply: Reply) -> Iterator[formats.Event]:
        events = formats.events(request.wire, reply, request.body)
        if reply.broken == "garbage":
            yield "message_start" if request.wire == "messages" else "", '{"id": "no", "choi<html>'
        elif reply.broken:
            whole = list(events)
            yield from whole[: len(whole) // 2]
            if reply.broken == "error_event":
                yield from formats.error_events(request.wire, reply.code, reply.message)
        else:
            yield from events

    def _send_chunk(self, said: str) -> None:
        content = said.encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(content), content))

    def _send_json(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        content = value if isinstance(value, str) else json.dumps(value)
        self._send(status, content.encode(), {"Content-Type": "application/json", **(headers or {})})

    def _send(self, status: int, content: bytes, headers: dict[str, str], cut_at: int | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[:cut_at])
        if cut_at is not None:
            self._hang_up()

    def _hang_up(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class RemoteModelServer:
    """A model server in another process."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.host = url.removeprefix("http://")

    @property
    def log(self) -> list[LoggedRequest]:
        return [LoggedRequest(**request) for request in self._ask("/_log")]

    @property
    def peak(self) -> int:
        return int(self._ask("/_peak"))

    def script(self, *replies: Reply) -> None:
        self._ask("/_script", [reply.as_json() for reply in replies])

    def refuse_key(self, key: str) -> None:
        self._ask("/_refuse", {"key": key})

    def reset(self) -> None:
        self._ask("/_reset", {})

    def _ask(self, path: str, value: Any = None) -> Any:
        content = None if value is None else json.dumps(value).encode()
        with urllib.request.urlopen(self.url + path, content, timeout=30) as response:
            return json.load(response)


def last_user(body: dict[str, Any]) -> str:
    """The last text that the user said, in any of the wire formats."""
    for message in reversed(_messages(body)):
        if message.get("role") == "user" and (said := _text(message.get("content"))):
            return said
    return ""


def system(body: dict[str, Any]) -> str:
    """The system prompt, in any of the wire formats."""
    said = [_text(body.get("system")), _text(body.get("instructions"))]
    said += [_text(each.get("content")) for each in _messages(body) if each.get("role") in ("system", "developer")]
    return "\n".join(filter(None, said))


def tool_results(body: dict[str, Any]) -> list[str]:
    """What the tools gave, in order, in any of the wire formats."""
    found = []
    for message in _messages(body):
        if message.get("role") == "tool":
            found.append(_text(message["content"]))
        elif message.get("type") == "function_call_output":
            found.append(_text(message["output"]))
        elif isinstance(message.get("content"), list):
            found += [_text(part["content"]) for part in message["content"] if part.get("type") == "tool_result"]
    return found


def _messages(body: dict[str, Any]) -> list[dict[str, Any]]:
    said = body.get("messages") or body.get("input") or []
    return [{"role": "user", "content": said}] if isinstance(said, str) else said


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content or [] if "text" in part.get("type", ""))


if __name__ == "__main__":
    with ModelServer(int(sys.argv[1]) if len(sys.argv) > 1 else 0) as standing:
        print(standing.url, flush=True)
        with suppress(KeyboardInterrupt):
            while True:
                time.sleep(3600)
