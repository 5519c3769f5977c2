"""Clients that send slowly, many at once, on a real web process: they hold no thread, and are cut off in the end."""

import json
import re
import socket
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.staticfiles import finders

from bloxserver.rsgi import environ
from tests.up_server import SECONDS, UpServer
from tests.waiting import wait_until

pytestmark = [pytest.mark.processes, pytest.mark.once, pytest.mark.xdist_group("slow clients")]

SLOW = 60  # connections, where web has 2 threads
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
BEGUN = {
    "headers": b"X-Slow: ",
    "body": b"Content-Length: 1000\r\n\r\n{",
    "chunks": CHUNKED + b"1\r\n{\r\n",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UpServer]:
    server = UpServer(tmp_path_factory.mktemp("slow"))
    server.spare_the_migrations()
    server.environment |= {"BLOX_WEB_THREADS": "2", "BLOX_STREAM_LIMIT": "1"}
    server.start(sys.executable, "manage.py", "up", "--demo")
    server.wait_until_ready()
    yield server
    server.process.terminate()
    server.process.wait(SECONDS)


@pytest.fixture
def port(server: UpServer) -> int:
    return int(server.port)


@pytest.fixture
def webhook(server: UpServer) -> str:
    found = re.search(r"/webhooks/[\w-]{43}", server.output)
    assert found
    return found[0]


def send(port: int, head: bytes, path: str = "/webhooks/clerk") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=10)
    connection.sendall(f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n".encode() + head)
    return connection


def answer_of(connection: socket.socket) -> tuple[int, Any]:
    """The status and the JSON body of the answer, after which the server closes."""
    received = b""
    with connection:
        while part := connection.recv(65536):
            received += part
    head, _, body = received.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


def ask(port: int) -> tuple[int, Any]:
    return answer_of(send(port, b"Connection: close\r\nContent-Length: 2\r\n\r\n{}", "/api/v1/flows"))


@pytest.mark.parametrize("kind", BEGUN)
def test_others_are_answered_while_many_send_slowly(port: int, kind: str) -> None:
    slow = [send(port, BEGUN[kind]) for _ in range(SLOW)]
    try:
        assert [ask(port)[0] for _ in range(5)] == [401] * 5
    finally:
        for connection in slow:
            connection.close()


@pytest.mark.parametrize("head", [b"Content-Length: 2097153\r\n\r\n", CHUNKED + b"200001\r\n" + b"x" * 0x200001])
def test_a_body_that_is_too_large_is_413_before_it_is_all_there(port: int, head: bytes) -> None:
    status, body = answer_of(send(port, b"Connection: close\r\n" + head))
    assert (status, body["code"]) == (413, "payload_too_large")


@pytest.mark.parametrize(
    ("head", "pieces"),
    [
        (b"Content-Length: 12\r\n\r\n", [b'{"tot', b'al": ', b"7}"]),
        (CHUNKED, [b'5\r\n{"tot\r\n', b'7\r\nal": 7}\r\n', b"0\r\n\r\n"]),
    ],
)
def test_a_body_that_comes_in_pieces_is_put_together(port: int, webhook: str, head: bytes, pieces: list[bytes]) -> None:
    connection = send(port, b"Connection: close\r\nContent-Type: application/json\r\n" + head, webhook)
    for piece in pieces:
        time.sleep(0.05)
        connection.sendall(piece)
    assert answer_of(connection)[0] == 202


@pytest.mark.parametrize(
    "head", [b"Content-Length: 12\r\n\r\nhalf", CHUNKED + b"4\r\nhalf\r\n", CHUNKED + b"4\r\nhalf\r\n8\r\nof"]
)
def test_a_body_that_breaks_off_is_not_taken_for_a_whole_one(port: int, webhook: str, head: bytes) -> None:
    connection = send(port, b"Connection: close\r\nContent-Type: text/plain\r\n" + head, webhook)
    time.sleep(0.2)
    connection.shutdown(socket.SHUT_WR)
    status, body = answer_of(connection)
    assert (status, body["code"]) == (400, "unreadable_body")


def test_an_answer_that_is_streamed_comes_whole(port: int) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/static/admin/css/base.css", timeout=10) as answer:
        assert answer.read() == Path(str(finders.find("admin/css/base.css"))).read_bytes()


def test_the_schema_is_whole_for_all_who_ask_first_at_once(port: int) -> None:
    with ThreadPoolExecutor(8) as threads:
        asked = [threads.submit(urllib.request.urlopen, f"http://127.0.0.1:{port}/api/schema") for _ in range(8)]
        answers = {answer.result(timeout=30).read() for answer in asked}
    assert len(answers) == 1


def test_a_stream_whose_reader_has_left_gives_its_place_back(server: UpServer, port: int) -> None:
    """Web has one place for streams here. It notices at its next word to the reader, in 15 seconds at most."""
    token = re.search(r"token +(blox_\S+)", server.output)
    assert token
    signed_in = {"Authorization": f"Bearer {token[1]}", "Content-Type": "application/json"}

    def call(method: str, path: str, body: Any = None) -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/api/v1/flows{path}", json.dumps(body or {}).encode(), signed_in, method=method
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def open_stream() -> tuple[int, socket.socket]:
        connection = socket.create_connection(("127.0.0.1", port), timeout=10)
        head = f"GET /api/v1/flows/{events} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token[1]}\r\n\r\n"
        connection.sendall(head.encode())
        return int(connection.recv(65536).split()[1]), connection

    yaml = "organism: {name: waits}\nlisteners: [{name: a, handler: blox.delay, config: {seconds: 3600}}]\n"
    flow = call("POST", "", {"name": "Waits", "organismYaml": yaml})["id"]
    execution = call("POST", f"/{flow}/executions/run", {"draft": True})["id"]
    events = f"{flow}/executions/{execution}/events"
    first, reader = open_stream()
    second, refused = open_stream()
    assert (first, second) == (200, 503)
    refused.close()
    reader.close()

    def is_free() -> bool:
        status, connection = open_stream()
        connection.close()
        return status == 200

    wait_until(is_free, seconds=30)


def scope(**changes: Any) -> Any:
    headers: list[tuple[str, str]] = changes.pop("headers", [])
    listed = SimpleNamespace(items=lambda: headers)
    request = {"method": "GET", "path": "/", "query_string": "", "scheme": "http", "http_version": "1.1"}
    return SimpleNamespace(**{**request, "server": "127.0.0.1:80", "client": "[::1]:5", "headers": listed, **changes})


def test_a_header_with_an_underscore_cannot_pass_for_another() -> None:
    made = environ(scope(headers=[("x_forwarded_for", "1.1.1.1"), ("x-forwarded-for", "2.2.2.2"), ("host", "a")]), b"")
    assert (made["HTTP_X_FORWARDED_FOR"], made["HTTP_HOST"], made["REMOTE_ADDR"]) == ("2.2.2.2", "a", "::1")


def test_a_header_that_comes_twice_is_one_list() -> None:
    made = environ(scope(headers=[("x-a", "1"), ("x-a", "2"), ("cookie", "a=1"), ("cookie", "b=2")]), b"")
    assert (made["HTTP_X_A"], made["HTTP_COOKIE"]) == ("1,2", "a=1;b=2")
