from io import StringIO
from typing import Any

import pytest
from django.core.checks import run_checks
from django.core.management import CommandError, call_command
from rest_framework.test import APIClient

from accounts.models import AccessToken, User

pytestmark = pytest.mark.django_db


def run(*args: str) -> str:
    out = StringIO()
    call_command(*args, stdout=out)
    return out.getvalue().strip()


def test_create_access_token_prints_a_token_that_signs_in(alice: User) -> None:
    secret = run("create_access_token", "ALICE@shop.example")
    client = APIClient(headers={"Authorization": f"Bearer {secret}"})
    assert client.get("/api/v1/me").json()["id"] == str(alice.id)
    token = AccessToken.objects.get()
    assert (token.scopes, token.expires_at) == (["read", "write"], None)


def test_create_access_token_takes_a_name_scopes_and_days(alice: User) -> None:
    run("create_access_token", alice.email, "--name", "CI", "--scopes", "read", "--days", "3")
    token = AccessToken.objects.get()
    assert (token.name, token.scopes) == ("CI", ["read"])
    assert token.expires_at is not None and (token.expires_at - token.created_at).days in (2, 3)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["nobody@shop.example"], "no active user"),
        (["alice@shop.example", "--scopes", "admin"], "Scopes must be"),
        (["alice@shop.example", "--scopes", ","], "Scopes must be"),
        (["alice@shop.example", "--days", "0"], "--days"),
        (["alice@shop.example", "--days", "99999999999"], "--days"),
    ],
)
def test_create_access_token_refuses_with_the_reason(alice: User, args: list[str], says: str) -> None:
    with pytest.raises(CommandError, match=says):
        run("create_access_token", *args)
    assert not AccessToken.objects.exists()


@pytest.mark.parametrize(
    ("changes", "errors"),
    [
        ({}, []),
        ({"CLERK_JWKS_URL": "https://x.example/jwks"}, ["accounts.E001"]),
        ({"CLERK_JWKS_URL": "https://x.example", "CLERK_ISSUER": "https://x.example"}, ["accounts.E001"]),
        ({"CLERK_JWKS_URL": "https://x.example", "CLERK_ISSUER": "x", "CLERK_AUTHORIZED_PARTIES": ["x"]}, []),
    ],
)
def test_a_half_configured_clerk_is_an_error_at_start(
    settings: Any, changes: dict[str, Any], errors: list[str]
) -> None:
    for name, value in changes.items():
        setattr(settings, name, value)
    assert [check.id for check in run_checks() if str(check.id).startswith("accounts.")] == errors
