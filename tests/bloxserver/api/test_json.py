"""What the API's JSON parser refuses, and what it leaves untouched."""

import io
import json
from typing import Any

import pytest
from django.test import RequestFactory
from django.test.client import ClientHandler
from rest_framework.test import APIClient

from accounts.models import User
from bloxserver.api import strict_json

pytestmark = [pytest.mark.django_db, pytest.mark.urls("tests.bloxserver.api.urls")]

ECHO = "/api/v1/test/echo"
USER_KEYS = {
    "userID": 1,
    "ABCD": 2,
    "X-Request-Id": 3,
    "snake_key": {"nested_snake": [{"deep_snake": 1, "deepCamel": 2}]},
    "__typename": 4,
    "a1": 5,
    "": 6,
    "ключ": 7,
}


def post(api: APIClient, body: bytes, content_type: str = "application/json") -> Any:
    return api.generic("POST", ECHO, body, content_type=content_type)  # type: ignore[arg-type]  # bytes are fine


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b'{"a": NaN}', "NaN is not JSON"),
        (b'{"a": Infinity}', "Infinity is not JSON"),
        (b'{"a": -Infinity}', "-Infinity is not JSON"),
        (b'{"a": 1e400}', "too large"),
        (b'{"a": -1e400}', "too large"),
        (b'{"a": ' + b"9" * 309 + b"}", "more than 308 digits"),
        (b'{"a": ' + b"9" * 100_000 + b"}", "more than 308 digits"),
        (b'{"a": 1, "a": 2}', 'Duplicate key "a"'),
        (b'{"a": {"b": 1, "c": 2, "b": 3}}', 'Duplicate key "b"'),
        (b'{"list": [{"name": "\\ud800"}]}', "list[0].name"),
        (b'{"a": "\\udc00\\ud800"}', "Half of a surrogate pair"),
        (b'{"\\ud83d": 1}', "Half of a surrogate pair"),
        (b'{"a": {"b": "x\\u0000y"}}', "NUL character (\\u0000) cannot be stored: see a.b"),
        (b'{"a\\u0000": 1}', "NUL character"),
        (b'{"a": "\x00"}', "Invalid control character at: line 1 column 8"),
        (b'{"a": "\xff"}', "not valid UTF-8: byte 7"),
        (b'{"a": "\xed\xa0\x80"}', "not valid UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "not valid UTF-8"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "Nested deeper than 100"),
        (b'{"a": ' * 100_000 + b"1" + b"}" * 100_000, "Nested deeper than 100"),
        (b'{"a": ' + b"[" * 100 + b"]" * 100 + b"}", "Nested deeper than 100"),
        (b'{"a": ' + b"[" * 100_000, "Nested deeper than 100"),
        (b'{"a": 1', "line 1 column 8"),
        (b"{'a': 1}", "line 1 column 2"),
        (b'{"a": 1} {"b": 2}', "Extra data"),
        (b"   ", "line 1 column 4"),
        (b"[1, 2]", "must be a JSON object"),
        (b'"text"', "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b"0", "must be a JSON object"),
    ],
)
def test_what_is_not_strict_json_is_refused_with_the_reason(api: APIClient, body: bytes, says: str) -> None:
    response = post(api, body)
    error = response.json()
    assert (response.status_code, error["code"], error["details"]) == (400, "invalid_json", None)
    assert says in error["message"]
    assert len(error["message"]) < 400


@pytest.mark.parametrize(
    "value",
    [
        {"a": "\\u0000 is six characters here"},
        {"a": "\\ud800 too"},
        {"emoji": "\U0001f600"},
        {"n": 10**307},
        {"n": -1.5e300},
        {"n": [[[[]]]] * 30},
        {},
    ],
)
def test_what_only_looks_suspicious_is_kept(api: APIClient, value: Any) -> None:
    response = post(api, json.dumps(value).encode())
    assert (response.status_code, response.json()) == (200, value)


def test_a_hundred_levels_are_accepted(api: APIClient) -> None:
    body = b'{"a": ' + b"[" * 99 + b"]" * 99 + b"}"
    assert post(api, body).content == body.replace(b" ", b"")


def test_a_byte_order_mark_is_skipped(api: APIClient) -> None:
    assert post(api, b'\xef\xbb\xbf{"a": 1}').json() == {"a": 1}


def test_an_escaped_surrogate_pair_is_one_character(api: APIClient) -> None:
    assert post(api, b'{"a": "\\ud83d\\ude00"}').json() == {"a": "\U0001f600"}


def test_an_empty_body_is_an_empty_object(api: APIClient) -> None:
    assert post(api, b"").json() == {}


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "application/xml", "", "rubbish"]
)
def test_another_content_type_is_415(api: APIClient, content_type: str) -> None:
    response = post(api, b'{"a": 1}', content_type)
    assert (response.status_code, response.json()["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize("encoding", ["gzip", "br", "GZIP, identity"])
def test_a_body_that_is_compressed_is_415_and_says_so(api: APIClient, encoding: str) -> None:
    response = api.generic("POST", ECHO, "x", content_type="application/json", HTTP_CONTENT_ENCODING=encoding)
    assert (response.status_code, response.json()["code"]) == (415, "unsupported_content_encoding")
    assert "send it uncompressed" in response.json()["message"]


def test_an_encoding_that_is_none_is_taken(api: APIClient) -> None:
    response = api.generic("POST", ECHO, "{}", content_type="application/json", HTTP_CONTENT_ENCODING="identity")
    assert response.status_code == 200


@pytest.mark.parametrize("charset", ["rot13", "idna", "punycode", "utf-7", "unicode_escape", "hex", "nope", "x" * 500])
def test_a_charset_that_is_no_text_encoding_is_400(api: APIClient, charset: str) -> None:
    response = post(api, b'{"a": 1}', f"application/json; charset={charset}")
    assert (response.status_code, response.json()["code"]) == (400, "bad_request")


def test_a_body_over_the_limit_is_413(api: APIClient, settings: Any) -> None:
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 1000
    body = b'{"a": "' + b"x" * (1000 - 9) + b'"}'
    assert post(api, body).status_code == 200
    response = post(api, body + b" ")
    assert (response.status_code, response.json()["code"]) == (413, "payload_too_large")
    assert "1000 bytes" in response.json()["message"]


@pytest.mark.parametrize(
    "field", ["config", "canvasState", "inputPayload", "payload", "value", "input", "output", "example"]
)
def test_the_users_own_keys_come_back_key_for_key(api: APIClient, field: str) -> None:
    assert api.post(ECHO, {field: USER_KEYS}).json() == {field: USER_KEYS}


def test_the_apis_own_keys_are_camel_case_outside(api: APIClient) -> None:
    assert api.post(ECHO, {"organismYaml": 1, "nested": [{"sourceHandle": 2}]}).json() == {
        "organismYaml": 1,
        "nested": [{"sourceHandle": 2}],
    }


def chunked(alice: User, body: bytes) -> Any:
    """As a server hands it on: no length, and an input that ends where the body ends."""
    environ = {
        **RequestFactory().generic("POST", ECHO).environ,
        "HTTP_AUTHORIZATION": f"Bearer dev:{alice.email}",
        "HTTP_TRANSFER_ENCODING": "chunked",
        "CONTENT_LENGTH": "",
        "CONTENT_TYPE": "application/json",
        "wsgi.input": io.BytesIO(body),
    }
    return ClientHandler()(environ)


def test_a_body_sent_in_chunks_is_read(alice: User) -> None:
    response = chunked(alice, b'{"a":1}')
    assert (response.status_code, response.content) == (200, b'{"a":1}')


def test_a_body_sent_in_chunks_has_the_same_limit(alice: User, settings: Any) -> None:
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 1000
    response = chunked(alice, b'{"a":"' + b"x" * 1000 + b'"}')
    assert (response.status_code, json.loads(response.content)["code"]) == (413, "payload_too_large")


def test_the_reader_stands_alone_with_a_depth_of_its_own() -> None:
    assert strict_json.loads(b"[[1]]", max_depth=2) == [[1]]
    with pytest.raises(strict_json.StrictJSONError, match="Nested deeper than 2 levels"):
        strict_json.loads(b"[[[1]]]", max_depth=2)
