"""The guarded client against real servers on localhost."""

import asyncio
import gzip
import socket
import time
import tracemalloc
import zlib
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from bloxserver.core.addresses import AllowList, parse_allow_list
from bloxserver.core.safe_http import (
    BlockedAddress,
    GuardedClient,
    GuardedResponse,
    GuardedTransport,
    InvalidRequest,
    NotSent,
    RequestFailed,
    RequestTimeout,
    ResponseTooLarge,
    SafeHttpError,
    TooManyRedirects,
    close_shared_client,
    shared_client,
)
from tests.local_server import LocalServer, Received, answer, serving

pytestmark = pytest.mark.once


def allowing(*servers: LocalServer) -> AllowList:
    return parse_allow_list(tuple(f"{server.host}:{server.port}" for server in servers))


def fetch(method: str, url: str, *, allow: AllowList, resolver: Any = None, **options: Any) -> GuardedResponse:
    async def run() -> GuardedResponse:
        client = GuardedClient(allow=allow, resolver=resolver)
        try:
            return await client.request(method, url, **options)
        finally:
            await client.aclose()

    return asyncio.run(run())


@pytest.fixture
def echo() -> Iterator[LocalServer]:
    with serving(lambda request: answer(200, b"hello", Set_Cookie="session=1; Path=/")) as server:
        yield server


# What is sent. ---------------------------------------------------------------------------------------------------
def test_an_allowed_server_is_reached_and_its_answer_is_whole(echo: LocalServer) -> None:
    response = fetch("get", f"{echo.url}/a?x=1", allow=allowing(echo), params={"y": [1, True]}, headers={"X-One": "1"})

    assert (response.status, response.content, response.url) == (200, b"hello", f"{echo.url}/a?x=1&y=1&y=true")
    assert response.headers["set-cookie"] == "session=1; Path=/"
    assert response.elapsed_ms >= 0
    [request] = echo.received
    assert (request.method, request.target, request.headers["x-one"]) == ("GET", "/a?x=1&y=1&y=true", "1")


@pytest.mark.parametrize(
    ("options", "body", "content_type"),
    [
        ({"json": None}, b"null", "application/json"),
        ({"json": {"a": "ä"}}, '{"a":"ä"}'.encode(), "application/json"),
        ({"data": {"a": "1 2", "b": [1, 2]}}, b"a=1+2&b=1&b=2", "application/x-www-form-urlencoded"),
        ({"content": "text", "headers": {"Content-Type": "text/plain"}}, b"text", "text/plain"),
    ],
)
def test_a_body_is_sent_in_the_form_that_was_asked_for(
    echo: LocalServer, options: dict[str, Any], body: bytes, content_type: str
) -> None:
    fetch("POST", echo.url, allow=allowing(echo), **options)

    assert (echo.received[0].body, echo.received[0].headers["content-type"]) == (body, content_type)


@pytest.mark.parametrize(
    ("headers", "complaint"),
    [
        ({"X-A": "1\r\nX-B: 2"}, "line break"),
        ({"X-A": "1\n2"}, "line break"),
        ({"X-A": "\0"}, "NUL"),
        ({"X A": "1"}, "not valid"),
        ({"X-A:": "1"}, "not valid"),
        ({"": "1"}, "not valid"),
        ({"X-A": "€"}, "Latin-1"),
        ({"Host": "other.example"}, "set by the client"),
        ({"Content-Length": "1"}, "set by the client"),
        ({"transfer-encoding": "chunked"}, "set by the client"),
    ],
)
def test_a_header_that_would_break_the_message_is_refused(
    echo: LocalServer, headers: dict[str, str], complaint: str
) -> None:
    with pytest.raises(InvalidRequest, match=complaint):
        fetch("GET", echo.url, allow=allowing(echo), headers=headers)
    assert echo.connections == 0


@pytest.mark.parametrize("json", [float("nan"), "\ud800", {1, 2}])
def test_a_body_that_is_not_json_is_refused(echo: LocalServer, json: Any) -> None:
    with pytest.raises(InvalidRequest):
        fetch("POST", echo.url, allow=allowing(echo), json=json)
    assert echo.connections == 0


@pytest.mark.parametrize("method", ["CONNECT", "TRACE", "GET /x HTTP/1.1\r\n", ""])
def test_a_method_that_is_no_request_is_refused(echo: LocalServer, method: str) -> None:
    with pytest.raises(InvalidRequest):
        fetch(method, echo.url, allow=allowing(echo))
    assert echo.connections == 0


def test_a_cookie_of_one_answer_is_not_sent_with_the_next_request(echo: LocalServer) -> None:
    async def run() -> None:
        client = GuardedClient(allow=allowing(echo))
        await client.request("GET", echo.url)
        await client.request("GET", echo.url)
        await client.aclose()

    asyncio.run(run())
    assert ["cookie" in request.headers for request in echo.received] == [False, False]


def test_a_proxy_of_the_environment_is_not_used(echo: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(lambda request: answer(418)) as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        assert fetch("GET", echo.url, allow=allowing(echo)).status == 200
        assert proxy.connections == 0


# What is read. ---------------------------------------------------------------------------------------------------
def test_a_gzip_bomb_ends_at_the_limit_and_never_fills_the_memory() -> None:
    bomb = answer(200, gzip.compress(bytes(100_000_000)), Content_Encoding="gzip")
    with serving(lambda request: bomb) as server:
        fetch("GET", server.url, allow=allowing(server), max_bytes=10**9, headers={"Accept": "warm-up"})
        tracemalloc.start()
        try:
            with pytest.raises(ResponseTooLarge, match="5,242,880"):
                fetch("GET", server.url, allow=allowing(server))
            assert tracemalloc.get_traced_memory()[1] < 20_000_000
        finally:
            tracemalloc.stop()


def test_a_bomb_in_a_bomb_ends_at_the_limit() -> None:
    bomb = answer(200, gzip.compress(zlib.compress(bytes(100_000_000))), Content_Encoding="deflate, gzip")
    with serving(lambda request: bomb) as server, pytest.raises(ResponseTooLarge):
        fetch("GET", server.url, allow=allowing(server))


def test_an_answer_of_exactly_the_limit_is_read() -> None:
    with serving(lambda request: answer(200, bytes(1000))) as server:
        assert len(fetch("GET", server.url, allow=allowing(server), max_bytes=1000).content) == 1000
        with pytest.raises(ResponseTooLarge):
            fetch("GET", server.url, allow=allowing(server), max_bytes=999)


def test_an_endless_answer_without_length_ends_at_the_limit() -> None:
    def endless(request: Received) -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\n\r\n"
        while True:
            yield bytes(65536)

    with serving(endless) as server, pytest.raises(ResponseTooLarge):
        fetch("GET", server.url, allow=allowing(server))


def test_a_server_that_drips_ends_at_the_deadline() -> None:
    def drip(request: Received) -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"
        while True:
            yield b"x"
            time.sleep(0.02)

    with serving(drip) as server, pytest.raises(RequestTimeout, match=r"within 0\.3 seconds"):
        fetch("GET", server.url, allow=allowing(server), timeout=0.3)


def test_a_server_that_drips_its_head_ends_at_the_deadline() -> None:
    def drip(request: Received) -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nX-Slow: "
        while True:
            yield b"x"
            time.sleep(0.02)

    with serving(drip) as server, pytest.raises(RequestTimeout):
        fetch("GET", server.url, allow=allowing(server), timeout=0.3)


def test_an_answer_shorter_than_it_said_is_no_answer() -> None:
    with (
        serving(lambda request: b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort") as server,
        pytest.raises(RequestFailed),
    ):
        fetch("GET", server.url, allow=allowing(server))


def test_an_answer_longer_than_it_said_is_cut_where_it_said() -> None:
    with serving(lambda request: b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nshort and more") as server:
        assert fetch("GET", server.url, allow=allowing(server)).content == b"short"


@pytest.mark.parametrize(
    "response",
    [
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnope",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        answer(200, gzip.compress(b"x", mtime=0), Content_Encoding=", ".join(["gzip"] * 50)),
    ],
)
def test_an_answer_that_is_no_http_is_a_failure_of_unknown_outcome(response: bytes) -> None:
    with serving(lambda request: response) as server, pytest.raises(RequestFailed):
        fetch("POST", server.url, allow=allowing(server))


# What surely was not sent. ---------------------------------------------------------------------------------------
def test_a_refused_connection_was_surely_not_sent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with pytest.raises(NotSent):
        fetch("POST", f"http://127.0.0.1:{port}/", allow=parse_allow_list((f"127.0.0.1:{port}",)))


def test_a_name_that_does_not_resolve_was_surely_not_sent() -> None:
    with pytest.raises(NotSent, match=r"nowhere\.invalid could not be resolved"):
        fetch("POST", "http://nowhere.invalid/", allow=AllowList())


def test_a_deadline_during_dns_means_surely_not_sent() -> None:
    async def slow(host: str, port: int) -> list[str]:
        await asyncio.sleep(60)
        return []

    with pytest.raises(NotSent, match="Nothing was sent"):
        fetch("POST", "http://slow.example/", allow=AllowList(), resolver=slow, timeout=0.1)


def test_the_next_address_is_tried_when_the_first_is_dead(echo: LocalServer) -> None:
    async def two(host: str, port: int) -> list[str]:
        return ["127.0.0.9", "127.0.0.1"]

    allow = parse_allow_list((f"shop.example:{echo.port}",))
    response = fetch("GET", f"http://shop.example:{echo.port}/", allow=allow, resolver=two)
    assert (response.status, echo.received[0].headers["host"]) == (200, f"shop.example:{echo.port}")


# Redirects. ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("status", "method", "followed_by"),
    [
        (301, "POST", ("GET", b"")),
        (302, "POST", ("GET", b"")),
        (303, "POST", ("GET", b"")),
        (303, "PUT", ("GET", b"")),
        (303, "HEAD", ("HEAD", b"")),
        (302, "PUT", ("PUT", b"body")),
        (302, "DELETE", ("DELETE", b"body")),
        (307, "POST", ("POST", b"body")),
        (308, "PATCH", ("PATCH", b"body")),
    ],
)
def test_a_redirect_keeps_or_changes_the_method_as_http_says(
    status: int, method: str, followed_by: tuple[str, bytes]
) -> None:
    def redirect(request: Received) -> bytes:
        return (
            answer(status, Location="/there?x=1")
            if request.target == "/"
            else answer(200, b"" if method == "HEAD" else b"x")
        )

    with serving(redirect) as server:
        response = fetch(
            method, f"{server.url}/", allow=allowing(server), content=None if method == "HEAD" else b"body"
        )
    second = server.received[1]
    assert (second.method, second.body, second.target) == (*followed_by, "/there?x=1")
    assert response.url == f"{server.url}/there?x=1"
    assert ("content-length" in second.headers) == bool(followed_by[1])


SENT_HEADERS = {
    "Authorization": "Bearer s",
    "Cookie": "a=b",
    "X-Api-Key": "s",
    "Accept": "text/x",
    "Content-Type": "text/y",
}


def test_credentials_and_own_headers_stay_with_the_first_origin(echo: LocalServer) -> None:
    with serving(lambda request: answer(307, Location=f"{echo.url}/")) as first:
        fetch("POST", first.url, allow=allowing(first, echo), headers=SENT_HEADERS, content="body")
    [request] = echo.received
    assert not {"authorization", "cookie", "x-api-key"} & set(request.headers)
    assert (request.headers["accept"], request.headers["content-type"]) == ("text/x", "text/y")
    assert request.headers["host"] == f"127.0.0.1:{echo.port}"


def test_credentials_follow_a_redirect_within_the_origin() -> None:
    with serving(lambda request: answer(302, Location="/b") if request.target == "/" else answer()) as server:
        fetch("GET", f"{server.url}/", allow=allowing(server), headers=SENT_HEADERS)
    assert server.received[1].headers["authorization"] == "Bearer s"
    assert server.received[1].headers["x-api-key"] == "s"


def test_three_redirects_are_followed_and_a_fourth_is_not() -> None:
    def count_down(request: Received) -> bytes:
        left = int(request.target[1:])
        return answer(302, Location=f"/{left - 1}") if left else answer()

    with serving(count_down) as server:
        assert fetch("GET", f"{server.url}/3", allow=allowing(server)).status == 200
        with pytest.raises(TooManyRedirects, match="more than 3 times"):
            fetch("GET", f"{server.url}/4", allow=allowing(server))


def test_a_redirect_is_returned_as_it_is_when_none_is_to_be_followed() -> None:
    with serving(lambda request: answer(302, b"moved", Location="/b")) as server:
        response = fetch("GET", server.url, allow=allowing(server), follow_redirects=False)
    assert (response.status, response.content, response.headers["location"]) == (302, b"moved", "/b")
    assert server.connections == 1


@pytest.mark.parametrize(
    ("location", "error"),
    [
        ("http://169.254.169.254/latest/meta-data/", BlockedAddress),
        ("http://[::ffff:169.254.169.254]/", BlockedAddress),
        ("http://2852039166/", BlockedAddress),
        ("//localhost/", BlockedAddress),
        ("file:///etc/passwd", InvalidRequest),
        ("http://user:pass@example.com/", InvalidRequest),
        ("http://[bad/", InvalidRequest),
    ],
)
def test_a_redirect_leads_nowhere_that_a_request_may_not_go(location: str, error: type[SafeHttpError]) -> None:
    with serving(lambda request: answer(302, Location=location)) as server, pytest.raises(error):
        fetch("GET", server.url, allow=allowing(server))


def test_a_failure_after_a_redirect_is_of_unknown_outcome() -> None:
    with (
        serving(lambda request: answer(303, Location="http://nowhere.invalid/")) as server,
        pytest.raises(RequestFailed),
    ):
        fetch("POST", server.url, allow=allowing(server))


# Sharing. --------------------------------------------------------------------------------------------------------
def test_a_loop_has_one_client_and_the_next_loop_another(echo: LocalServer, settings: Any) -> None:
    settings.BLOX_HTTP_ALLOW = [f"127.0.0.1:{echo.port}"]

    async def use() -> GuardedClient:
        client = shared_client()
        assert shared_client() is client
        await client.request("GET", echo.url)
        await close_shared_client()
        return client

    assert asyncio.run(use()) is not asyncio.run(use())


def test_an_sdk_can_use_the_guard_as_its_transport(echo: LocalServer) -> None:
    async def run() -> None:
        async with httpx2.AsyncClient(transport=GuardedTransport(allow=allowing(echo)), trust_env=False) as client:
            assert (await client.get(echo.url)).status_code == 200
            with pytest.raises(BlockedAddress):
                await client.get("http://127.0.0.1/")

    asyncio.run(run())
