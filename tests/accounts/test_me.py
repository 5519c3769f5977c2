from typing import Any

import pytest
from rest_framework.test import APIClient

from accounts.models import User

pytestmark = pytest.mark.django_db

ME = "/api/v1/me"


def test_me_is_the_signed_in_user(api: APIClient, alice: User) -> None:
    assert api.get(ME).json() == {
        "id": str(alice.id),
        "clerkId": f"local_{alice.id}",
        "email": "alice@shop.example",
        "name": "Alice",
        "avatarUrl": None,
        "tier": "pro",
        "sharePromptsWithOperators": False,
        "createdAt": alice.created_at.isoformat().replace("+00:00", "Z"),
    }


def test_name_and_avatar_can_be_changed_and_taken_away(api: APIClient, alice: User) -> None:
    changed = api.patch(ME, {"name": "Alice B.", "avatarUrl": "https://img.example/a.png"}).json()
    assert (changed["name"], changed["avatarUrl"]) == ("Alice B.", "https://img.example/a.png")
    api.patch(ME, {"name": None, "avatarUrl": None})
    alice.refresh_from_db()
    assert (alice.name, alice.avatar_url) == (None, None)


def test_what_a_user_may_not_change_stays(api: APIClient, alice: User) -> None:
    before = User.objects.values().get(pk=alice.pk)
    body = {
        "id": "0190a000-0000-7000-8000-000000000000",
        "clerkId": "user_x",
        "clerkSubject": "user_x",
        "email": "x@y.example",
        "tier": "enterprise",
        "isStaff": True,
        "isSuperuser": True,
        "isActive": False,
        "password": "x",
        "createdAt": "2020-01-01T00:00:00Z",
        "deletedAt": "2020-01-01T00:00:00Z",
        "unknown": 1,
    }
    assert api.patch(ME, body).status_code == 200
    assert User.objects.values().get(pk=alice.pk) == before


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "x" * 256),
        ("name", ["a"]),
        ("name", {"a": 1}),
        ("avatarUrl", "javascript:alert(1)"),
        ("avatarUrl", "ftp://img.example/a.png"),
        ("avatarUrl", "not a url"),
        ("avatarUrl", "https://img.example/" + "x" * 2000),
        ("avatarUrl", 7),
        ("avatarUrl", ["https://img.example"]),
    ],
)
def test_a_value_of_the_wrong_kind_is_400_by_field(api: APIClient, alice: User, field: str, value: Any) -> None:
    response = api.patch(ME, {field: value})
    assert (response.status_code, list(response.json()["details"])) == (400, [field])
    alice.refresh_from_db()
    assert (alice.name, alice.avatar_url) == ("Alice", None)
