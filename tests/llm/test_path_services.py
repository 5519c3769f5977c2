"""What users are told of the path's state, and what operators see of it and do to it: in the worker's memory, and on Redis."""

from datetime import UTC, date, datetime
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from celery import Celery
from django.conf import settings as django_settings
from django.test import Client
from pytest_django import DjangoCaptureOnCommitCallbacks

from accounts.models import Tier, User
from accounts.services import apply_clerk_event
from billing.models import LlmUsage
from llm import tasks
from llm.ask import ask
from llm.exchange import Answer, Request
from llm.models import CacheUse, Provider
from llm.path.breakers import FAILURES
from llm.path.shared import shared
from llm.services import forget_answers, rate_headers
from tests.conftest import api_as
from tests.llm.stores import caller, endpoint
from tests.llm.test_ask import COLD, DOWN, WARM
from tests.llm.test_ask import Provider as Answering

pytestmark = pytest.mark.django_db

CACHE, PROVIDERS = "/admin/llm/cacheuse/", "/admin/llm/provider/"
NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
NEEDS_REDIS = [
    pytest.mark.redis,
    pytest.mark.skipif(not django_settings.REDIS_URL, reason="needs a Redis server"),
]


def asked(user: User, asking: Request = COLD, *, fails: bool = False, at: str = "a") -> Answer:
    """As a worker's run does it, of an endpoint by the id `at`, and of another if that fails."""
    provider = Answering(**({at: DOWN} if fails else {}))

    async def run() -> Answer:
        try:
            return await ask(
                asking,
                caller=caller(user.tier, user.pk),
                endpoints=[[endpoint(at, concurrency=4), endpoint("b", priority=1)]],
                timeout=5,
                call=provider,
            )
        finally:
            await shared().close()

    return async_to_sync(run)()


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch, django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks) -> Any:
    """In its `with` whatever is sent after a commit is done."""
    assert tasks.forget_answers.app  # the tasks are known by their names
    monkeypatch.setattr(Celery, "send_task", lambda app, name, args=(), **_: app.tasks[name](*args))
    return lambda: django_capture_on_commit_callbacks(execute=True)


# The cache. ------------------------------------------------------------------------------------------------------
def test_a_deleted_account_leaves_no_answers_behind(alice: User, worker: Any) -> None:
    User.objects.filter(pk=alice.pk).update(clerk_subject="user_alice")
    asked(alice)
    assert asked(alice).cached == "exact"
    with worker():
        apply_clerk_event({"type": "user.deleted", "data": {"id": "user_alice"}})
    assert asked(alice).cached == ""


def test_a_deletion_that_is_rolled_back_forgets_nothing(alice: User, worker: Any) -> None:
    asked(alice)
    with worker() as callbacks:
        forget_answers(user_id=alice.pk)
        assert asked(alice).cached == "exact"  # it is not committed yet
    assert len(callbacks) == 1 and asked(alice).cached == ""


def test_a_broker_that_is_away_costs_no_deletion(
    alice: User, monkeypatch: pytest.MonkeyPatch, django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks
) -> None:
    def away(*_: Any, **__: Any) -> None:
        raise OSError("nobody is there")

    monkeypatch.setattr(Celery, "send_task", away)
    with django_capture_on_commit_callbacks(execute=True) as callbacks:
        forget_answers(user_id=alice.pk)
    assert len(callbacks) == 1


def used(user: User, day: date, calls: int, cached: int, model: str = "gpt-5") -> LlmUsage:
    return LlmUsage.objects.create(user=user, day=day, model=model, provider="openai", calls=calls, cached_calls=cached)


def test_an_operator_sees_hit_rates_by_tenant_and_day(admin_client: Client, alice: User, bob: User) -> None:
    used(alice, date(2026, 11, 25), 4, 4)
    used(alice, date(2026, 11, 26), 6, 1)
    used(alice, date(2026, 11, 26), 2, 1, model="gpt-4o")
    used(bob, date(2026, 11, 26), 3, 0)

    def shown(query: str = "") -> list[tuple[Any, ...]]:
        changes = admin_client.get(CACHE + query).context["cl"]
        return [
            (row.day.day, row.user.name, row.calls_of_day, row.hits_of_day, changes.model_admin.hit_rate(row))
            for row in changes.result_list
        ]

    of_the_26th = [(26, "Alice", 8, 2, "25%"), (26, "Bob", 3, 0, "0%")]
    assert shown() == [*of_the_26th, (25, "Alice", 4, 4, "100%")]
    assert shown("?day__year=2026&day__month=11&day__day=26") == of_the_26th
    assert shown("?q=alice") == [(26, "Alice", 8, 2, "25%"), (25, "Alice", 4, 4, "100%")]
    assert shown(f"?user__id__exact={bob.pk}") == of_the_26th[1:]


def test_an_operator_has_one_tenants_answers_forgotten(
    admin_client: Client, alice: User, bob: User, worker: Any
) -> None:
    for user in (alice, bob):
        asked(user)
        used(user, NOW.date(), 1, 0)
    row = CacheUse.objects.get(user=alice)
    with worker():
        data = {"action": "forget_answers", "_selected_action": [str(row.pk)]}
        answer = admin_client.post(CACHE, data, follow=True)
    assert "The answers kept for alice@shop.example are being forgotten" in answer.content.decode()
    assert (asked(alice).cached, asked(bob).cached) == ("", "exact")


# The pool. -------------------------------------------------------------------------------------------------------
def broken(alice: User) -> Provider:
    """A member of the pool whose breaker is open."""
    row = Provider.objects.create(name="First", provider="a", base_url="http://a.example", concurrency=4, weight=7)
    for _ in range(FAILURES):
        asked(alice, WARM, fails=True, at=str(row.pk))
    return row


def outcomes(alice: User, row: Provider) -> list[str]:
    return [hop.outcome for hop in asked(alice, WARM, at=str(row.pk)).path]


@pytest.mark.parametrize("page", [PROVIDERS, f"{PROVIDERS}%s/change/"])
@pytest.mark.parametrize("redis", [False, pytest.param(True, marks=NEEDS_REDIS)])
def test_an_operator_sees_load_slots_and_breaker_or_that_they_are_not_known(
    admin_client: Client, alice: User, page: str, redis: bool
) -> None:
    if not redis and django_settings.REDIS_URL:
        pytest.skip("it is known here")
    row = broken(alice)
    text = admin_client.get(page % row.pk if "%" in page else page).content.decode()
    if redis:
        assert ">open<" in text and "0 of 4 slots, load 0%" in text
    else:
        assert "known with Redis only" in text


def test_an_operator_closes_a_breaker(admin_client: Client, alice: User, worker: Any) -> None:
    row = broken(alice)
    assert outcomes(alice, row) == ["open", "answered"]
    with worker():
        data = {"action": "close_breaker", "_selected_action": [str(row.pk)]}
        assert "being closed" in admin_client.post(PROVIDERS, data, follow=True).content.decode()
    assert outcomes(alice, row) == ["answered"]


# The limits. -----------------------------------------------------------------------------------------------------
@pytest.mark.redis
@pytest.mark.skipif(not django_settings.REDIS_URL, reason="needs a Redis server")
def test_usage_says_where_the_user_stands_within_the_minute(alice: User) -> None:
    User.objects.filter(pk=alice.pk).update(tier=Tier.FREE)
    alice.refresh_from_db()
    asked(alice)
    headers = api_as(alice).get("/api/v1/usage/llm").headers
    assert headers["X-RateLimit-Limit-Requests"] == "10" and headers["X-RateLimit-Remaining-Requests"] == "9"
    assert headers["X-RateLimit-Limit-Tokens"] == "10000" and headers["X-RateLimit-Remaining-Tokens"] == "9880"
    assert 60 < int(headers["X-RateLimit-Reset-LLM"]) <= 120


@pytest.mark.skipif(bool(django_settings.REDIS_URL), reason="it is known here")
def test_without_redis_nothing_is_said_that_is_not_known(alice: User) -> None:
    assert rate_headers(alice) == {}
    assert "X-RateLimit-Limit-Requests" not in api_as(alice).get("/api/v1/usage/llm").headers
