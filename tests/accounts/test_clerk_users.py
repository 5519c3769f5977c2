"""The user that the first sight of a Clerk subject makes."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import connection

from accounts.models import User
from accounts.services import user_from_clerk_claims
from tests.accounts.clerk_server import ClerkServer, claims, session_token

pytestmark = pytest.mark.django_db

Me = Callable[[str], Any]
RECORD = {
    "id": "user_1",
    "first_name": "Ann",
    "last_name": "Lee",
    "image_url": "https://img.clerk.example/a.png",
    "primary_email_address_id": "idn_2",
    "email_addresses": [
        {"id": "idn_1", "email_address": "old@shop.example"},
        {"id": "idn_2", "email_address": "ann@shop.example"},
    ],
}


def test_without_an_email_claim_clerks_api_is_asked_once(clerk: ClerkServer, me: Me, settings: Any) -> None:
    settings.CLERK_SECRET_KEY = "sk_test_1"
    clerk.users["user_1"] = RECORD
    for _ in range(2):
        answer = me(session_token()).json()
        assert (answer["email"], answer["name"], answer["avatarUrl"]) == (
            "ann@shop.example",
            "Ann Lee",
            "https://img.clerk.example/a.png",
        )
    assert clerk.user_requests == [("user_1", "Bearer sk_test_1")]


@pytest.mark.parametrize("secret", ["", "sk_test_1"])
def test_where_nobody_knows_the_address_a_placeholder_stands_in(
    clerk: ClerkServer, me: Me, settings: Any, secret: str
) -> None:
    settings.CLERK_SECRET_KEY = secret
    assert me(session_token()).json()["email"] == "user_1@clerk.invalid"


def test_an_api_that_is_away_does_not_keep_anyone_out(clerk: ClerkServer, me: Me, settings: Any) -> None:
    settings.CLERK_SECRET_KEY, settings.CLERK_API_URL = "sk_test_1", "http://127.0.0.1:1/v1"
    assert me(session_token()).json()["email"] == "user_1@clerk.invalid"


@pytest.mark.parametrize("claimed", ["alice@shop.example", "ALICE@SHOP.EXAMPLE"])
def test_an_address_of_another_user_is_not_taken_over(clerk: ClerkServer, me: Me, alice: User, claimed: str) -> None:
    answer = me(session_token(email=claimed)).json()
    assert (answer["email"], answer["clerkId"]) == ("user_1@clerk.invalid", "user_1")
    assert answer["id"] != str(alice.id)
    alice.refresh_from_db()
    assert (alice.email, alice.clerk_subject) == ("alice@shop.example", None)


@pytest.mark.parametrize("claimed", ["no address", "user_2@clerk.invalid", "", 7, ["a@b.example"], None])
def test_a_claim_that_is_no_address_is_passed_over(clerk: ClerkServer, me: Me, claimed: Any) -> None:
    assert me(session_token(email=claimed)).json()["email"] == "user_1@clerk.invalid"


def test_a_user_who_was_deactivated_is_401(clerk: ClerkServer, me: Me) -> None:
    assert me(session_token()).status_code == 200
    User.objects.update(is_active=False)
    response = me(session_token())
    assert (response.status_code, response.json()["code"]) == (401, "authentication_failed")


@pytest.mark.django_db(transaction=True)
def test_eight_first_sights_at_once_make_one_user() -> None:
    start = threading.Barrier(8)

    def sign_in(_: int) -> User:
        start.wait()
        try:
            return user_from_clerk_claims(claims(email="ann@shop.example"))
        finally:
            connection.close()

    with ThreadPoolExecutor(8) as threads:
        users = {user.pk for user in threads.map(sign_in, range(8))}
    assert (len(users), User.objects.count()) == (1, 1)
    assert User.objects.get().email == "ann@shop.example"
