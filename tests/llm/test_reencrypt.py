"""`manage.py reencrypt`: every encrypted column comes under the newest key."""

import io
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.apps import apps
from django.core.management import CommandError, call_command
from django.utils import timezone
from pytest_django import Settings
from rest_framework.test import APIClient

from accounts.models import User
from bloxserver.core import encrypted
from bloxserver.core.crypto import decrypt, encrypt
from bloxserver.core.encrypted import EncryptedField
from flows.models import Secret
from llm.models import Provider, UserKey
from tests.flows.samples import make_flow
from triggers.models import Trigger

pytestmark = pytest.mark.django_db


@pytest.fixture
def stored(api: APIClient, alice: User) -> dict[str, str]:
    """One value in each encrypted column, by the name of its model."""
    flow = make_flow(api)
    token = api.post(f"/api/v1/flows/{flow['id']}/triggers", {"type": "webhook", "name": "h", "config": {}}).json()
    api.put("/api/v1/secrets/S", {"value": "a secret"})
    provider = Provider(name="p", provider="openai")
    key = UserKey(user=alice, provider="openai", checked_at=timezone.now())
    for row, text in ((provider, "pool-key"), (key, "user-key")):
        row.set_key(text)
        row.save()
    Provider.objects.create(name="without a key", provider="ollama")
    return {"Provider": "pool-key", "UserKey": "user-key", "Secret": "a secret", "Trigger": token["webhookToken"]}


def tokens() -> dict[str, str]:
    """Of each model with an encrypted column, the one that is stored."""
    found = {}
    for model in apps.get_models():
        for field in model._meta.concrete_fields:
            if isinstance(field, EncryptedField):
                [found[model.__name__]] = model._base_manager.exclude(**{field.name: ""}).values_list(
                    field.name, flat=True
                )
    return found


def reencrypt() -> str:
    out = io.StringIO()
    call_command("reencrypt", stdout=out, stderr=out)
    return out.getvalue()


def rotated(settings: Settings) -> list[str]:
    """The old keys; a new one stands before them now."""
    old = list(settings.BLOX_ENCRYPTION_KEYS)
    settings.BLOX_ENCRYPTION_KEYS = [Fernet.generate_key().decode(), *old]
    return old


def test_afterwards_the_old_key_is_not_needed(stored: dict[str, str], settings: Settings) -> None:
    rotated(settings)
    said = reencrypt()
    settings.BLOX_ENCRYPTION_KEYS = settings.BLOX_ENCRYPTION_KEYS[:1]

    assert {name: decrypt(token) for name, token in tokens().items()} == stored
    assert said.count("1 re-encrypted, 0 under the newest key already") == 4
    assert "Nothing is left under an older key." in said


def test_a_second_run_writes_nothing(stored: dict[str, str], settings: Settings) -> None:
    rotated(settings)
    reencrypt()
    before = tokens()

    assert reencrypt().count("0 re-encrypted, 1 under the newest key already") == 4
    assert tokens() == before


def test_every_column_of_tokens_is_one_that_is_renewed() -> None:
    """Whoever stores what `encrypt` gives makes the column an `EncryptedField`."""
    named = {
        f"{model.__name__}.{field.name}"
        for model in apps.get_models()
        for field in model._meta.concrete_fields
        if "encrypted" in field.name
    }
    assert named == {
        "Provider.encrypted_key",
        "UserKey.encrypted_key",
        "Secret.encrypted_value",
        "Trigger.token_encrypted",
    }
    assert {name.partition(".")[0] for name in named} == {
        model.__name__
        for model in apps.get_models()
        if any(isinstance(field, EncryptedField) for field in model._meta.concrete_fields)
    }


def test_more_rows_than_a_batch_holds_are_all_renewed(
    alice: User, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encrypted, "BATCH", 2)
    for number in range(5):
        Secret.objects.create(user=alice, name=f"S{number}", encrypted_value=encrypt(str(number)))
    rotated(settings)

    assert "flows.Secret.encrypted_value: 5 re-encrypted" in reencrypt()


def test_the_token_of_a_deleted_trigger_is_renewed_too(stored: dict[str, str], settings: Settings) -> None:
    Trigger.objects.update(deleted_at=timezone.now())
    rotated(settings)

    assert "triggers.Trigger.token_encrypted: 1 re-encrypted" in reencrypt()


def test_an_unreadable_row_is_named_left_alone_and_an_error(
    stored: dict[str, str], settings: Settings, alice: User
) -> None:
    good = list(settings.BLOX_ENCRYPTION_KEYS)
    settings.BLOX_ENCRYPTION_KEYS = [Fernet.generate_key().decode()]
    lost = Secret.objects.create(user=alice, name="LOST", encrypted_value=encrypt("lost"))
    settings.BLOX_ENCRYPTION_KEYS = good
    rotated(settings)
    out = io.StringIO()
    with pytest.raises(CommandError, match="1 values are under none of the keys"):
        call_command("reencrypt", stdout=out, stderr=out)

    assert f"flows.Secret.encrypted_value of {lost.pk} cannot be read" in out.getvalue()
    assert "1 re-encrypted, 0 under the newest key already, 0 changed meanwhile, 1 unreadable" in out.getvalue()
    assert Secret.objects.get(pk=lost.pk).encrypted_value == lost.encrypted_value


def test_what_is_stored_meanwhile_is_not_undone(
    stored: dict[str, str], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server stores another secret between the command's reading and its writing."""
    rotated(settings)
    renewed: Any = encrypted.renewed

    def store_meanwhile(token: str) -> str | None:
        new: str | None = renewed(token)
        Secret.objects.filter(encrypted_value=token).update(encrypted_value=encrypt("stored meanwhile"))
        return new

    monkeypatch.setattr(encrypted, "renewed", store_meanwhile)
    with pytest.raises(CommandError, match="1 values were changed meanwhile: run it again"):
        reencrypt()
    assert decrypt(Secret.objects.get().encrypted_value) == "stored meanwhile"
