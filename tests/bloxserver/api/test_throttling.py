"""Requests a minute, by user and by address. Each test counts from nothing."""

import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from django.conf import settings as django_settings
from rest_framework.settings import api_settings
from rest_framework.test import APIClient

from accounts.models import Tier, User
from accounts.services import create_access_token
from bloxserver.api import throttling
from tests.bloxserver.api.conftest import plain_client

pytestmark = [pytest.mark.django_db, pytest.mark.urls("tests.bloxserver.api.urls")]

PUBLIC = "/api/v1/test/public"


@pytest.fixture(autouse=True)
def _no_counts() -> Iterator[None]:
    throttling.limiter().reset()
    yield
    throttling.limiter().reset()


@pytest.fixture
def free_user(db: None) -> User:
    return User.objects.create_user("free@shop.example", tier=Tier.FREE)


def headers(response: Any) -> tuple[int, int]:
    return int(response["X-RateLimit-Limit"]), int(response["X-RateLimit-Remaining"])


def test_every_answer_tells_where_the_user_stands(api: APIClient) -> None:
    assert [headers(api.get("/api/v1/me")) for _ in range(3)] == [(600, 599), (600, 598), (600, 597)]
    response = api.patch("/api/v1/me", {"name": ["no"]})
    assert (response.status_code, headers(response)) == (400, (600, 596))
    assert time.time() <= int(response["X-RateLimit-Reset"]) <= time.time() + 61


def test_a_403_is_an_answer_too(alice: User) -> None:
    _, secret = create_access_token(user=alice, name="reader", scopes=["read"])
    client = APIClient(headers={"Authorization": f"Bearer {secret}"})
    response = client.patch("/api/v1/me", {"name": "x"})
    assert (response.status_code, headers(response)) == (403, (600, 599))


def test_who_tries_tokens_is_counted_by_address_whatever_its_headers_say(settings: Any) -> None:
    settings.BLOX_ANONYMOUS_API_RATE = 3
    answers = [
        APIClient(headers={"Authorization": f"Bearer blox_{n}", "X-Forwarded-For": f"192.0.2.{n}"}).get("/api/v1/me")
        for n in range(5)
    ]
    assert [answer.status_code for answer in answers] == [401, 401, 401, 429, 429]
    assert headers(answers[3]) == (3, 0)
    assert answers[3].json()["code"] == "rate_limit_exceeded"
    assert 1 <= int(answers[3]["Retry-After"]) <= 60


def test_over_the_tiers_rate_it_is_429_until_a_moment_that_it_names(free_user: User) -> None:
    client = plain_client(free_user)
    statuses = [client.get("/api/v1/me").status_code for _ in range(121)]
    assert statuses == [200] * 120 + [429]
    response = client.get("/api/v1/me")
    assert (response.json()["code"], headers(response)) == ("rate_limit_exceeded", (120, 0))
    assert 1 <= int(response["Retry-After"]) <= 60
    assert response.json()["details"] == {"retryAfter": int(response["Retry-After"])}
    assert "120 requests a minute" in response.json()["message"]


def test_one_users_requests_are_not_anothers(api: APIClient, bobs_api: APIClient) -> None:
    api.get("/api/v1/me")
    assert headers(bobs_api.get("/api/v1/me")) == (600, 599)


def test_strangers_are_counted_by_address(anonymous: APIClient, settings: Any) -> None:
    settings.BLOX_ANONYMOUS_API_RATE = 2
    statuses = [anonymous.get(PUBLIC, REMOTE_ADDR="203.0.113.5").status_code for _ in range(3)]
    assert statuses == [200, 200, 429]
    assert anonymous.get(PUBLIC, REMOTE_ADDR="203.0.113.6").status_code == 200


def test_an_invented_forwarded_for_changes_nothing_without_a_proxy(anonymous: APIClient, settings: Any) -> None:
    settings.BLOX_ANONYMOUS_API_RATE = 2
    statuses = [anonymous.get(PUBLIC, HTTP_X_FORWARDED_FOR=f"198.51.100.{i}").status_code for i in range(3)]
    assert statuses == [200, 200, 429]


def test_behind_one_proxy_only_the_address_that_it_added_counts(anonymous: APIClient, settings: Any) -> None:
    settings.BLOX_ANONYMOUS_API_RATE = 2
    settings.REST_FRAMEWORK = {**django_settings.REST_FRAMEWORK, "NUM_PROXIES": 1}
    assert api_settings.NUM_PROXIES == 1
    statuses = [
        anonymous.get(PUBLIC, HTTP_X_FORWARDED_FOR=f"198.51.100.{i}, 203.0.113.9").status_code for i in range(3)
    ]
    assert statuses == [200, 200, 429]
    assert anonymous.get(PUBLIC, HTTP_X_FORWARDED_FOR="198.51.100.1, 203.0.113.10").status_code == 200


def test_the_addresses_of_one_ipv6_customer_count_as_one(anonymous: APIClient, settings: Any) -> None:
    settings.BLOX_ANONYMOUS_API_RATE = 2
    statuses = [anonymous.get(PUBLIC, REMOTE_ADDR=f"2001:db8:1:2::{i}").status_code for i in range(1, 4)]
    assert statuses == [200, 200, 429]
    assert anonymous.get(PUBLIC, REMOTE_ADDR="2001:db8:1:3::1").status_code == 200


@pytest.mark.parametrize("address", ["", "unix:", "not-an-address"])
def test_a_peer_without_an_address_is_counted_as_well(anonymous: APIClient, address: str) -> None:
    assert headers(anonymous.get(PUBLIC, REMOTE_ADDR=address)) == (300, 299)


def test_with_redis_gone_the_count_goes_on_in_memory(api: APIClient, settings: Any) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    assert [headers(api.get("/api/v1/me")) for _ in range(3)] == [(600, 599), (600, 598), (600, 597)]


def test_a_redis_that_never_answers_is_asked_once(settings: Any) -> None:
    """The breaker: the second hit does not meet the socket at all."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        limiter = throttling.Limiter(f"redis://127.0.0.1:{silent.getsockname()[1]}/0")
        remaining = [limiter.hit("key", per_minute=10).remaining for _ in range(5)]
        assert remaining == [9, 8, 7, 6, 5]
        silent.setblocking(False)
        silent.accept()[0].close()
        with pytest.raises(BlockingIOError):
            silent.accept()


@pytest.mark.skipif(not django_settings.REDIS_URL, reason="needs a Redis server")
def test_two_processes_share_the_count_in_redis() -> None:
    one, other = throttling.Limiter(django_settings.REDIS_URL), throttling.Limiter(django_settings.REDIS_URL)
    assert one.hit("shared", per_minute=2).allowed
    assert other.hit("shared", per_minute=2).allowed
    assert not one.hit("shared", per_minute=2).allowed
