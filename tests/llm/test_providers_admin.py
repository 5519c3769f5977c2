"""The operators' pages of the pool and of users' keys."""

from datetime import UTC, datetime
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from pytest_django import Settings

from accounts.models import User
from bloxserver.core.crypto import decrypt
from llm.models import Provider, UserKey
from llm.services import mark_key_refused
from tests.llm.keys import KEY, OTHER_KEY
from tests.llm.keys import provider as server
from tests.llm.model_server import ModelServer

__all__ = ["server"]  # the fixture

pytestmark = [pytest.mark.django_db, pytest.mark.once]

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
LIST, KEYS = "/admin/llm/provider/", "/admin/llm/userkey/"
FORM = {
    "name": "OpenAI, first account",
    "provider": "openai",
    "kind": "openai",
    "base_url": "",
    "key": KEY,
    "model_names": "gpt-5\r\n gpt-4o \r\n\r\ngpt-5\r\n",
    "priority": "1",
    "weight": "2",
    "concurrency": "50",
    "is_on": "on",
}


def page_of(row: Any) -> str:
    return f"{LIST if isinstance(row, Provider) else KEYS}{row.pk}/change/"


def added(client: Client, **changes: str) -> Provider:
    answer = client.post(f"{LIST}add/", {**FORM, **changes})
    assert answer.status_code == 302, answer.content.decode()
    return Provider.objects.get()


def errors(client: Client, path: str, **changes: str) -> dict[str, list[str]]:
    answer = client.post(path, {**FORM, **changes})
    assert answer.status_code == 200, "it was saved"
    return dict(answer.context["adminform"].form.errors)


def act(client: Client, action: str, row: Any) -> str:
    path = LIST if isinstance(row, Provider) else KEYS
    answer = client.post(path, {"action": action, "_selected_action": [str(row.pk)]}, follow=True)
    assert answer.status_code == 200
    return answer.content.decode()


@pytest.fixture
def alices_key(alice: User) -> UserKey:
    row = UserKey(user=alice, provider="openai", checked_at=NOW, created_at=NOW)
    row.set_key(KEY)
    row.save()
    return row


# The pool. -------------------------------------------------------------------------------------------------------
def test_a_provider_is_added_as_it_was_entered(admin_client: Client) -> None:
    row = added(admin_client)

    assert decrypt(row.encrypted_key) == KEY
    assert (row.model_names, row.priority, row.weight, row.concurrency) == (["gpt-5", "gpt-4o"], 1, 2, 50)


def test_no_page_or_log_entry_shows_the_key(admin_client: Client) -> None:
    row = added(admin_client)
    wrong = admin_client.post(page_of(row), {**FORM, "weight": "0"})
    pages = [
        wrong,
        admin_client.get(page_of(row)),
        admin_client.get(LIST),
        admin_client.get(f"{page_of(row)[:-7]}history/"),
    ]
    text = "".join(page.content.decode() for page in pages) + repr(list(LogEntry.objects.values()))

    assert "canary" not in text and row.encrypted_key not in text
    assert "••••••••WXYZ" in text and "...WXYZ" in text


def test_an_empty_key_keeps_what_is_stored(admin_client: Client) -> None:
    row = added(admin_client)
    admin_client.post(page_of(row), {**FORM, "key": "", "priority": "5"})
    row.refresh_from_db()

    assert (decrypt(row.encrypted_key), row.priority) == (KEY, 5)


def test_another_key_takes_its_place_and_is_not_checked_yet(admin_client: Client) -> None:
    row = added(admin_client)
    Provider.objects.update(checked_at=NOW, error="refused")
    admin_client.post(page_of(row), {**FORM, "key": OTHER_KEY})
    row.refresh_from_db()

    assert (decrypt(row.encrypted_key), row.key_hint) == (OTHER_KEY, "QRST")
    assert (row.checked_at, row.error) == (None, "")


@pytest.mark.once
@pytest.mark.parametrize("change", [{"base_url": "http://elsewhere.example/v1"}, {"provider": "together"}])
def test_a_stored_key_does_not_go_to_another_address(admin_client: Client, change: dict[str, str]) -> None:
    row = added(admin_client)

    assert "enter it again" in errors(admin_client, page_of(row), **{**change, "key": ""})["key"][0]


@pytest.mark.once
@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"provider": "house"}, "base_url"),
        ({"provider": "Open AI"}, "provider"),
        ({"base_url": "ftp://x.example"}, "base_url"),
        ({"base_url": "http://user:secret@x.example/v1"}, "base_url"),
        ({"base_url": "http://x.example:99999/v1"}, "base_url"),
        ({"kind": "anthropic"}, "kind"),
        ({"key": "sk-ant-0123456789abcdefgh"}, "key"),
        ({"key": "sk-with a space-0123456789"}, "key"),
        ({"weight": "0"}, "weight"),
        ({"concurrency": "0"}, "concurrency"),
        ({"model_names": "m" * 201}, "model_names"),
        ({"model_names": "\n".join(map(str, range(501)))}, "model_names"),
    ],
)
def test_what_cannot_be_asked_is_not_saved(admin_client: Client, changes: dict[str, str], field: str) -> None:
    assert field in errors(admin_client, f"{LIST}add/", **changes)


def test_a_provider_of_ones_own_needs_no_key(admin_client: Client) -> None:
    row = added(admin_client, provider="ollama", base_url="http://ollama:11434/v1", key="", model_names="")

    assert (row.encrypted_key, row.model_names) == ("", [])


def test_a_switch_that_came_in_between_is_not_undone_by_a_save(
    admin_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = added(admin_client)
    save = Provider.save

    def switch_and_save(self: Provider, **kwargs: Any) -> None:
        Provider.objects.update(is_on=False)
        save(self, **kwargs)

    monkeypatch.setattr(Provider, "save", switch_and_save)
    admin_client.post(page_of(row), {**FORM, "key": "", "priority": "5"})
    row.refresh_from_db()
    assert (row.is_on, row.priority) == (False, 5)


def test_a_provider_is_switched_off_and_on(admin_client: Client) -> None:
    row = added(admin_client)
    states = []
    for action in ("switch_off", "switch_on"):
        act(admin_client, action, row)
        row.refresh_from_db()
        states.append(row.is_on)
    assert states == [False, True]


def test_a_check_says_whether_the_key_is_taken(admin_client: Client, server: ModelServer) -> None:
    row = added(admin_client, base_url=server.url)
    assert "Checked: it takes the key." in act(admin_client, "check_now", row)
    assert [request.key for request in server.log] == [KEY]
    server.refuse_key(KEY)
    assert "refused the key (status 401)" in act(admin_client, "check_now", row)
    row.refresh_from_db()
    assert "refused the key (status 401)" in row.error and row.checked_at is not None
    assert "refused the key (status 401)" in admin_client.get(page_of(row)).content.decode()
    assert ">failed<" in admin_client.get(LIST).content.decode()


def test_a_check_of_a_key_that_is_lost_says_so(admin_client: Client, settings: Settings) -> None:
    row = added(admin_client)
    Provider.objects.update(encrypted_key="gAAAAA-of-another-server")

    assert "store it again" in act(admin_client, "check_now", row)
    assert admin_client.get(page_of(row)).status_code == 200


# Users' keys. ----------------------------------------------------------------------------------------------------
def test_a_users_key_is_shown_without_the_key(admin_client: Client, alices_key: UserKey) -> None:
    text = "".join(admin_client.get(path).content.decode() for path in (KEYS, page_of(alices_key)))

    assert "alice@shop.example" in text and "WXYZ" in text
    assert "canary" not in text and alices_key.encrypted_key not in text


def test_a_users_key_is_not_edited(admin_client: Client, alices_key: UserKey) -> None:
    assert admin_client.post(page_of(alices_key), {"provider": "xai"}).status_code == 403
    assert admin_client.get(f"{KEYS}add/").status_code == 403


def test_a_refused_key_is_marked_valid_again(admin_client: Client, alices_key: UserKey) -> None:
    mark_key_refused(key_id=alices_key.pk, reason="an outage", now=NOW)
    assert "an outage" in admin_client.get(page_of(alices_key)).content.decode()
    assert "is used again" in act(admin_client, "mark_valid", alices_key)
    alices_key.refresh_from_db()
    assert (alices_key.is_valid, alices_key.error, alices_key.notice_due_at) == (True, "", None)
    assert "is valid already" in act(admin_client, "mark_valid", alices_key)


def test_who_may_only_look_marks_no_key_valid(alices_key: UserKey) -> None:
    mark_key_refused(key_id=alices_key.pk, reason="no", now=NOW)
    looker = User.objects.create_user("looks@blox.example", is_staff=True)
    looker.user_permissions.add(Permission.objects.get(codename="view_userkey"))
    client = Client()
    client.force_login(looker, backend="django.contrib.auth.backends.ModelBackend")
    refused = client.post(KEYS, {"action": "mark_valid", "_selected_action": [str(alices_key.pk)]})
    alices_key.refresh_from_db()
    assert (refused.status_code, alices_key.is_valid) == (403, False)


def test_a_users_key_is_deleted(admin_client: Client, alices_key: UserKey) -> None:
    admin_client.post(f"{page_of(alices_key)[:-7]}delete/", {"post": "yes"})

    assert not UserKey.objects.exists()


@pytest.mark.parametrize("path", [LIST, KEYS])
def test_no_list_does_a_query_per_row(admin_client: Client, path: str) -> None:
    def count() -> int:
        with CaptureQueriesContext(connection) as queries:
            assert admin_client.get(path).status_code == 200
        return len(queries)

    def fill(number: int) -> None:
        Provider.objects.create(name=f"p{number}", provider="openai")
        user = User.objects.create_user(f"u{number}@x.example")
        UserKey.objects.create(user=user, provider="openai", encrypted_key="x", checked_at=NOW)

    fill(0)
    count()
    before = count()
    for number in range(1, 5):
        fill(number)
    assert count() == before
