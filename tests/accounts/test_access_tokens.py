from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone
from rest_framework.test import APIClient

from accounts.models import AccessToken, User
from accounts.services import create_access_token

pytestmark = pytest.mark.django_db

TOKENS = "/api/v1/access-tokens"


def with_token(secret: str) -> APIClient:
    return APIClient(headers={"Authorization": f"Bearer {secret}"})


def in_days(days: float) -> str:
    return (timezone.now() + timedelta(days=days)).isoformat()


def test_the_secret_is_shown_once_and_kept_as_a_hash(api: APIClient, alice: User) -> None:
    response = api.post(TOKENS, {"name": "CI"})
    created = response.json()
    secret = created.pop("token")
    assert (response.status_code, secret[:5], len(secret)) == (201, "blox_", 48)
    assert created == {
        "id": created["id"],
        "name": "CI",
        "hint": secret[-4:],
        "scopes": ["read", "write"],
        "expiresAt": None,
        "lastUsedAt": None,
        "createdAt": created["createdAt"],
    }
    assert api.get(f"{TOKENS}/{created['id']}").json() == created
    assert api.get(TOKENS).json()["items"] == [created]
    stored = AccessToken.objects.values().get()
    assert secret not in str(stored)
    assert stored["user_id"] == alice.id


def test_it_signs_in_as_its_user_and_notes_its_use(alice: User) -> None:
    token, secret = create_access_token(user=alice, name="CI", scopes=["read"])
    assert with_token(secret).get("/api/v1/me").json()["email"] == alice.email
    token.refresh_from_db()
    assert token.last_used_at is not None


def test_its_use_is_written_once_a_minute(alice: User, django_assert_num_queries: Any) -> None:
    token, secret = create_access_token(user=alice, name="CI")
    client = with_token(secret)
    with django_assert_num_queries(2):
        client.get("/api/v1/me")
    with django_assert_num_queries(1):
        client.get("/api/v1/me")
    used = timezone.now() - timedelta(seconds=61)
    AccessToken.objects.update(last_used_at=used)
    client.get("/api/v1/me")
    token.refresh_from_db()
    assert token.last_used_at is not None and token.last_used_at > used


@pytest.mark.parametrize(
    ("scopes", "get", "patch"), [(["read"], 200, 403), (["write"], 403, 200), (["read", "write"], 200, 200)]
)
def test_scopes_say_what_it_may(alice: User, scopes: list[str], get: int, patch: int) -> None:
    _, secret = create_access_token(user=alice, name="CI", scopes=scopes)
    client = with_token(secret)
    assert (client.get("/api/v1/me").status_code, client.patch("/api/v1/me", {"name": "B"}).status_code) == (get, patch)
    alice.refresh_from_db()
    assert alice.name == ("B" if patch == 200 else "Alice")


def test_a_missing_scope_is_named(alice: User) -> None:
    _, secret = create_access_token(user=alice, name="CI", scopes=["read"])
    response = with_token(secret).post(TOKENS, {"name": "x"})
    assert (response.status_code, response.json()["code"]) == (403, "permission_denied")
    assert "`write`" in response.json()["message"]


def test_a_head_request_needs_no_more_than_reading(alice: User) -> None:
    _, secret = create_access_token(user=alice, name="CI", scopes=["read"])
    assert with_token(secret).head("/api/v1/me").status_code == 200


def test_an_expired_token_is_401_and_says_so(alice: User) -> None:
    _, secret = create_access_token(user=alice, name="CI", expires_at=timezone.now() + timedelta(hours=1))
    assert with_token(secret).get("/api/v1/me").status_code == 200
    AccessToken.objects.update(expires_at=timezone.now())
    response = with_token(secret).get("/api/v1/me")
    assert (response.status_code, response.json()["code"]) == (401, "authentication_failed")
    assert "expired" in response.json()["message"]


def test_a_revoked_token_is_401(api: APIClient, alice: User) -> None:
    token, secret = create_access_token(user=alice, name="CI")
    assert api.delete(f"{TOKENS}/{token.id}").status_code == 204
    response = with_token(secret).get("/api/v1/me")
    assert (response.status_code, "revoked" in response.json()["message"]) == (401, True)
    assert api.get(f"{TOKENS}/{token.id}").status_code == 404


@pytest.mark.parametrize("secret", ["blox_", "blox_x", "blox_" + "A" * 43, "blox_" + "x" * 7000, "blox_é\udc80"])
def test_an_unknown_token_is_401(db: None, secret: str) -> None:
    assert with_token(secret).get("/api/v1/me").status_code == 401


def test_a_deactivated_users_token_is_401(alice: User) -> None:
    _, secret = create_access_token(user=alice, name="CI")
    User.objects.update(is_active=False)
    assert with_token(secret).get("/api/v1/me").status_code == 401


def test_another_users_token_is_the_404_of_an_unknown_one(alice: User, bobs_api: APIClient) -> None:
    token, _ = create_access_token(user=alice, name="CI")
    unknown = bobs_api.get(f"{TOKENS}/0190a000-0000-7000-8000-000000000000")
    for response in (bobs_api.get(f"{TOKENS}/{token.id}"), bobs_api.delete(f"{TOKENS}/{token.id}")):
        assert (response.status_code, response.content) == (404, unknown.content)
    assert bobs_api.get(TOKENS).json()["total"] == 0
    assert AccessToken.objects.filter(pk=token.pk).exists()


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"name": ["x"]}, "name"),
        ({"name": "x", "scopes": []}, "scopes"),
        ({"name": "x", "scopes": "read"}, "scopes"),
        ({"name": "x", "scopes": ["admin"]}, "scopes"),
        ({"name": "x", "scopes": [["read"]]}, "scopes"),
        ({"name": "x", "scopes": [{"a": 1}]}, "scopes"),
        ({"name": "x", "scopes": None}, "scopes"),
        ({"name": "x", "scopes": ["read"] * 11}, "scopes"),
        ({"name": "x", "expiresAt": "2001-01-01T00:00:00Z"}, "expiresAt"),
        ({"name": "x", "expiresAt": "tomorrow"}, "expiresAt"),
        ({"name": "x", "expiresAt": 10**12}, "expiresAt"),
        ({"name": "x", "expiresAt": "9999-12-31T23:59:59-23:59"}, "expiresAt"),
    ],
)
def test_a_bad_field_is_400_by_name_and_makes_no_token(api: APIClient, body: Any, field: str) -> None:
    response = api.post(TOKENS, body)
    assert (response.status_code, list(response.json()["details"])) == (400, [field])
    assert not AccessToken.objects.exists()


def test_scopes_and_expiry_can_be_chosen(api: APIClient) -> None:
    expires = in_days(1)
    created = api.post(TOKENS, {"name": "x", "scopes": ["read", "read"], "expiresAt": expires}).json()
    assert (created["scopes"], created["expiresAt"]) == (["read"], expires.replace("+00:00", "Z"))


def test_a_token_cannot_make_one_that_may_more_or_lives_longer(alice: User) -> None:
    _, secret = create_access_token(
        user=alice, name="CI", scopes=["write"], expires_at=timezone.now() + timedelta(days=2)
    )
    client = with_token(secret)
    assert client.post(TOKENS, {"name": "x", "scopes": ["read"]}).json()["details"].keys() == {"scopes"}
    for expiry in (None, in_days(3)):
        assert client.post(TOKENS, {"name": "x", "expiresAt": expiry}).json()["details"].keys() == {"expiresAt"}
    assert AccessToken.objects.count() == 1
    child = client.post(TOKENS, {"name": "x"}).json()
    maker = AccessToken.objects.get(name="CI")
    assert maker.expires_at is not None
    assert (child["scopes"], child["expiresAt"]) == (["write"], maker.expires_at.isoformat().replace("+00:00", "Z"))


def test_the_list_is_newest_first_and_costs_the_same_for_many(
    api: APIClient, alice: User, django_assert_num_queries: Any
) -> None:
    for i in range(25):
        create_access_token(user=alice, name=f"token {i}")
    with django_assert_num_queries(3):  # the user, the count, the page
        page = api.get(TOKENS).json()
    assert (page["total"], page["hasMore"], page["items"][0]["name"]) == (25, True, "token 24")
