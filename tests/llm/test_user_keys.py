"""Which key a call goes with, what becomes of one that is refused, and who serves a model."""

import smtplib
from datetime import UTC, datetime, timedelta
from math import inf, nan
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.core import mail
from django.db import IntegrityError, transaction
from pytest_django import DjangoAssertNumQueries, Settings

from accounts.models import User
from llm.checks import base_urls_are_names_and_urls, load_is_shed_by_degrees
from llm.models import Provider, UserKey
from llm.notices import tell_of_refused_keys
from llm.services import (
    endpoints_for,
    forget_pool,
    mark_key_refused,
    mark_key_valid,
    remove_key,
    switch_provider,
    touch_key,
    unknown_model_reason,
)
from tests.llm.keys import KEY, OTHER_KEY

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)


def own_key(user: User, provider: str = "openai", key: str = KEY) -> UserKey:
    row = UserKey(user=user, provider=provider, checked_at=NOW, created_at=NOW)
    row.set_key(key)
    row.save()
    return row


def in_pool(name: str, provider: str = "openai", key: str = "pool-key", **fields: Any) -> Provider:
    row = Provider(name=name, provider=provider, **fields)
    row.set_key(key)
    row.save()
    forget_pool()
    return row


def ids(model: str, user: User) -> list[str]:
    """Of the pool's rows by name, and "own"."""
    names = {str(row.pk): row.name for row in Provider.objects.all()}
    return [names.get(endpoint.id, "own") for endpoint in endpoints_for(model=model, user=user)]


# Who serves a model. ---------------------------------------------------------------------------------------------
def test_an_own_key_goes_before_the_pool(alice: User, bob: User) -> None:
    key = own_key(alice)
    in_pool("first")
    mine, pools = endpoints_for(model="openai:gpt-5", user=alice)

    assert (mine.id, mine.api_key, mine.own_key, mine.concurrency) == (f"own:{key.pk}", KEY, True, 20)
    assert (pools.api_key, pools.own_key, pools.model) == ("pool-key", False, "gpt-5")
    assert ids("openai:gpt-5", bob) == ["first"]


def test_the_pool_is_asked_by_priority_and_as_it_is_set_up(alice: User) -> None:
    in_pool("last", priority=9)
    in_pool("b", priority=1, kind="openai-responses", base_url="http://b:1/v1", weight=3, concurrency=7)
    in_pool("a", priority=1)
    endpoints = endpoints_for(model="openai:gpt-5", user=alice)

    assert ids("openai:gpt-5", alice) == ["a", "b", "last"]
    b = endpoints[1]
    assert (b.kind, b.base_url, b.weight, b.concurrency) == ("openai-responses", "http://b:1/v1", 3, 7)
    assert (b.provider, b.priority) == ("openai", 1)


@pytest.mark.once
@pytest.mark.parametrize(
    ("model", "served_by"),
    [
        ("openai:gpt-5", ["all", "some"]),
        ("openai:gpt-4o", ["all"]),
        ("gpt-5", ["all", "some"]),
        ("gpt-4o", ["all"]),
        ("claude-sonnet-4-5", []),
        ("anthropic:gpt-5", []),
        ("ollama:llama3.2:3b", ["house"]),
        ("llama3.2:3b", ["house"]),
        ("ollama:gpt-5", []),
        ("openai:", []),
        ("", []),
        (":", []),
    ],
)
def test_a_model_is_served_by_those_that_name_it_or_serve_all_of_its_provider(
    alice: User, model: str, served_by: list[str]
) -> None:
    in_pool("all")
    in_pool("some", model_names=["gpt-5"])
    in_pool("house", "ollama", key="", model_names=["llama3.2:3b"], base_url="http://ollama:11434/v1")
    in_pool("off", is_on=False)

    assert ids(model, alice) == served_by
    assert (unknown_model_reason(model, alice) is None) == bool(served_by)


def test_a_bare_model_is_asked_with_the_own_key_of_its_provider(alice: User) -> None:
    own_key(alice, "anthropic", "sk-ant-0123456789abcdef")
    own_key(alice, "xai", "xai-0123456789abcdef")

    assert [each.provider for each in endpoints_for(model="claude-sonnet-4-5", user=alice)] == ["anthropic"]


def test_a_refused_key_is_not_used(alice: User) -> None:
    mark_key_refused(key_id=own_key(alice).pk, reason="no credit", now=NOW)
    in_pool("pool")

    assert ids("openai:gpt-5", alice) == ["pool"]


def test_an_own_key_is_used_where_the_setting_says(alice: User, settings: Settings) -> None:
    settings.BLOX_LLM_BASE_URLS = {"openai": "http://gateway:1/v1", "house": "http://house:1/v1"}
    own_key(alice)
    own_key(alice, "house")
    own_key(alice, "anthropic")

    used = {name: endpoints_for(model=f"{name}:m", user=alice)[0] for name in ("openai", "house", "anthropic")}
    assert [(each.base_url, each.kind) for each in used.values()] == [
        ("http://gateway:1/v1", "openai"),
        ("http://house:1/v1", "openai"),
        ("", "anthropic"),
    ]


def test_no_key_can_be_stored_for_an_operators_own_provider(alice: User) -> None:
    """Such as one that asks for none: it would be a way round the limits."""
    in_pool("house", "ollama", key="", base_url="http://ollama:11434/v1")
    own_key(alice, "ollama")

    assert ids("ollama:llama3", alice) == ["house"]


def test_a_switched_off_provider_is_not_asked_and_the_reason_says_so(alice: User) -> None:
    row = in_pool("only")
    switch_provider(provider=row, on=False)

    assert ids("openai:gpt-5", alice) == []
    assert "switched off" in (unknown_model_reason("openai:gpt-5", alice) or "")
    switch_provider(provider=row, on=True)
    assert ids("openai:gpt-5", alice) == ["only"]


def test_a_look_up_costs_one_query_and_the_pool_is_read_now_and_then(
    alice: User, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    own_key(alice)
    in_pool("pool")
    with django_assert_num_queries(2):
        endpoints_for(model="openai:gpt-5", user=alice)
    with django_assert_num_queries(1):
        endpoints_for(model="openai:gpt-5", user=alice)


def test_the_pool_is_read_again_after_a_while(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    in_pool("first")
    assert ids("openai:gpt-5", alice) == ["first"]
    Provider.objects.create(name="another", provider="openai")
    assert len(ids("openai:gpt-5", alice)) == 1
    monkeypatch.setattr("llm.services.endpoints.POOL_SECONDS", 0.0)
    assert len(ids("openai:gpt-5", alice)) == 2


def test_a_key_that_can_no_longer_be_read_is_left_out(alice: User, settings: Settings) -> None:
    own_key(alice)
    in_pool("unreadable")
    settings.BLOX_ENCRYPTION_KEYS = [Fernet.generate_key().decode()]
    in_pool("stored since")

    assert ids("openai:gpt-5", alice) == ["stored since"]


@pytest.mark.once
@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("opnai:gpt-5", 'There is no provider "opnai" here. Did you mean openai?'),
        ("anthropic:claude-x", "This server has no key for anthropic"),
        ("anthropic:claude-x", "store your own key for anthropic with POST /api/v1/api-keys"),
        ("claude-sonnet-4-5", "This server has no key for anthropic"),
        ("openai:gpt-6", "This server does not serve openai:gpt-6. Did you mean gpt-5?"),
        ("house:m", "The provider of house:m is switched off here: choose another model."),
        ("openai:", '"openai:" names no model'),
        ("frobnicate", "Write it as provider:model"),
        ("xai:grok-4", "Your key for xai was refused (no credit)"),
        ("grok-4", "Your key for xai was refused (no credit)"),
    ],
)
def test_the_reason_says_what_to_do(alice: User, model: str, reason: str) -> None:
    in_pool("some", model_names=["gpt-5"])
    in_pool("house", "house", base_url="http://house:1", is_on=False)
    mark_key_refused(key_id=own_key(alice, "xai").pk, reason="no credit", now=NOW)

    assert reason in (unknown_model_reason(model, alice) or "")


# What becomes of a key. ------------------------------------------------------------------------------------------
def test_many_refusals_at_once_mark_a_key_once(alice: User) -> None:
    key = own_key(alice)
    marked = [mark_key_refused(key_id=key.pk, reason=f"reason {n}", now=NOW) for n in range(3)]
    key.refresh_from_db()

    assert (marked, key.is_valid, key.error) == ([True, False, False], False, "reason 0")


def test_the_refusal_of_a_key_that_was_replaced_does_not_touch_the_new_one(alice: User) -> None:
    old = own_key(alice)
    remove_key(key=UserKey.objects.get())
    own_key(alice, key=OTHER_KEY)

    assert not mark_key_refused(key_id=old.pk, reason="late", now=NOW)
    assert UserKey.objects.get().is_valid


def test_a_use_is_noted_once_a_minute(alice: User) -> None:
    key = own_key(alice)
    noted = []
    for seconds in (0, 59, 61):
        touch_key(key_id=key.pk, now=NOW + timedelta(seconds=seconds))
        key.refresh_from_db()
        noted.append(key.last_used_at)

    assert noted == [NOW, NOW, NOW + timedelta(seconds=61)]


@pytest.mark.parametrize(
    "values",
    [
        {"is_valid": False},
        {"error": "x"},
        {"encrypted_key": ""},
        {"notice_due_at": NOW},
        {"provider": "xai"},
    ],
)
def test_the_database_keeps_out_what_is_no_key_or_no_refusal(alice: User, values: dict[str, Any]) -> None:
    own_key(alice, "xai")
    key = own_key(alice)
    with pytest.raises(IntegrityError), transaction.atomic():
        UserKey.objects.filter(pk=key.pk).update(**values)


@pytest.mark.parametrize("values", [{"kind": "soap"}, {"weight": 0}, {"concurrency": 0}, {"provider": ""}])
def test_the_database_keeps_out_a_provider_that_cannot_be_asked(values: dict[str, Any]) -> None:
    in_pool("one")
    with pytest.raises(IntegrityError), transaction.atomic():
        Provider.objects.update(**values)


# The mail. -------------------------------------------------------------------------------------------------------
def test_the_user_is_told_once_of_a_refused_key(alice: User) -> None:
    mark_key_refused(key_id=own_key(alice).pk, reason="openai refused the key (status 401).", now=NOW)

    assert [tell_of_refused_keys(now=NOW), tell_of_refused_keys(now=NOW + timedelta(hours=1))] == [1, 0]
    [sent] = mail.outbox
    assert (sent.to, sent.subject) == (["alice@shop.example"], "Your openai key was refused")
    for part in ("ends with WXYZ", "status 401", "/api/v1/api-keys"):
        assert part in sent.body
    assert "canary" not in sent.body


def test_a_mail_that_cannot_be_sent_is_tried_again(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    mark_key_refused(key_id=own_key(alice).pk, reason="no", now=NOW)
    with monkeypatch.context() as away:

        def refuse(*args: Any) -> int:
            raise smtplib.SMTPServerDisconnected("gone")

        away.setattr("django.core.mail.backends.locmem.EmailBackend.send_messages", refuse)
        assert tell_of_refused_keys(now=NOW) == 0

    assert tell_of_refused_keys(now=NOW + timedelta(minutes=9)) == 0
    assert tell_of_refused_keys(now=NOW + timedelta(minutes=11)) == 1


def test_nobody_is_told_of_a_key_that_was_removed_or_marked_valid_again(alice: User) -> None:
    for name in ("openai", "xai"):
        mark_key_refused(key_id=own_key(alice, name).pk, reason="no", now=NOW)
    remove_key(key=UserKey.objects.get(provider="openai"))
    mark_key_valid(key_id=UserKey.objects.get().pk, now=NOW)

    assert (tell_of_refused_keys(now=NOW), mail.outbox) == (0, [])


def test_a_user_without_an_address_is_not_written_to(alice: User) -> None:
    User.objects.filter(pk=alice.pk).update(email="user_1@clerk.invalid")
    mark_key_refused(key_id=own_key(alice).pk, reason="no", now=NOW)

    assert (tell_of_refused_keys(now=NOW), mail.outbox) == (0, [])
    assert UserKey.objects.get().notice_due_at is None


@pytest.mark.once
# The setting. ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("urls", "wrong"),
    [
        ({"openai": "http://gateway:1/v1", "own-1": "https://x.example"}, 0),
        ({"openai": "gateway:1"}, 1),
        ({"openai": ""}, 1),
        ({"openai": "http://user:secret@gateway/v1"}, 1),
        ({"Open AI": "http://gateway"}, 1),
    ],
)
def test_a_setting_that_names_no_provider_or_url_is_found(settings: Settings, urls: dict[str, str], wrong: int) -> None:
    settings.BLOX_LLM_BASE_URLS = urls
    messages = base_urls_are_names_and_urls(None)

    assert [message.id for message in messages] == ["llm.E001"] * wrong
    assert "secret" not in repr(messages)


@pytest.mark.once
@pytest.mark.parametrize(
    ("degraded", "critical", "good"),
    [(1, 2, True), (1, 1, True), (0, 2, False), (-1, 2, False), (3, 2, False), (nan, 2, False), (1, nan, False),
     (1, inf, False)],
)  # fmt: skip
def test_loads_by_which_nobody_can_be_shed_are_found(
    settings: Settings, degraded: float, critical: float, good: bool
) -> None:
    settings.BLOX_LLM_DEGRADED_AT, settings.BLOX_LLM_CRITICAL_AT = degraded, critical

    assert [message.id for message in load_is_shed_by_degrees(None)] == ([] if good else ["llm.E002"])
