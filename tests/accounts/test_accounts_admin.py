from html.parser import HTMLParser
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from accounts.models import AccessToken, Tier, User
from accounts.services import create_access_token

pytestmark = [pytest.mark.django_db, pytest.mark.once]

USERS, TOKENS = "/admin/accounts/user/", "/admin/accounts/accesstoken/"


def queries(client: Client, path: str) -> int:
    with CaptureQueriesContext(connection) as captured:
        response = client.get(path)
    assert response.status_code == 200
    return len(captured)


def test_the_lists_cost_the_same_for_many_rows(admin_client: Client, alice: User) -> None:
    create_access_token(user=alice, name="first")
    queries(admin_client, f"{USERS}{alice.pk}/change/")  # content types are read once a process
    few = [queries(admin_client, path) for path in (USERS, TOKENS, f"{USERS}{alice.pk}/change/")]
    for i in range(20):
        user = User.objects.create_user(f"user{i}@shop.example")
        create_access_token(user=user, name=f"token {i}")
        create_access_token(user=alice, name=f"token {i}")
    many = [queries(admin_client, path) for path in (USERS, TOKENS, f"{USERS}{alice.pk}/change/")]
    assert many == few
    assert max(many) <= 12


@pytest.mark.parametrize("text", ["alice", "ALICE@shop", "Alice", "user_alice"])
def test_a_user_is_found_by_what_an_operator_knows(admin_client: Client, alice: User, bob: User, text: str) -> None:
    User.objects.filter(pk=alice.pk).update(clerk_subject="user_alice")
    page = admin_client.get(USERS, {"q": text}).content.decode()
    assert ("alice@shop.example" in page, "bob@other.example" in page) == (True, False)


def test_a_user_is_found_by_id(admin_client: Client, alice: User, bob: User) -> None:
    page = admin_client.get(USERS, {"q": str(alice.pk)}).content.decode()
    assert ("alice@shop.example" in page, "bob@other.example" in page) == (True, False)


def test_users_are_filtered_by_tier(admin_client: Client, alice: User) -> None:
    User.objects.create_user("free@shop.example")
    page = admin_client.get(USERS, {"tier__exact": "free"}).content.decode()
    assert ("free@shop.example" in page, "alice@shop.example" in page) == (True, False)


class Form(HTMLParser):
    """What a browser would send of a page on which nothing was touched."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.values: dict[str, list[str]] = {}
        self._select = ""
        self.feed(page)

    def handle_starttag(self, tag: str, found: list[tuple[str, str | None]]) -> None:
        attrs = dict(found)
        if tag == "select":
            self._select = attrs.get("name") or ""
        elif tag == "option" and "selected" in attrs:
            self._add(self._select, attrs.get("value"))
        elif tag == "input" and attrs.get("type") not in ("submit", "file", "button"):
            if attrs.get("type") not in ("checkbox", "radio"):
                self._add(attrs.get("name"), attrs.get("value"))
            elif "checked" in attrs:
                self._add(attrs.get("name"), attrs.get("value") or "on")

    def _add(self, name: str | None, value: str | None) -> None:
        if name:
            self.values.setdefault(name, []).append(value or "")


def opened(client: Client, user: User) -> dict[str, list[str]]:
    return Form(client.get(f"{USERS}{user.pk}/change/").content.decode()).values


def test_a_page_that_was_opened_before_puts_nothing_back(admin_client: Client, alice: User) -> None:
    form = opened(admin_client, alice)
    User.objects.filter(pk=alice.pk).update(  # meanwhile, by Stripe and Clerk
        tier=Tier.ENTERPRISE, email="new@shop.example", name="Alice B.", clerk_subject="user_alice", is_active=False
    )
    form |= {"avatar_url": ["https://shop.example/alice.png"], "is_staff": ["on"]}
    assert admin_client.post(f"{USERS}{alice.pk}/change/", form).status_code == 302
    stored = User.objects.get(pk=alice.pk)
    assert (stored.avatar_url, stored.is_staff) == ("https://shop.example/alice.png", True)
    assert (stored.tier, stored.email, stored.name) == (Tier.ENTERPRISE, "new@shop.example", "Alice B.")
    assert (stored.clerk_subject, stored.is_active) == ("user_alice", False)
    assert LogEntry.objects.get().get_change_message() == "Changed Avatar url and Operator."


def test_a_page_without_a_change_writes_nothing(admin_client: Client, alice: User) -> None:
    User.objects.filter(pk=alice.pk).update(name=None, avatar_url=None, clerk_subject=None)
    assert admin_client.post(f"{USERS}{alice.pk}/change/", opened(admin_client, alice)).status_code == 302
    stored = User.objects.get(pk=alice.pk)
    assert (stored.name, stored.avatar_url, stored.clerk_subject) == (None, None, None)
    assert LogEntry.objects.get().get_change_message() == "No fields changed."


def test_what_was_refused_is_still_a_change_when_it_is_sent_again(admin_client: Client, alice: User) -> None:
    form = opened(admin_client, alice) | {"tier": ["enterprise"], "avatar_url": ["javascript:alert(1)"]}
    refused = admin_client.post(f"{USERS}{alice.pk}/change/", form)
    assert refused.status_code == 200
    again = Form(refused.content.decode()).values | {"avatar_url": [""]}
    assert admin_client.post(f"{USERS}{alice.pk}/change/", again).status_code == 302
    assert User.objects.get(pk=alice.pk).tier == Tier.ENTERPRISE


def test_the_page_does_not_carry_the_hash_of_the_password(admin_client: Client, alice: User) -> None:
    alice.set_password("correct horse")
    alice.save()
    assert alice.password not in admin_client.get(f"{USERS}{alice.pk}/change/").content.decode()


def set_tier(client: Client, users: list[User], tier: str) -> Any:
    body = {"action": "set_tier", "tier": tier, "_selected_action": [str(user.pk) for user in users]}
    return client.post(USERS, body, follow=True)


def test_the_tier_of_selected_users_is_set_and_logged(admin_client: Client, alice: User, bob: User) -> None:
    other = User.objects.create_user("other@shop.example")
    page = set_tier(admin_client, [alice, bob], "enterprise").content.decode()
    assert "2 users are now on Enterprise." in page
    assert set(User.objects.filter(tier=Tier.ENTERPRISE)) == {alice, bob}
    other.refresh_from_db()
    assert other.tier == "free"
    assert LogEntry.objects.filter(change_message="Set tier to enterprise.").count() == 2


def test_without_a_tier_the_action_says_what_to_do(admin_client: Client, alice: User) -> None:
    assert "Choose the tier beside the action." in set_tier(admin_client, [alice], "").content.decode()


def test_an_unknown_tier_is_not_set(admin_client: Client, alice: User) -> None:
    assert set_tier(admin_client, [alice], "gold").status_code == 200
    alice.refresh_from_db()
    assert alice.tier == "pro"


def test_a_user_can_be_added_and_signs_in(admin_client: Client) -> None:
    body = {
        "email": "New.Operator@blox.example",
        "tier": "free",
        "is_staff": "on",
        "usable_password": "true",
        "password1": "correct horse battery",
        "password2": "correct horse battery",
    }
    assert admin_client.post(f"{USERS}add/", body).status_code == 302
    client = Client()
    login = {"username": "new.operator@BLOX.example", "password": "correct horse battery", "next": "/admin/"}
    assert client.post("/admin/login/", login).status_code == 302
    assert client.get("/admin/").status_code == 200


def test_an_address_in_use_is_refused_whatever_its_case(admin_client: Client, alice: User) -> None:
    body = {"email": "ALICE@shop.example", "tier": "free", "usable_password": "false"}
    page = admin_client.post(f"{USERS}add/", body)
    assert (page.status_code, User.objects.count()) == (200, 2)
    assert "A user with this e-mail address exists." in page.content.decode()


def test_an_operator_changes_a_password(admin_client: Client, operator: User) -> None:
    new = "another correct horse"
    body = {"usable_password": "true", "password1": new, "password2": new}
    assert admin_client.post(f"{USERS}{operator.pk}/password/", body).status_code == 302
    operator.refresh_from_db()
    assert operator.check_password(new)


def test_an_operator_changes_their_own_password(admin_client: Client, operator: User) -> None:
    new = "another correct horse"
    body = {"old_password": "correct horse battery", "new_password1": new, "new_password2": new}
    assert admin_client.post("/admin/password_change/", body).status_code == 302
    operator.refresh_from_db()
    assert operator.check_password(new)


def test_two_users_without_clerk_can_be_saved(admin_client: Client, alice: User, bob: User) -> None:
    for user in (alice, bob):
        body = {
            "email": user.email,
            "name": "Renamed",
            "avatar_url": "",
            "tier": "free",
            "clerk_subject": "",
            "is_active": "on",
            "access_tokens-TOTAL_FORMS": "0",
            "access_tokens-INITIAL_FORMS": "0",
        }
        response = admin_client.post(f"{USERS}{user.pk}/change/", body)
        assert response.status_code == 302, response.content.decode()
    assert User.objects.filter(name="Renamed", clerk_subject=None, avatar_url=None).count() == 2


def test_a_user_cannot_be_deleted(admin_client: Client, alice: User) -> None:
    assert admin_client.post(f"{USERS}{alice.pk}/delete/", {"post": "yes"}).status_code == 403
    admin_client.post(USERS, {"action": "delete_selected", "_selected_action": [str(alice.pk)], "post": "yes"})
    assert User.objects.filter(pk=alice.pk).exists()


def test_a_token_is_read_only_and_revoked_by_deleting_it(admin_client: Client, alice: User) -> None:
    token, secret = create_access_token(user=alice, name="CI")
    page = admin_client.get(f"{TOKENS}{token.pk}/change/")
    assert page.status_code == 200
    assert secret not in page.content.decode() and token.token_hash not in page.content.decode()
    assert admin_client.post(f"{TOKENS}{token.pk}/change/", {"name": "x"}).status_code == 403
    assert admin_client.get(f"{TOKENS}add/").status_code == 403
    assert admin_client.post(f"{TOKENS}{token.pk}/delete/", {"post": "yes"}).status_code == 302
    assert not AccessToken.objects.exists()
    assert Client().get("/api/v1/me", headers={"Authorization": f"Bearer {secret}"}).status_code == 401


RIGHT = "correct horse battery"


def sign_in(email: str, password: str, **headers: str) -> int:
    return Client(headers=headers).post("/admin/login/", {"username": email, "password": password}).status_code


def test_five_wrong_passwords_lock_the_door(operator: User) -> None:
    assert [sign_in(operator.email, "wrong") for _ in range(5)] == [200, 200, 200, 200, 429]
    assert sign_in(operator.email, RIGHT) == 429


def test_neither_case_nor_a_forwarded_address_evades_the_lock(operator: User) -> None:
    spellings = ["operator@blox.example", "OPERATOR@blox.example", "Operator@Blox.example", " operator@blox.example"]
    for i in range(5):
        sign_in(spellings[i % 4], "wrong", **{"X-Forwarded-For": f"198.51.100.{i}"})
    assert sign_in(operator.email, RIGHT, **{"X-Forwarded-For": "198.51.100.99"}) == 429


def test_four_wrong_passwords_do_not(operator: User) -> None:
    for _ in range(4):
        sign_in(operator.email, "wrong")
    assert sign_in(operator.email, RIGHT) == 302
