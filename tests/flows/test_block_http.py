"""The http block against a real server on localhost."""

import base64
import gzip
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from flows.blocks.base import BlockError, Effects
from flows.blocks.http import Http, parse_body, retry_after
from tests.flows.fakes import run_block
from tests.local_server import LocalServer, Received, answer, serving

pytestmark = pytest.mark.once


def route(request: Received) -> bytes:
    path = request.target.partition("?")[0]
    if path.startswith("/status/"):
        return answer(int(path[8:]), b'{"why": "because"}', Content_Type="application/json")
    if path == "/busy":
        return answer(503, b"later", Content_Type="text/plain", Retry_After="7")
    if path == "/moved":
        return answer(302, Location=f"/echo?{request.target.partition('?')[2]}")
    if path == "/huge":
        return answer(200, gzip.compress(bytes(6_000_000)), Content_Encoding="gzip")
    echo = {
        "method": request.method,
        "target": request.target,
        "headers": request.headers,
        "body": request.body.decode("latin-1"),
    }
    return answer(200, json.dumps(echo).encode(), Content_Type="application/json; charset=utf-8", X_Request_ID="7")


@pytest.fixture
def server(settings: Any) -> Iterator[LocalServer]:
    with serving(route) as running:
        settings.BLOX_HTTP_ALLOW = [f"127.0.0.1:{running.port}"]
        yield running


def send(server: LocalServer, path: str = "/echo", **config: Any) -> Any:
    return run_block(Http(), {"url": f"{server.url}{path}", **config})


def failure(server: LocalServer, path: str, **config: Any) -> BlockError:
    with pytest.raises(BlockError) as caught:
        send(server, path, **config)
    return caught.value


# What is sent. ---------------------------------------------------------------------------------------------------
def test_a_request_gives_status_headers_parsed_body_url_and_time(server: LocalServer) -> None:
    result = send(server, "/echo?a=1")
    assert set(result) == {"status", "headers", "body", "url", "elapsedMs"}
    assert (result["status"], result["url"]) == (200, f"{server.url}/echo?a=1")
    assert result["headers"]["x-request-id"] == "7"
    assert isinstance(result["elapsedMs"], int)
    assert (result["body"]["method"], result["body"]["target"], result["body"]["body"]) == ("GET", "/echo?a=1", "")


def test_the_steps_idempotency_key_is_sent(server: LocalServer) -> None:
    assert send(server)["body"]["headers"]["idempotency-key"] == "execution-1:step-1"


def test_the_authors_own_idempotency_key_is_kept(server: LocalServer) -> None:
    assert send(server, headers={"IDEMPOTENCY-key": "mine"})["body"]["headers"]["idempotency-key"] == "mine"


@pytest.mark.parametrize(
    ("config", "body", "content_type"),
    [
        ({"json": {"a": "é"}}, '{"a":"é"}'.encode().decode("latin-1"), "application/json"),
        ({"json": None}, "null", "application/json"),
        ({"json": False}, "false", "application/json"),
        (
            {"form": {"a": "x y", "n": [1, 2], "no": None, "t": True}},
            "a=x+y&n=1&n=2&t=true",
            "application/x-www-form-urlencoded",
        ),
        ({"body": "plain"}, "plain", "text/plain; charset=utf-8"),
        ({"body": "<a/>", "headers": {"content-type": "text/xml"}}, "<a/>", "text/xml"),
        ({"body": {"base64": "AP8=", "contentType": "image/x", "size": 2, "filename": "f"}}, "\x00\xff", "image/x"),
        ({"json": {}, "headers": {"Content-Type": "application/vnd.x+json"}}, "{}", "application/vnd.x+json"),
    ],
)
def test_a_body_is_sent_in_its_form(server: LocalServer, config: dict[str, Any], body: str, content_type: str) -> None:
    echoed = send(server, method="post", **config)["body"]
    assert (echoed["method"], echoed["body"], echoed["headers"]["content-type"]) == ("POST", body, content_type)


def test_a_request_without_a_body_has_no_content_type(server: LocalServer) -> None:
    assert "content-type" not in send(server, method="POST")["body"]["headers"]


@pytest.mark.parametrize(
    ("auth", "header"),
    [
        ({"type": "bearer", "token": "t0ken"}, "Bearer t0ken"),
        (
            {"type": "basic", "username": "ann", "password": "p:wé"},
            "Basic " + base64.b64encode("ann:p:wé".encode()).decode(),
        ),
    ],
)
def test_credentials_are_sent(server: LocalServer, auth: dict[str, str], header: str) -> None:
    assert send(server, auth=auth)["body"]["headers"]["authorization"] == header


def test_query_parameters_join_those_of_the_url(server: LocalServer) -> None:
    query = {"b": "x y", "n": [1, 2.5], "t": True, "no": None}
    assert send(server, "/echo?a=1", query=query)["body"]["target"] == "/echo?a=1&b=x+y&n=1&n=2.5&t=true"


def test_the_url_of_the_record_has_no_parameter_of_query(server: LocalServer) -> None:
    """`query` may hold secrets, and what a server redirects to often repeats it."""
    assert send(server, "/echo?a=1", query={"key": "s3cret"})["url"] == f"{server.url}/echo?a=1"
    assert send(server, "/moved?a=1", query={"key": "s3cret"})["url"] == f"{server.url}/echo?a=1"
    assert "s3cret" not in failure(server, "/status/500", query={"key": "s3cret"}).message


def test_header_values_may_be_numbers_and_booleans(server: LocalServer) -> None:
    headers = send(server, headers={"X-N": 3, "X-B": True})["body"]["headers"]
    assert (headers["x-n"], headers["x-b"]) == ("3", "true")


# What comes back. ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("content", "content_type", "body"),
    [
        (b'{"userID": [1.5, null]}', "application/json", {"userID": [1.5, None]}),
        (b'{"a": 1}', "application/problem+json; charset=utf-8", {"a": 1}),
        ('"é"'.encode("utf-16"), "application/json", "é"),
        (b"", "application/json", None),
        (b"{", "application/json", "{"),
        (b'{"a": NaN}', "application/json", '{"a": NaN}'),
        (b"9" * 5000, "application/json", "9" * 5000),
        (b"[" * 100 + b"]" * 100, "application/json", json.loads("[" * 100 + "]" * 100)),
        (b"[" * 150 + b"]" * 150, "application/json", "[" * 150 + "]" * 150),
        (b"[" * 100_000, "application/json", "[" * 100_000),
        ("é".encode("latin-1"), "text/html; charset=iso-8859-1", "é"),
        ("é".encode(), "text/plain", "é"),
        (b"\xff", "text/plain", "\ufffd"),
        (b"x", "text/plain; charset=no-such", "x"),
        (b"<a/>", "application/atom+xml", "<a/>"),
        (b"a: 1", "application/yaml", "a: 1"),
        (b"text", "", "text"),
        (b"\xff\x00", "", {"base64": "/wA=", "contentType": "application/octet-stream", "size": 2}),
        (b"\x89PNG", "image/png", {"base64": "iVBORw==", "contentType": "image/png", "size": 4}),
        (b"text", "garbage", "text"),
        (b"", "image/png", None),
    ],
)
def test_a_body_becomes_a_value_by_its_content_type(content: bytes, content_type: str, body: Any) -> None:
    assert parse_body(content, content_type) == body


@pytest.mark.parametrize(
    ("status", "retryable", "repeat_is_safe"),
    [
        (400, False, False),
        (404, False, False),
        (408, True, False),
        (409, False, False),
        (425, True, False),
        (429, True, True),
        (500, True, False),
        (503, True, True),
        (504, True, False),
        (599, True, False),
    ],
)
def test_an_unexpected_status_is_an_error_that_shows_the_answer(
    server: LocalServer, status: int, retryable: bool, repeat_is_safe: bool
) -> None:
    error = failure(server, f"/status/{status}?key=s3cret", method="DELETE")
    assert error.message.startswith(f"DELETE {server.url}/status/{status} answered {status}")
    assert error.message.endswith(': {"why": "because"}')
    assert (error.code, error.retryable, error.repeat_is_safe) == ("unexpected_status", retryable, repeat_is_safe)


def test_an_expected_status_is_a_success_and_any_other_an_error(server: LocalServer) -> None:
    assert send(server, "/status/404", expect=[200, 404])["status"] == 404
    assert failure(server, "/status/201", expect=[200, 404]).code == "unexpected_status"


def test_the_error_says_how_long_the_server_wants_to_be_left_alone(server: LocalServer) -> None:
    assert failure(server, "/busy").retry_after == 7


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("0", 0),
        ("120", 120),
        ("Fri, 01 Jan 2027 00:01:00 GMT", 60),
        ("Thu, 31 Dec 2026 00:00:00 GMT", 0),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("²", None),
        ("", None),
        ("9" * 400, 9999999999),
    ],
)
def test_retry_after_is_read_as_seconds_or_a_date(header: str | None, seconds: float | None) -> None:
    assert retry_after(header, datetime(2027, 1, 1, tzinfo=UTC)) == seconds


def test_a_redirect_that_is_not_followed_is_a_status_like_any_other(server: LocalServer) -> None:
    assert send(server, "/moved", follow_redirects=False, expect=[302])["headers"]["location"] == "/echo?"
    assert failure(server, "/moved", follow_redirects=False).code == "unexpected_status"


def test_an_answer_to_head_has_no_body(server: LocalServer) -> None:
    assert send(server, method="HEAD")["body"] is None


# What fails. -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("config", "code", "retryable", "repeat_is_safe"),
    [
        ({"url": "http://169.254.169.254/latest"}, "address_blocked", False, False),
        ({"url": "http://127.0.0.1/"}, "address_blocked", False, False),
        ({"url": "ftp://example.com/"}, "invalid_request", False, False),
        ({"url": "example.com"}, "invalid_request", False, False),
        ({"url": "http://ann:pw@example.com/"}, "invalid_request", False, False),
        ({"url": "http://nowhere.invalid/"}, "http_not_sent", True, True),
        ({"headers": {"X": "a\r\nb"}}, "invalid_request", False, False),
        ({"headers": {"Host": "other"}}, "invalid_request", False, False),
        ({"method": "POST", "json": float("nan")}, "invalid_request", False, False),
        ({"method": "POST", "body": {"base64": "!"}}, "invalid_request", False, False),
    ],
)
def test_a_request_that_can_not_be_made_says_why(
    server: LocalServer, config: dict[str, Any], code: str, retryable: bool, repeat_is_safe: bool
) -> None:
    error = failure(server, "/echo", **config)
    assert (error.code, error.retryable, error.repeat_is_safe) == (code, retryable, repeat_is_safe)
    assert server.connections == 0


def test_a_blocked_address_tells_an_operator_what_to_set(server: LocalServer) -> None:
    assert "BLOX_HTTP_ALLOW=10.0.0.1:80" in failure(server, "", url="http://10.0.0.1/").message


def test_too_large_an_answer_is_not_asked_for_again(server: LocalServer) -> None:
    error = failure(server, "/huge")
    assert (error.code, error.retryable) == ("response_too_large", False)


def test_a_connection_that_breaks_off_leaves_the_outcome_unknown(settings: Any) -> None:
    with serving(lambda request: b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx") as server:
        settings.BLOX_HTTP_ALLOW = [f"127.0.0.1:{server.port}"]
        error = failure(server, "/", method="POST")
    assert (error.code, error.retryable, error.repeat_is_safe) == ("http_failed", True, False)


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"json": 1, "body": "x"}, "give only one of json, form and body, not json and body"),
        ({"json": None, "form": {}, "body": ""}, "not json and form and body"),
        ({"method": "CONNECT"}, "Input should be 'GET'"),
        ({"auth": {"type": "digest"}}, "basic"),
        ({"auth": {"type": "basic", "username": "a:b", "password": ""}}, "pattern"),
        ({"auth": {"type": "bearer", "token": "t"}, "headers": {"authorization": "x"}}, "not both"),
        ({"expect": [99]}, "greater than or equal to 100"),
        ({"expect": "2xx"}, "valid list"),
        ({"headers": {"X": [1]}}, "headers"),
        ({"query": {"a": {"b": 1}}}, "query"),
        ({"timeout": 5}, "Extra inputs"),
        ({"url": ""}, "at least 1"),
    ],
)
def test_a_config_that_does_not_hold_says_why(config: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        Http.Config.model_validate({"url": "http://x.example", **config})


@pytest.mark.parametrize(
    ("method", "effects"),
    [
        (None, Effects.REPEATABLE),
        ("GET", Effects.REPEATABLE),
        ("head", Effects.REPEATABLE),
        ("OPTIONS", Effects.REPEATABLE),
        ("PUT", Effects.REPEATABLE),
        ("delete", Effects.REPEATABLE),
        ("POST", Effects.ONCE),
        ("patch", Effects.ONCE),
        ("{{ payload.method }}", Effects.ONCE),
        (7, Effects.ONCE),
    ],
)
def test_the_method_decides_what_may_be_repeated(method: Any, effects: Effects) -> None:
    assert Http().effects({} if method is None else {"method": method}) is effects
