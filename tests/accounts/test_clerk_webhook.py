"""Clerk's signed user events: each may come twice, late, or in the wrong order."""

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rest_framework.test import APIClient
from standardwebhooks import Webhook

from accounts.models import AccessToken, User
from accounts.services import create_access_token
from tests.accounts.clerk_server import ClerkServer, session_token

pytestmark = pytest.mark.django_db

SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()


@pytest.fixture(autouse=True)
def _secret(settings: Any) -> None:
    settings.CLERK_WEBHOOK_SECRET = SECRET


def event(kind: str, updated_at: int = 1_700_000_000_000, **changes: Any) -> dict[str, Any]:
    if kind == "user.deleted":
        return {"type": kind, "object": "event", "data": {"id": "user_1", "object": "user", "deleted": True}}
    data = {
        "id": "user_1",
        "object": "user",
        "first_name": "Ann",
        "last_name": "Lee",
        "image_url": "https://img.clerk.example/a.png",
        "primary_email_address_id": "idn_1",
        "email_addresses": [{"id": "idn_1", "email_address": "ann@shop.example"}],
        "updated_at": updated_at,
    }
    return {"type": kind, "object": "event", "data": {**data, **changes}}


def email(address: str) -> dict[str, Any]:
    return {"email_addresses": [{"id": "idn_1", "email_address": address}]}


def send(
    body: Any,
    *,
    prefix: str = "svix",
    at: datetime | None = None,
    secret: str = SECRET,
    headers: dict[str, str] | None = None,
) -> Any:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    at = at or datetime.now(UTC)
    signed = {
        f"{prefix}-id": "msg_1",
        f"{prefix}-timestamp": str(int(at.timestamp())),
        f"{prefix}-signature": Webhook(secret).sign("msg_1", at, raw.decode("utf-8", "replace")),
        **(headers or {}),
    }
    body_type = "application/json"
    return APIClient().generic("POST", "/webhooks/clerk", raw, body_type, headers=signed)  # type: ignore[arg-type]


@pytest.mark.parametrize("prefix", ["svix", "webhook"])
def test_created_makes_the_user_under_either_set_of_headers(prefix: str) -> None:
    response = send(event("user.created"), prefix=prefix)
    assert (response.status_code, response.json()) == (200, {"status": "applied"})
    user = User.objects.get(clerk_subject="user_1")
    assert (user.email, user.name, user.avatar_url) == (
        "ann@shop.example",
        "Ann Lee",
        "https://img.clerk.example/a.png",
    )
    assert not user.has_usable_password()


def test_a_replay_changes_nothing() -> None:
    send(event("user.created"))
    before = list(User.objects.values())
    assert send(event("user.created")).status_code == 200
    assert list(User.objects.values()) == before


def test_updated_brings_the_new_address_and_name() -> None:
    send(event("user.created", 1000))
    send(event("user.updated", 2000, first_name="Anna", image_url=None, **email("anna@shop.example")))
    user = User.objects.get()
    assert (user.email, user.name, user.avatar_url) == ("anna@shop.example", "Anna Lee", None)


def test_an_update_before_the_creation_makes_the_user_and_stays() -> None:
    send(event("user.updated", 2000, **email("anna@shop.example")))
    send(event("user.created", 1000))
    assert User.objects.get().email == "anna@shop.example"


def test_the_event_gives_its_address_to_a_user_first_seen_by_token(clerk: ClerkServer) -> None:
    client = APIClient(headers={"Authorization": f"Bearer {session_token()}"})
    assert client.get("/api/v1/me").json()["email"] == "user_1@clerk.invalid"
    send(event("user.created"))
    assert client.get("/api/v1/me").json()["email"] == "ann@shop.example"


def test_deleted_leaves_a_tombstone_that_nothing_revives(clerk: ClerkServer) -> None:
    client = APIClient(headers={"Authorization": f"Bearer {session_token()}"})
    assert client.get("/api/v1/me").status_code == 200
    user = User.objects.get()
    create_access_token(user=user, name="CI")
    send(event("user.deleted"))
    send(event("user.updated", 9_000_000_000_000))
    send(event("user.created", 9_000_000_000_001))
    user.refresh_from_db()
    assert (user.is_active, user.deleted_at is None) == (False, False)
    assert (user.email, user.name, user.avatar_url) == ("user_1@clerk.invalid", None, None)
    assert not AccessToken.objects.exists()
    assert client.get("/api/v1/me").status_code == 401
    User.objects.update(is_active=True)
    assert client.get("/api/v1/me").status_code == 401


def test_a_deletion_before_the_creation_holds() -> None:
    send(event("user.deleted"))
    send(event("user.created"))
    user = User.objects.get()
    assert (user.is_active, user.email) == (False, "user_1@clerk.invalid")


def test_a_second_deletion_keeps_the_first_moment() -> None:
    send(event("user.deleted"))
    first = User.objects.get().deleted_at
    assert send(event("user.deleted")).status_code == 200
    assert User.objects.get().deleted_at == first


def test_the_address_of_a_deleted_user_is_free_again() -> None:
    send(event("user.created"))
    send(event("user.deleted"))
    send(event("user.created", id="user_2"))
    assert User.objects.get(clerk_subject="user_2").email == "ann@shop.example"


def test_an_address_of_another_user_is_not_taken_over(alice: User) -> None:
    send(event("user.created", 1000, **email("ALICE@shop.example")))
    assert User.objects.get(clerk_subject="user_1").email == "user_1@clerk.invalid"
    send(event("user.updated", 2000, **email("ann@shop.example")))
    send(event("user.updated", 3000, first_name="Anna", **email("alice@shop.example")))
    user = User.objects.get(clerk_subject="user_1")
    assert (user.email, user.name) == ("ann@shop.example", "Anna Lee")
    alice.refresh_from_db()
    assert (alice.email, alice.clerk_subject) == ("alice@shop.example", None)


@pytest.mark.parametrize("kind", ["session.created", "organization.created", "", None, 7, ["user.created"]])
def test_other_events_are_ignored(kind: Any) -> None:
    response = send({**event("user.created"), "type": kind})
    assert (response.status_code, response.json(), User.objects.count()) == (200, {"status": "ignored"}, 0)


@pytest.mark.parametrize(
    "data",
    [
        {},
        None,
        [],
        {"id": 7},
        {"id": ""},
        {"id": "x" * 300},
    ],
)
def test_an_event_without_a_user_is_400(data: Any) -> None:
    response = send({"type": "user.created", "data": data})
    assert (response.status_code, response.json()["code"]) == (400, "validation_error")


@pytest.mark.parametrize(
    "changes",
    [
        {"email_addresses": None},
        {"email_addresses": [None, 7, {"id": "idn_1", "email_address": "no address"}]},
        {"email_addresses": [{"id": "idn_1", "email_address": ["a"]}]},
        {"first_name": 7, "last_name": {}, "image_url": "javascript:alert(1)"},
        {"first_name": "x" * 5000},
        {"updated_at": "yesterday"},
        {"updated_at": 10**300},
        {"updated_at": None},
    ],
)
def test_odd_fields_of_a_user_do_no_harm(changes: dict[str, Any]) -> None:
    assert send(event("user.created", **changes)).status_code == 200
    assert User.objects.count() == 1


@pytest.mark.parametrize(
    "headers",
    [
        {"svix-signature": "v1,AAAA"},
        {"svix-signature": "v1"},
        {"svix-signature": "no signature"},
        {"svix-signature": "v1,not base64!"},
        {"svix-signature": ""},
        {"svix-id": ""},
        {"svix-id": "msg_2"},
        {"svix-timestamp": ""},
        {"svix-timestamp": "nan"},
        {"svix-timestamp": "soon"},
    ],
)
def test_a_bad_signature_is_400_and_changes_nothing(headers: dict[str, str]) -> None:
    response = send(event("user.created"), headers=headers)
    assert (response.status_code, response.json()["code"]) == (400, "invalid_signature")
    assert not User.objects.exists()


@pytest.mark.parametrize("seconds", [-301, 330])  # a slow machine has half a minute to send the second
def test_a_signature_of_another_time_is_400(seconds: int) -> None:
    response = send(event("user.created"), at=datetime.now(UTC) + timedelta(seconds=seconds))
    assert (response.status_code, User.objects.count()) == (400, 0)


def test_another_secret_is_400() -> None:
    response = send(event("user.created"), secret="whsec_" + base64.b64encode(b"x" * 24).decode())
    assert (response.status_code, User.objects.count()) == (400, 0)


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"{", b'{"type": NaN}', b'{"a":1,"a":2}', b'{"type":"\\ud800"}'])
def test_a_signed_body_that_is_no_event_is_400(body: bytes) -> None:
    response = send(body)
    assert (response.status_code, response.json()["code"]) == (400, "invalid_json")


def test_a_body_that_is_not_utf8_is_400() -> None:
    assert send(b'{"type": "\xff"}').status_code == 400


def test_a_huge_body_is_413(settings: Any) -> None:
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 1000
    response = send(event("user.created", first_name="x" * 1000))
    assert (response.status_code, response.json()["code"]) == (413, "payload_too_large")


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_x"])
def test_without_a_secret_it_is_503(settings: Any, secret: str) -> None:
    settings.CLERK_WEBHOOK_SECRET = secret
    response = send(event("user.created"))
    assert (response.status_code, response.json()["code"]) == (503, "clerk_not_configured")
    assert not User.objects.exists()


def test_only_post_is_answered() -> None:
    assert APIClient().get("/webhooks/clerk").status_code == 405
