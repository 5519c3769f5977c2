"""/api-keys: what a user may store, see and remove."""

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from django.db import connection
from pytest_django import Settings
from rest_framework.test import APIClient

from accounts.models import User
from accounts.services import apply_clerk_event
from bloxserver.core.crypto import decrypt
from bloxserver.core.errors import NotFound
from llm.models import UserKey
from llm.services import add_key, keys, mark_key_refused
from tests.conftest import api_as
from tests.llm.keys import KEY, OTHER_KEY, PATH, provider
from tests.llm.model_server import ModelServer, fail, slow, text
from tests.openapi import document

__all__ = ["provider"]  # the fixture

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)


def add(api: APIClient, key: Any = KEY, provider: Any = "openai") -> Any:
    return api.post(PATH, {"provider": provider, "apiKey": key}, format="json")


def test_a_key_that_the_provider_takes_is_stored_and_shown_as_the_seed_says(
    api: APIClient, provider: ModelServer
) -> None:
    answer = add(api)
    shown = {
        "provider": "openai",
        "keyHint": "...WXYZ",
        "isValid": True,
        "lastUsedAt": None,
        "createdAt": answer.json()["createdAt"],
    }

    assert (answer.status_code, answer.json()) == (201, shown)
    assert api.get(f"{PATH}/openai").json() == shown
    assert api.get(PATH).json()["items"] == [shown]
    assert [(request.key, request.path) for request in provider.log] == [(KEY, "/models")]
    assert decrypt(UserKey.objects.get().encrypted_key) == KEY


def test_the_document_names_the_fields_of_the_seed() -> None:
    schemas = document()["components"]["schemas"]
    assert list(schemas["ApiKeyInfo"]["properties"]) == ["provider", "keyHint", "isValid", "lastUsedAt", "createdAt"]
    assert list(schemas["AddApiKeyRequest"]["properties"]) == ["provider", "apiKey"]
    assert schemas["AddApiKeyRequest"]["properties"]["apiKey"]["minLength"] == 10


def test_the_key_is_in_no_row_answer_or_log(
    api: APIClient, provider: ModelServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    said = [add(api).content, api.get(PATH).content]
    provider.refuse_key(OTHER_KEY)
    said.append(add(api, OTHER_KEY).content)

    text = repr(said) + repr(list(UserKey.objects.values())) + repr(UserKey.objects.get()) + caplog.text
    assert "canary" not in text


def test_a_refused_key_is_400_with_the_reason_and_leaves_the_old_one(api: APIClient, provider: ModelServer) -> None:
    add(api)
    provider.refuse_key(OTHER_KEY)
    answer = add(api, OTHER_KEY)

    assert (answer.status_code, answer.json()["code"]) == (400, "key_refused")
    assert "refused the key" in answer.json()["details"]["apiKey"][0]
    assert decrypt(UserKey.objects.get().encrypted_key) == KEY


@pytest.mark.once
@pytest.mark.parametrize("reply", [fail(500), fail(429)])
def test_a_provider_that_cannot_tell_is_503_and_nothing_is_stored(
    api: APIClient, settings: Settings, reply: Any
) -> None:
    with ModelServer() as server:
        settings.BLOX_HTTP_ALLOW, settings.BLOX_LLM_BASE_URLS = [server.host], {"openai": server.url}
        server.begin = lambda request: reply  # type: ignore[method-assign]
        answer = add(api)

    assert (answer.status_code, answer.json()["code"]) == (503, "provider_unavailable")
    assert int(answer["Retry-After"]) > 0
    assert not UserKey.objects.exists()


def test_a_provider_that_is_away_is_503(api: APIClient) -> None:
    assert add(api).status_code == 503


@pytest.mark.once
def test_a_provider_that_does_not_answer_is_given_up(
    api: APIClient, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llm.services.keys.CHECK_SECONDS", 0.2)
    with ModelServer() as server:
        settings.BLOX_HTTP_ALLOW, settings.BLOX_LLM_BASE_URLS = [server.host], {"openai": server.url}
        server.begin = lambda request: slow(3, text("late"))  # type: ignore[method-assign]
        answer = add(api)

    assert answer.status_code == 503 and "in time" in answer.json()["message"]


def test_keys_that_are_checked_hold_a_few_threads_at_most(api: APIClient, provider: ModelServer) -> None:
    taken = [keys._checks.acquire(blocking=False) for _ in range(keys.CHECKS_AT_ONCE)]
    try:
        answer = add(api)
    finally:
        for _ in taken:
            keys._checks.release()

    assert all(taken) and (answer.status_code, answer.json()["code"]) == (503, "provider_unavailable")
    assert answer["Retry-After"] == "3" and provider.log == []
    provider.refuse_key(OTHER_KEY)
    assert [add(api, key).status_code for key in [OTHER_KEY] * keys.CHECKS_AT_ONCE + [KEY]] == [400] * 4 + [201]


def test_another_key_takes_the_place_of_the_first(api: APIClient, alice: User, provider: ModelServer) -> None:
    add(api)
    first = UserKey.objects.get().pk
    mark_key_refused(key_id=first, reason="no credit", now=NOW)
    answer = add(api, OTHER_KEY)

    assert (answer.status_code, answer.json()["keyHint"], answer.json()["isValid"]) == (201, "...QRST", True)
    assert UserKey.objects.get().pk != first


def test_spaces_around_a_key_are_left_out(api: APIClient, provider: ModelServer) -> None:
    assert add(api, f"  {KEY}\n").status_code == 201
    assert decrypt(UserKey.objects.get().encrypted_key) == KEY


@pytest.mark.once
@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"provider": "nobody", "apiKey": KEY}, "provider"),
        ({"provider": "OpenAI", "apiKey": KEY}, "provider"),
        ({"provider": "", "apiKey": KEY}, "provider"),
        ({"apiKey": KEY}, "provider"),
        ({"provider": "openai", "apiKey": "sk-short1"}, "apiKey"),
        ({"provider": "openai", "apiKey": "sk-with a space in it"}, "apiKey"),
        ({"provider": "openai", "apiKey": "sk-with\r\nX-Header: of its own"}, "apiKey"),
        ({"provider": "openai", "apiKey": "sk-schlüssel-0123456789"}, "apiKey"),
        ({"provider": "openai", "apiKey": "k" * 4097}, "apiKey"),
        ({"provider": "openai", "apiKey": 1234567890123}, "apiKey"),
        ({"provider": "openai"}, "apiKey"),
    ],
)
def test_what_is_no_key_is_400_and_nobody_is_asked(
    api: APIClient, provider: ModelServer, body: dict[str, Any], field: str
) -> None:
    answer = api.post(PATH, body, format="json")

    assert answer.status_code == 400 and field in answer.json()["details"], answer.content
    assert (provider.log, UserKey.objects.count()) == ([], 0)


@pytest.mark.once
@pytest.mark.parametrize(
    ("name", "key"),
    [("together", "sk-ant-api03-0123456789abcdefghijklmnop"), ("openai", "xai-0123456789abcdefghijkl"), ("xai", KEY)],
)
def test_a_key_is_not_sent_to_another_provider_than_its_own(
    api: APIClient, provider: ModelServer, settings: Settings, name: str, key: str
) -> None:
    """Where a user's key goes to the provider itself: a gateway's keys look as they like."""
    settings.BLOX_LLM_BASE_URLS = {}
    settings.BLOX_HTTP_ALLOW = []
    answer = add(api, key, name)

    assert (answer.status_code, answer.json()["code"]) == (400, "key_refused")
    assert "This is a key of" in answer.json()["message"]


def test_a_provider_of_the_setting_takes_keys_of_any_form(api: APIClient, provider: ModelServer) -> None:
    assert add(api, "0123456789", "gateway").status_code == 201
    assert [request.key for request in provider.log] == ["0123456789"]


def test_a_removed_key_is_gone(api: APIClient, provider: ModelServer) -> None:
    add(api)

    assert api.delete(f"{PATH}/openai").status_code == 204
    assert (api.get(f"{PATH}/openai").status_code, api.delete(f"{PATH}/openai").status_code) == (404, 404)
    assert not UserKey.objects.exists()


@pytest.mark.parametrize("name", ["anthropic", "a" * 5000, "Ä"])
def test_a_provider_without_a_key_is_404(api: APIClient, name: str) -> None:
    assert (api.get(f"{PATH}/{name}").status_code, api.delete(f"{PATH}/{name}").status_code) == (404, 404)


def test_each_user_has_keys_of_their_own(api: APIClient, bobs_api: APIClient, provider: ModelServer) -> None:
    add(api)
    add(bobs_api, OTHER_KEY)
    add(api, KEY, "xai")

    assert [item["keyHint"] for item in bobs_api.get(PATH).json()["items"]] == ["...QRST"]
    assert [item["provider"] for item in api.get(PATH).json()["items"]] == ["openai", "xai"]
    bobs_api.delete(f"{PATH}/openai")
    assert api.get(f"{PATH}/openai").status_code == 200


def test_the_keys_of_a_deleted_user_go_at_once(provider: ModelServer) -> None:
    user = User.objects.create_user("gone@shop.example", clerk_subject="user_gone")
    add(api_as(user))
    apply_clerk_event({"type": "user.deleted", "data": {"id": "user_gone"}})

    assert not UserKey.objects.exists()


def test_a_user_who_is_deleted_while_the_provider_is_asked_gets_no_key(alice: User, provider: ModelServer) -> None:
    """Their request was let in before."""
    User.objects.filter(pk=alice.pk).update(deleted_at=NOW)

    with pytest.raises(NotFound):
        add_key(user=alice, provider="openai", key=KEY, now=NOW)
    assert not UserKey.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_two_that_store_a_key_at_once_both_succeed_and_one_key_stays(
    alice: User, provider: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would meet before their rows are written, if the one did not wait for the other."""
    both_write = threading.Barrier(2, timeout=0.3)
    save = UserKey.save

    def meet_and_save(self: UserKey, **kwargs: Any) -> None:
        with suppress(threading.BrokenBarrierError):
            both_write.wait()
        save(self, **kwargs)

    def store(key: str) -> None:
        try:
            add_key(user=alice, provider="openai", key=key, now=NOW)
        finally:
            connection.close()

    monkeypatch.setattr(UserKey, "save", meet_and_save)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(store, [KEY, OTHER_KEY]))
    assert UserKey.objects.get().provider == "openai"
