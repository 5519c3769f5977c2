"""Clerk's keys: kept, rotated, and served through an outage. Time is moved by ageing the cache, not by sleeping."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from accounts import clerk as clerk_module
from tests.accounts.clerk_server import ONE, TWO, ClerkServer, Key, session_token

pytestmark = pytest.mark.django_db

Me = Callable[[str], Any]


def pass_time(clerk: ClerkServer, seconds: float) -> None:
    keys = clerk_module.key_set(clerk.jwks_url)
    keys._fetched_at -= seconds
    keys._asked_at -= seconds
    keys._failed_at -= seconds


def wait_for_refresh(clerk: ClerkServer) -> None:
    keys = clerk_module.key_set(clerk.jwks_url)
    with keys._fetching:
        pass


def test_the_keys_are_fetched_once_for_many_sign_ins(clerk: ClerkServer, me: Me) -> None:
    assert {me(session_token()).status_code for _ in range(10)} == {200}
    assert clerk.jwks_requests == 1


def test_a_rotated_key_is_accepted_after_the_cooldown(clerk: ClerkServer, me: Me) -> None:
    assert me(session_token(ONE)).status_code == 200
    clerk.keys = [ONE.jwk, TWO.jwk]
    assert me(session_token(TWO)).status_code == 401
    pass_time(clerk, 31)
    assert me(session_token(TWO)).status_code == 200
    assert me(session_token(ONE)).status_code == 200
    assert clerk.jwks_requests == 2


def test_a_withdrawn_key_stops_working_when_the_keys_are_renewed(clerk: ClerkServer, me: Me) -> None:
    assert me(session_token(ONE)).status_code == 200
    clerk.keys = [TWO.jwk]
    pass_time(clerk, 31)
    assert me(session_token(TWO)).status_code == 200
    assert me(session_token(ONE)).status_code == 401


def test_a_flood_of_unknown_kids_costs_one_fetch_each_thirty_seconds(clerk: ClerkServer, me: Me) -> None:
    assert me(session_token()).status_code == 200
    strangers = [session_token(TWO, headers={"kid": f"kid_{i}"}) for i in range(50)]
    assert {me(token).status_code for token in strangers} == {401}
    assert clerk.jwks_requests == 1
    pass_time(clerk, 31)
    assert {me(token).status_code for token in strangers} == {401}
    assert clerk.jwks_requests == 2


def test_a_flood_of_unknown_kids_during_an_outage_costs_no_more(clerk: ClerkServer, me: Me) -> None:
    assert me(session_token()).status_code == 200
    clerk.status = 503
    pass_time(clerk, 31)
    strangers = [session_token(TWO, headers={"kid": f"kid_{i}"}) for i in range(50)]
    assert {me(token).status_code for token in strangers} == {401}
    assert clerk.jwks_requests == 2


def test_a_concurrent_flood_costs_one_fetch(clerk: ClerkServer) -> None:
    keys = clerk_module.key_set(clerk.jwks_url)
    with ThreadPoolExecutor(16) as threads:
        found = list(threads.map(keys.key, [f"kid_{i}" for i in range(200)]))
    assert (set(found), clerk.jwks_requests) == ({None}, 1)


def test_a_fetch_that_came_back_in_between_is_not_repeated(clerk: ClerkServer) -> None:
    """Another thread fetches between this one's look at the keys and its turn."""
    keys = clerk_module.key_set(clerk.jwks_url)
    lock = keys._fetching

    class SteppingIn:
        release = lock.release

        def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
            keys._fetching = lock
            assert keys.key(ONE.kid) is not None
            return lock.acquire(blocking, timeout)

    keys._fetching = SteppingIn()  # type: ignore[assignment]
    assert keys.key(ONE.kid) is not None
    assert clerk.jwks_requests == 1


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (503, b""),
        (500, b"{}"),
        (302, b""),
        (200, b"not json"),
        (200, b'{"keys": []}'),
        (200, b"[]"),
        (200, b"[" * 9000),
    ],
)
def test_known_keys_go_on_working_while_clerk_is_away(clerk: ClerkServer, me: Me, status: int, body: bytes) -> None:
    assert me(session_token()).status_code == 200
    clerk.status, clerk.body = status, body
    pass_time(clerk, 3601)
    assert me(session_token()).status_code == 200
    wait_for_refresh(clerk)
    pass_time(clerk, 20 * 3600)
    assert me(session_token()).status_code == 200
    wait_for_refresh(clerk)
    assert clerk.jwks_requests == 3
    clerk.status, clerk.body = 200, None
    pass_time(clerk, 11)
    assert me(session_token()).status_code == 200
    wait_for_refresh(clerk)
    pass_time(clerk, 3000)
    assert me(session_token()).status_code == 200
    assert clerk.jwks_requests == 4


def test_a_day_after_the_last_answer_nobody_can_tell(clerk: ClerkServer, me: Me) -> None:
    assert me(session_token()).status_code == 200
    clerk.status = 503
    pass_time(clerk, 24 * 3600 + 1)
    response = me(session_token())
    assert (response.status_code, response.json()["code"], response["Retry-After"]) == (503, "clerk_unavailable", "10")


def test_after_a_failure_clerk_is_left_alone_for_ten_seconds(clerk: ClerkServer, me: Me) -> None:
    clerk.status = 503
    assert {me(session_token()).status_code for _ in range(5)} == {503}
    assert clerk.jwks_requests == 1
    clerk.status = 200
    pass_time(clerk, 11)
    assert me(session_token()).status_code == 200


def test_sign_ins_do_not_wait_for_a_slow_refresh(clerk: ClerkServer, me: Me) -> None:
    """The refresh hangs until the test lets it go, which it does only after the sign-ins were answered."""
    assert me(session_token()).status_code == 200
    clerk.hold = threading.Event()
    pass_time(clerk, 3601)
    assert {me(session_token()).status_code for _ in range(5)} == {200}
    assert clerk_module.key_set(clerk.jwks_url)._fetching.locked()  # still under way
    clerk.hold.set()
    wait_for_refresh(clerk)
    assert clerk.jwks_requests == 2


def test_an_unknown_kid_waits_for_the_fetch_that_is_under_way(clerk: ClerkServer) -> None:
    keys = clerk_module.key_set(clerk.jwks_url)
    assert keys.key(ONE.kid) is not None
    clerk.keys, clerk.hold = [ONE.jwk, TWO.jwk], threading.Event()
    pass_time(clerk, 31)
    with ThreadPoolExecutor(4) as threads:
        waiting = [threads.submit(keys.key, TWO.kid) for _ in range(4)]
        assert keys.key(ONE.kid) is not None  # who has a key does not wait
        clerk.hold.set()
        assert all(one.result(5) is not None for one in waiting)
    assert clerk.jwks_requests == 2


def test_keys_of_other_kinds_are_passed_over(clerk: ClerkServer, me: Me) -> None:
    clerk.keys = [
        "rubbish",
        {"kty": "oct", "k": "c2VjcmV0", "kid": TWO.kid},
        {**TWO.jwk, "use": "enc"},
        {**TWO.jwk, "alg": "RS512"},
        {"kty": "RSA", "kid": "broken", "n": "!", "e": "!"},
        {**TWO.jwk, "kid": None},
        ONE.jwk,
    ]
    assert me(session_token(ONE)).status_code == 200
    assert me(session_token(TWO)).status_code == 401


def test_a_key_that_is_too_short_is_not_trusted(clerk: ClerkServer, me: Me) -> None:
    from cryptography.hazmat.primitives.asymmetric import rsa

    short = Key("ins_short")
    short.private = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    clerk.keys = [short.jwk]
    assert me(session_token(short)).status_code == 401
