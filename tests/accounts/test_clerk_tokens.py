"""Which session tokens open the door, against a JWKS served on localhost."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from accounts.models import User
from tests.accounts.clerk_server import ONE, TWO, ClerkServer, Key, claims, session_token

pytestmark = [pytest.mark.django_db, pytest.mark.once]

Me = Callable[[str], Any]
NOW = int(time.time())


def hand_made(header: dict[str, Any], payload: dict[str, Any], hmac_key: bytes | None) -> str:
    """A token of any shape, also one that PyJWT refuses to make."""
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, payload)]
    signature = hmac.new(hmac_key, b".".join(parts), hashlib.sha256).digest() if hmac_key else b""
    return b".".join([*parts, base64.urlsafe_b64encode(signature).rstrip(b"=")]).decode()


def test_a_good_session_token_signs_in_and_makes_its_user(clerk: ClerkServer, me: Me) -> None:
    response = me(session_token(email="Ann@Shop.example", name="Ann", picture="https://img.example/a.png"))
    user = User.objects.get(clerk_subject="user_1")
    assert response.status_code == 200
    assert response.json() == {
        "id": str(user.id),
        "clerkId": "user_1",
        "email": "Ann@shop.example",
        "name": "Ann",
        "avatarUrl": "https://img.example/a.png",
        "tier": "free",
        "sharePromptsWithOperators": False,
        "createdAt": user.created_at.isoformat().replace("+00:00", "Z"),
    }
    assert clerk.user_requests == []


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"iss": "https://clerk.evil.example"}, "iss"),
        ({"iss": "https://clerk.shop.example/"}, "iss"),
        ({"iss": ["https://clerk.shop.example"]}, ""),
        ({"azp": "https://evil.example"}, "azp"),
        ({"azp": None}, "azp"),
        ({"azp": ["https://app.shop.example"]}, "azp"),
        ({"aud": "someone-else"}, "aud"),
        ({"exp": None}, "`exp`"),
        ({"iat": None}, "`iat`"),
        ({"nbf": None}, "`nbf`"),
        ({"iss": None}, "`iss`"),
        ({"sub": None}, "`sub`"),
        ({"sid": None}, "`sid`"),
        ({"sid": ""}, "sid"),
        ({"sid": 7}, "sid"),
        ({"sub": ""}, "sub"),
        ({"sub": "x" * 201}, "sub"),
        ({"sub": "user_\x00"}, "sub"),
        ({"sub": 7}, ""),
        ({"exp": NOW - 6}, "expired"),
        ({"exp": "soon"}, ""),
        ({"exp": NOW - 3600}, "expired"),
        ({"nbf": NOW + 600}, "not valid yet"),
        ({"iat": NOW + 600}, "not valid yet"),
    ],
)
def test_a_claim_that_is_wrong_or_missing_is_401(
    clerk: ClerkServer, me: Me, changes: dict[str, Any], says: str
) -> None:
    response = me(session_token(**changes))
    assert (response.status_code, response.json()["code"]) == (401, "authentication_failed")
    assert says in response.json()["message"]
    assert response["WWW-Authenticate"] == 'Bearer realm="api"'
    assert not User.objects.exists()


def test_five_seconds_of_skew_are_forgiven(clerk: ClerkServer, me: Me) -> None:
    assert me(session_token(exp=int(time.time()) - 3, nbf=int(time.time()) + 4)).status_code == 200


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "HS256", "RS384", "PS256", "ES256", ""])
def test_only_rs256_is_accepted(clerk: ClerkServer, me: Me, algorithm: str) -> None:
    response = me(hand_made({"alg": algorithm, "typ": "JWT", "kid": ONE.kid}, claims(), None))
    assert (response.status_code, User.objects.count()) == (401, 0)


@pytest.mark.parametrize("key", [ONE.public_pem, json.dumps(ONE.jwk).encode()], ids=["public PEM", "JWK"])
@pytest.mark.parametrize("algorithm", ["HS256", "RS256"])
def test_the_public_key_is_no_secret_to_sign_with(clerk: ClerkServer, me: Me, algorithm: str, key: bytes) -> None:
    response = me(hand_made({"alg": algorithm, "typ": "JWT", "kid": ONE.kid}, claims(), key))
    assert (response.status_code, User.objects.count()) == (401, 0)


def test_a_stranger_cannot_sign_under_a_known_kid(clerk: ClerkServer, me: Me) -> None:
    response = me(session_token(Key(ONE.kid)))
    assert (response.status_code, response.json()["message"]) == (401, "The session token's signature is wrong.")


@pytest.mark.parametrize("name", ["jku", "x5u", "jwk"])
def test_a_key_that_the_token_brings_along_is_never_used(clerk: ClerkServer, me: Me, name: str) -> None:
    """The stranger's key is served where the header says; it is not even asked for."""
    value: Any = TWO.jwk if name == "jwk" else clerk.jwks_url + "?mine"
    response = me(session_token(TWO, headers={name: value}))
    assert (response.status_code, User.objects.count(), clerk.jwks_requests) == (401, 0, 1)


@pytest.mark.parametrize(
    "token",
    [
        "x",
        "a.b.c",
        "..",
        "é.ü.ß",
        "x" * 8193,
        "%00",
        base64.urlsafe_b64encode(b"[" * 5000).decode() + ".e30.",
        base64.urlsafe_b64encode(b'{"alg":"RS256","kid":' + b"[" * 4000).decode() + ".e30.x",
        base64.urlsafe_b64encode(b'{"alg":"RS256","kid":{"a":1}}').decode() + ".e30.x",
        base64.urlsafe_b64encode(b'{"alg":["RS256"],"kid":"ins_one"}').decode() + ".e30.x",
        base64.urlsafe_b64encode(b'"text"').decode() + ".e30.x",
    ],
)
def test_rubbish_is_401_and_never_500(clerk: ClerkServer, me: Me, token: str) -> None:
    assert me(token).status_code == 401


@pytest.mark.parametrize("header", ["Bearer", "Bearer ", "Basic dXNlcjpwYXNz", "blox_abc", "Token x"])
def test_another_kind_of_header_is_told_how_it_must_read(anonymous: Any, db: None, header: str) -> None:
    response = anonymous.get("/api/v1/me", HTTP_AUTHORIZATION=header)
    assert (response.status_code, response.json()["code"]) == (401, "authentication_failed")
    assert "`Authorization: Bearer <token>`" in response.json()["message"]


@pytest.mark.parametrize("missing", ["CLERK_JWKS_URL", "CLERK_ISSUER", "CLERK_AUTHORIZED_PARTIES"])
def test_without_its_settings_no_session_token_is_accepted(
    clerk: ClerkServer, me: Me, settings: Any, missing: str
) -> None:
    setattr(settings, missing, type(getattr(settings, missing))())
    response = me(session_token())
    assert (response.status_code, clerk.jwks_requests) == (401, 0)
    assert missing in response.json()["message"]


def test_the_development_word_needs_its_setting(me: Me, settings: Any) -> None:
    settings.BLOX_DEV_AUTH = False
    response = me("dev:alice@shop.example")
    assert (response.status_code, User.objects.count()) == (401, 0)
    assert "BLOX_DEV_AUTH" in response.json()["message"]


def test_the_development_word_signs_in_whatever_the_case(me: Me) -> None:
    first = me("dev:New@Shop.example").json()
    assert first["clerkId"] == f"local_{first['id']}"
    assert me("dev:new@shop.EXAMPLE").json() == first


@pytest.mark.parametrize("email", ["", "x", "a@b", "a@b c.example", "x" * 250 + "@shop.example"])
def test_the_development_word_needs_an_address(me: Me, email: str) -> None:
    assert (me(f"dev:{email}").status_code, User.objects.count()) == (401, 0)
