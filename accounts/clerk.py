"""Clerk's session tokens (JWT) and its public keys (JWKS), and the one call to its API.

The rules are those of Clerk's "Manual JWT verification" page and RFC 8725: one algorithm, named claims required,
exact issuer, `azp` from a list, and no key from anywhere but the configured URL.
"""

import json
import logging
import threading
import time
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from urllib.parse import quote

import httpx2
import jwt
from django.conf import settings

from accounts.errors import ClerkUnavailable

logger = logging.getLogger(__name__)

ALGORITHM = "RS256"
REQUIRED_CLAIMS = ["exp", "iat", "nbf", "iss", "sub", "sid"]
LEEWAY = 5  # seconds of clock skew, the default of Clerk's own SDKs
MAX_TOKEN_BYTES = 8 * 1024
MAX_SUBJECT_LENGTH = 200

FETCH_TIMEOUT = 3.0  # seconds
FRESH_SECONDS = 3600.0
STALE_SECONDS = 24 * 3600.0  # how long keys are served while Clerk is away
UNKNOWN_KID_SECONDS = 30.0  # an unknown key id refetches at most this often
FAILURE_SECONDS = 10.0  # after a failed fetch nobody asks again for this long
MAX_JWKS_BYTES = 256 * 1024


class InvalidToken(Exception):
    """The token is not accepted; the message says why, for the caller."""


def verify_session_token(token: str) -> dict[str, Any]:
    """The claims of a Clerk session token.

    Raises `InvalidToken` with the reason, and `ClerkUnavailable` when no key can be had to check it with.
    """
    if not (settings.CLERK_JWKS_URL and settings.CLERK_ISSUER and settings.CLERK_AUTHORIZED_PARTIES):
        raise InvalidToken("Clerk sign-in is not set up here (CLERK_JWKS_URL, CLERK_ISSUER, CLERK_AUTHORIZED_PARTIES).")
    if len(token) > MAX_TOKEN_BYTES:
        raise InvalidToken(f"The session token is larger than {MAX_TOKEN_BYTES} bytes.")
    key = key_set(settings.CLERK_JWKS_URL).key(_key_id(token))
    if key is None:
        raise InvalidToken("The session token is signed with a key that Clerk does not publish (`kid`).")
    try:
        claims = jwt.decode(
            token,
            key,
            algorithms=[ALGORITHM],
            issuer=settings.CLERK_ISSUER,
            leeway=LEEWAY,
            options={"require": REQUIRED_CLAIMS, "enforce_minimum_key_length": True},
        )
    except jwt.PyJWTError as error:
        raise InvalidToken(_reason(error)) from error
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise InvalidToken("The session token cannot be read.") from error
    return _checked(claims)


def _key_id(token: str) -> str:
    """The `kid` that the token names. Nothing else of the unverified header is believed, least of all `jku` or `x5u`."""
    try:
        header = jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
        raise InvalidToken("The token is neither a session token nor an access token of this server.") from error
    if header.get("alg") != ALGORITHM:
        raise InvalidToken(f"The session token must be signed with {ALGORITHM}.")
    kid = header.get("kid")
    if not isinstance(kid, str) or not 0 < len(kid) <= 255:
        raise InvalidToken("The session token does not say which key signed it (`kid`).")
    return kid


def _checked(claims: dict[str, Any]) -> dict[str, Any]:
    if claims.get("azp") not in settings.CLERK_AUTHORIZED_PARTIES:
        raise InvalidToken("The session token was made for another application (`azp`): see CLERK_AUTHORIZED_PARTIES.")
    if not isinstance(claims["sid"], str) or not claims["sid"]:
        raise InvalidToken("The token carries no session (`sid`): send a session token, not one of a JWT template.")
    subject = claims["sub"]
    if not 0 < len(subject) <= MAX_SUBJECT_LENGTH or not subject.isprintable():
        raise InvalidToken("The session token's subject (`sub`) is not a Clerk user id.")
    return claims


def _reason(error: jwt.PyJWTError) -> str:
    match error:
        case jwt.ExpiredSignatureError():
            return "The session token has expired: get a new one from Clerk."
        case jwt.ImmatureSignatureError():
            return "The session token is not valid yet (`nbf`, `iat`): check the clock of the machine that made it."
        case jwt.InvalidIssuerError():
            return "The session token comes from another issuer (`iss`): see CLERK_ISSUER."
        case jwt.InvalidAudienceError():
            return "The session token is meant for another audience (`aud`)."
        case jwt.MissingRequiredClaimError():
            return (
                f"The session token lacks the claim `{error.claim}`: send a session token, not one of a JWT template."
            )
        case jwt.InvalidSignatureError():
            return "The session token's signature is wrong."
        case _:
            return "The session token cannot be accepted."


@dataclass
class KeySet:
    """The public keys behind `url`, kept as `PyJWKClient` keeps them, but through an outage of Clerk's as well.

    `PyJWKClient` drops good keys an hour after an outage began, asks for each unknown `kid` while the endpoint is
    down, and makes every sign-in wait for a slow fetch. Here one thread fetches; who has a key does not wait.
    """

    url: str
    _keys: dict[str, jwt.PyJWK] = field(default_factory=dict)
    _fetched_at: float = float("-inf")
    _asked_at: float = float("-inf")  # the last try, whatever came of it
    _failed_at: float = float("-inf")
    _fetching: threading.Lock = field(default_factory=threading.Lock)

    def key(self, kid: str) -> jwt.PyJWK | None:
        """The key named `kid`, or None if Clerk publishes none. Raises `ClerkUnavailable` when none can be had."""
        if self._age() > STALE_SECONDS:
            self._fetch_or_wait()
            if self._age() > STALE_SECONDS:
                raise ClerkUnavailable(
                    "Clerk cannot be reached to check the session token: try again.",
                    headers={"Retry-After": str(int(FAILURE_SECONDS))},
                )
        elif self._age() > FRESH_SECONDS:
            self._refresh_in_background()
        if kid not in self._keys and time.monotonic() - self._asked_at >= UNKNOWN_KID_SECONDS:
            self._fetch_or_wait()
        elif kid not in self._keys and self._fetching.locked():
            self._wait()
        return self._keys.get(kid)

    def _age(self) -> float:
        return time.monotonic() - self._fetched_at

    def _may_ask(self) -> bool:
        return time.monotonic() - self._failed_at >= FAILURE_SECONDS

    def _fetch_or_wait(self) -> None:
        """Fetches, or waits for the thread that already does."""
        asked_at = self._asked_at
        if not self._fetching.acquire(blocking=False):
            self._wait()
        elif asked_at != self._asked_at:  # another thread asked and came back in between
            self._fetching.release()
        else:
            self._fetch_and_release()

    def _wait(self) -> None:
        if self._fetching.acquire(timeout=FETCH_TIMEOUT):
            self._fetching.release()

    def _refresh_in_background(self) -> None:
        if self._may_ask() and self._fetching.acquire(blocking=False):
            threading.Thread(target=self._fetch_and_release, name="clerk-jwks", daemon=True).start()

    def _fetch_and_release(self) -> None:
        try:
            if self._may_ask():
                self._asked_at = time.monotonic()
                self._keys = _usable_keys(_download(self.url))
                self._fetched_at = time.monotonic()
        except (httpx2.HTTPError, httpx2.InvalidURL, ValueError, RecursionError) as error:
            self._failed_at = time.monotonic()
            logger.warning("Clerk's keys could not be fetched from %s: %s", self.url, error)
        finally:
            self._fetching.release()


@lru_cache(maxsize=1)
def key_set(url: str) -> KeySet:
    """The process's one `KeySet` for `url`."""
    return KeySet(url)


def _download(url: str) -> Any:
    """The JSON behind `url`. Bounded in time and size; no redirect is followed."""
    deadline = time.monotonic() + FETCH_TIMEOUT
    body = b""
    with httpx2.stream("GET", url, timeout=FETCH_TIMEOUT, follow_redirects=False) as response:
        response.raise_for_status()
        for chunk in response.iter_bytes():
            body += chunk
            if len(body) > MAX_JWKS_BYTES or time.monotonic() > deadline:
                raise ValueError("too slow or too large")
    return json.loads(body)


def _usable_keys(document: Any) -> dict[str, jwt.PyJWK]:
    """RSA signing keys by id. Raises `ValueError` when there is none: an empty answer must not drop good keys."""
    keys: dict[str, jwt.PyJWK] = {}
    for entry in document.get("keys", []) if isinstance(document, dict) else []:
        if not isinstance(entry, dict) or entry.get("kty") != "RSA" or entry.get("use", "sig") != "sig":
            continue
        if entry.get("alg", ALGORITHM) != ALGORITHM or not isinstance(entry.get("kid"), str):
            continue
        try:
            keys[entry["kid"]] = jwt.PyJWK(entry, algorithm=ALGORITHM)
        except jwt.PyJWTError as error:
            logger.warning("Clerk publishes a key that cannot be used (%s): %s", entry["kid"], error)
    if not keys:
        raise ValueError("no RSA signing key in the answer")
    return keys


def fetch_user(subject: str) -> dict[str, Any] | None:
    """Clerk's record of `subject` (its "User object"), or None when no secret key is set or Clerk does not answer."""
    if not settings.CLERK_SECRET_KEY:
        return None
    url = f"{settings.CLERK_API_URL.rstrip('/')}/users/{quote(subject, safe='')}"
    try:
        response = httpx2.get(
            url,
            headers={"Authorization": f"Bearer {settings.CLERK_SECRET_KEY}"},
            timeout=FETCH_TIMEOUT,
            follow_redirects=False,
        )
        response.raise_for_status()
        user = response.json()
    except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as error:
        logger.warning("Clerk's record of %s could not be read: %s", subject, error)
        return None
    return user if isinstance(user, dict) else None
