"""What a provider can do wrong, and what is made of it: the real SDKs against a server that does it."""

import logging
import time
from typing import Any

import pytest
from pytest_django import Settings

from llm.errors import Failure
from llm.exchange import Endpoint, UserMessage
from tests.llm import model_server as served
from tests.llm.asking import EACH_KIND, KEY, KINDS, MODELS, PROVIDERS, QUESTION, SAYS, at, failure
from tests.llm.model_server import ModelServer, Reply, fail, text
from tests.local_server import Received, answer, serving

pytestmark = pytest.mark.once

UNREACHABLE = "openai gave no answer: the connection to it failed; the operator's log says why."

EVENT_STREAM = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/event-stream\r\n\r\n"

EVERYWHERE = [
    (fail(429, {"Retry-After": "7"}), Failure.RATE_LIMITED),
    (fail(500), Failure.UNAVAILABLE),
    (fail(503, body="<html>"), Failure.UNAVAILABLE),
    (fail(529), Failure.UNAVAILABLE),
    (fail(302, {"Location": "/v1/elsewhere"}), Failure.UNAVAILABLE),
    (served.cut(), Failure.UNAVAILABLE),
    (served.unfinished(), Failure.UNAVAILABLE),
    (served.error_event(), Failure.UNAVAILABLE),
    (served.garbage(), Failure.BAD_ANSWER),
    (fail(401), Failure.KEY_REFUSED),
    (fail(403), Failure.KEY_REFUSED),
    (fail(402), Failure.KEY_REFUSED),
    (fail(404), Failure.MODEL_UNKNOWN),
    (fail(400, message="prompt is too long: 300000 tokens > 200000"), Failure.CONTEXT_TOO_LONG),
    (fail(413), Failure.CONTEXT_TOO_LONG),
    (fail(422), Failure.REQUEST_REFUSED),
    (fail(400, code="content_filter"), Failure.CONTENT_REFUSED),
]


@pytest.mark.parametrize(("reply", "expected"), EVERYWHERE)
def test_each_failure_says_what_it_means(model_server: ModelServer, reply: Reply, expected: Failure) -> None:
    for kind in KINDS:
        for streamed in (False, True):
            model_server.script(reply)
            got = failure(at(model_server, kind), heard=[] if streamed else None)
            assert got.failure is expected, (kind, streamed, got)
            assert PROVIDERS[kind] in got.message or MODELS[kind] in got.message
    assert len(model_server.log) == 6  # each was asked once: retries are the caller's


@pytest.mark.parametrize(
    ("kind", "reply", "expected"),
    [
        ("openai", fail(429, code="insufficient_quota"), Failure.KEY_REFUSED),
        ("openai", fail(400, code="context_length_exceeded"), Failure.CONTEXT_TOO_LONG),
        ("openai", fail(400, message="Incorrect API key provided: xa***ng."), Failure.KEY_REFUSED),
        ("openai", fail(400, message="The model `gpt-nope` does not exist."), Failure.MODEL_UNKNOWN),
        ("anthropic", fail(400, message="Your credit balance is too low to access the API."), Failure.KEY_REFUSED),
    ],
)
def test_a_providers_own_words_are_understood(
    model_server: ModelServer, kind: str, reply: Reply, expected: Failure
) -> None:
    model_server.script(reply)

    assert failure(at(model_server, kind)).failure is expected


@pytest.mark.parametrize(
    ("header", "least", "most"),
    [("7", 7, 7), ("Fri, 01 Jan 2100 00:00:00 GMT", 86_400, 1e10), ("soon", None, None), ("-3", None, None)],
)
def test_the_wait_that_a_provider_asks_for_is_told(
    model_server: ModelServer, header: str, least: float | None, most: float | None
) -> None:
    model_server.script(fail(429, {"Retry-After": header}))

    wait = failure(at(model_server)).retry_after

    assert (wait is None) if least is None or most is None else (wait is not None and least <= wait <= most)


@SAYS
def test_a_provider_that_is_slow_is_left_in_time(model_server: ModelServer, streamed: bool) -> None:
    slow = text("a b c d e f", pause=0.1) if streamed else served.slow(2)  # it drips, so that no read takes long
    model_server.script(slow)

    got = failure(at(model_server), heard=[] if streamed else None, timeout=0.25)

    assert (got.failure, got.message) == (Failure.TIMEOUT, "openai did not answer within 0.25 seconds.")


@EACH_KIND
@pytest.mark.parametrize("reply", [served.slow(2), text("a b c d e f", pause=2)], ids=["at all", "in the middle"])
def test_a_provider_that_falls_silent_is_left(model_server: ModelServer, kind: str, reply: Reply) -> None:
    model_server.script(reply)

    got = failure(at(model_server, kind), heard=[], silence=0.25)

    assert (got.failure, got.message) == (Failure.TIMEOUT, f"{PROVIDERS[kind]} said nothing for 0.25 seconds.")


@pytest.mark.parametrize("accepted", [False, True])
def test_a_stream_that_was_accepted_has_more_time_than_one_that_was_not(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, accepted: bool
) -> None:
    monkeypatch.setattr("llm.wire.listening.UNACCEPTED_SECONDS", 0.1)

    def thinks(_: Received) -> Any:
        if accepted:
            yield EVENT_STREAM
        time.sleep(0.7)

    with serving(thinks) as server:
        settings.BLOX_HTTP_ALLOW = [f"{server.host}:{server.port}"]
        got = failure(Endpoint("row-1", "acme", "openai", "m", server.url, KEY), heard=[], silence=0.3)

    seconds = 0.3 if accepted else 0.1
    assert (got.failure, got.message) == (Failure.TIMEOUT, f"acme said nothing for {seconds} seconds.")
    assert (got.accepted, got.began) == (accepted, False)


def test_a_ping_is_no_word(settings: Settings) -> None:
    def pings(_: Received) -> Any:
        yield EVENT_STREAM
        for _number in range(15):
            time.sleep(0.05)
            yield b": ping\n\n"

    with serving(pings) as server:
        settings.BLOX_HTTP_ALLOW = [f"{server.host}:{server.port}"]
        got = failure(Endpoint("row-1", "acme", "openai", "m", server.url, KEY), heard=[], silence=0.25)

    assert (got.failure, got.message) == (Failure.TIMEOUT, "acme said nothing for 0.25 seconds.")


@EACH_KIND
@pytest.mark.parametrize("streamed", [False, True])
def test_a_cut_answer_has_begun_also_where_it_is_no_text(model_server: ModelServer, kind: str, streamed: bool) -> None:
    heard: list[str] | None = [] if streamed else None
    model_server.script(served.calls([("search", {"q": "a long question " * 9})], broken="cut"), fail(500))

    cut, down = failure(at(model_server, kind), heard=heard), failure(at(model_server, kind), heard=heard)

    assert (cut.failure, cut.began, down.began, heard or []) == (Failure.UNAVAILABLE, True, False, [])


def test_a_private_address_is_not_reached_and_only_the_log_names_it(
    model_server: ModelServer, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    settings.BLOX_HTTP_ALLOW = []

    got = failure(at(model_server))

    assert (got.failure, got.message) == (Failure.UNAVAILABLE, UNREACHABLE)
    assert f"BLOX_HTTP_ALLOW={model_server.host}" in caplog.text
    assert model_server.log == []


@pytest.mark.parametrize("own_key", [False, True])
def test_of_a_server_that_is_not_there_tenants_hear_no_address(
    settings: Settings, caplog: pytest.LogCaptureFixture, own_key: bool
) -> None:
    settings.BLOX_HTTP_ALLOW = ["127.0.0.1:1"]

    got = failure(Endpoint("row-1", "openai", "openai", "m", "http://127.0.0.1:1/v1", KEY, own_key=own_key))

    assert (got.failure, got.message) == (Failure.UNAVAILABLE, UNREACHABLE)
    assert "endpoint=row-1" in caplog.text


def test_a_provider_without_a_base_url_says_so(model_server: ModelServer) -> None:
    got = failure(at(model_server, provider="acme", base_url=""))

    assert got.message == "The provider acme has no base URL; give it one."


@SAYS
def test_an_answer_without_end_is_left(settings: Settings, streamed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm.wire.http.MAX_ANSWER_BYTES", 100_000)

    def endless(_: Received) -> Any:
        kind = b"text/event-stream" if streamed else b"application/json"
        yield b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: " + kind + b"\r\n\r\n"
        while True:
            yield b": nothing\n\n" * 1000

    with serving(endless) as server:
        settings.BLOX_HTTP_ALLOW = [f"{server.host}:{server.port}"]
        endpoint = Endpoint("row-1", "acme", "openai", "m", server.url, KEY)
        assert "larger than" in failure(endpoint, heard=[] if streamed else None).message


@EACH_KIND
@pytest.mark.parametrize(("key", "prompt"), [("sk-bad\nkey", "x"), ("sk-bad", "\ud800")])
def test_what_cannot_be_sent_is_refused_without_saying_the_key(
    model_server: ModelServer, kind: str, key: str, prompt: str
) -> None:
    got = failure(at(model_server, kind, api_key=key), messages=(UserMessage(prompt),))

    assert got.failure is Failure.REQUEST_REFUSED and "cannot be sent" in got.message and "bad" not in got.message


@pytest.mark.parametrize("url", ["nonsense", "http://[", "ftp://127.0.0.1/v1", "http://user:pw@127.0.0.1/v1"])
def test_a_base_url_that_is_none_makes_an_endpoint_unavailable(model_server: ModelServer, url: str) -> None:
    got = failure(at(model_server, base_url=url))

    assert got.failure is Failure.UNAVAILABLE and "pw" not in got.message


def test_an_answer_that_is_compressed_without_being_asked_for_is_refused(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(lambda _: answer(200, b"\x1f\x8b", Content_Encoding="gzip")) as server:
        settings.BLOX_HTTP_ALLOW = [f"{server.host}:{server.port}"]
        got = failure(Endpoint("row-1", "acme", "openai", "m", server.url, KEY))
        assert (
            "compressed" in caplog.text
            and got.failure is Failure.UNAVAILABLE
            and server.received[0].headers["accept-encoding"] == "identity"
        )


@EACH_KIND
def test_no_key_is_in_an_error_its_causes_or_the_log(
    model_server: ModelServer, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for reply in [fail(401, message=f"bad key {KEY}"), fail(429, message=f"slow down {KEY}"), served.garbage()]:
        model_server.script(reply)
        got = failure(at(model_server, kind))
        assert got.__cause__ is None and got.__context__ is None and KEY not in got.message
        assert reply.status != 429 or "slow down ***" in got.message
    assert KEY not in caplog.text and QUESTION[0].text not in caplog.text and KEY not in repr(at(model_server, kind))
