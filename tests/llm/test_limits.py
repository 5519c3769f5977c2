"""Requests and tokens a minute and calls at once, in memory and on Redis."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import pytest
import redis

from accounts.models import Tier, User
from llm.errors import ModelError
from llm.exchange import Allowance
from llm.path import limits
from llm.path.limits import OWN_KEY, Taken, Wanted, allowance_of
from llm.path.shared import LEASE_SECONDS
from tests.llm.stores import Store, allowance_by, question

USER = uuid4()
FREE = allowance_by(Tier.FREE)


async def taking(store: Store, *, tokens: int = 1, allowance: Allowance = FREE, user: UUID = USER) -> Taken:
    wanted = Wanted(uuid4().hex, user, allowance, tokens)
    [result] = await store.shared.run(limits.taking(wanted))
    return limits.taken(store.shared, wanted, result)


def take(store: Store, **of: Any) -> Taken:
    return store.run(taking(store, **of))


def settle(store: Store, taken: Taken, tokens: int | None = None) -> None:
    async def run() -> None:
        await store.shared.run(limits.settling(store.shared, taken, tokens=tokens))

    store.run(run())


def use(store: Store, *, tokens: int = 1, allowance: Allowance = FREE) -> None:
    settle(store, take(store, tokens=tokens, allowance=allowance))


def refusal(store: Store, **of: Any) -> ModelError:
    with pytest.raises(ModelError) as caught:
        take(store, **of)
    assert caught.value.code == "llm_rate_limited" and caught.value.retryable
    return caught.value


@pytest.mark.once
def test_each_tier_has_the_limits_of_the_table() -> None:
    table = {
        tier: (of.requests, of.tokens, of.at_once) for tier in Tier.values for of in [allowance_of(User(tier=tier))]
    }
    assert table == {
        "free": (10, 10_000, 2),
        "pro": (60, 100_000, 10),
        "enterprise": (300, 500_000, 50),
        "high_frequency": (10_000, 10_000_000, 500),
    }


def test_a_refusal_says_whose_limit_it_is_and_what_lifts_it(store: Store) -> None:
    own = Allowance("account", 1, 100, 1, remedy="A key of your own lifts the limit.")
    use(store, allowance=own)
    assert refusal(store, allowance=own).message == (
        "The account's 1 model calls a minute are used up. Try again in 120 s. A key of your own lifts the limit."
    )
    for _ in range(OWN_KEY.at_once):
        take(store, allowance=OWN_KEY)
    assert refusal(store, allowance=OWN_KEY).message.endswith("Try again in 3 s.")


def test_the_eleventh_request_within_a_minute_is_refused_and_told_when_to_come_back(store: Store) -> None:
    for _ in range(10):
        use(store)
    error = refusal(store)
    assert "10 model calls a minute" in error.message and "free tier" in error.message
    assert error.retry_after == 66  # the tenth part of the window must have gone by in the next minute

    store.now += 65
    refusal(store)
    store.now += 1
    use(store)


def test_one_users_calls_are_not_counted_against_another(store: Store) -> None:
    for _ in range(10):
        use(store)
    assert take(store, user=uuid4()).standing.requests_left == 9


def test_tokens_are_reserved_before_a_call_and_put_right_after_it(store: Store) -> None:
    taken = take(store, tokens=9_000)
    assert "10,000 tokens a minute do not leave the 2,000" in refusal(store, tokens=2_000).message

    settle(store, taken, tokens=500)
    assert take(store, tokens=9_500).standing.tokens_left == 0


def test_a_call_that_used_more_than_was_reserved_is_counted_whole(store: Store) -> None:
    settle(store, take(store, tokens=100), tokens=10_000)
    assert "tokens a minute" in refusal(store, tokens=1).message


def test_a_call_whose_use_nobody_knows_keeps_its_reservation(store: Store) -> None:
    settle(store, take(store, tokens=9_000), tokens=None)
    refusal(store, tokens=2_000)


def test_what_is_settled_in_the_next_minute_changes_the_minute_it_was_reserved_in(store: Store) -> None:
    taken = take(store, tokens=6_000)
    store.now += 60
    use(store, tokens=0)  # the minute of the reservation is now the one before
    settle(store, taken, tokens=0)
    assert take(store, tokens=10_000).wanted.reserved == 10_000


def test_a_call_larger_than_the_whole_allowance_waits_for_an_empty_minute(store: Store) -> None:
    settle(store, take(store, tokens=50_000), tokens=10_000)
    error = refusal(store, tokens=50_000)
    assert error.retry_after == 120
    store.now += 120
    take(store, tokens=50_000)


def test_the_third_call_at_once_is_refused_and_let_through_when_one_has_ended(store: Store) -> None:
    first = take(store)
    take(store)
    error = refusal(store)
    assert "2 model calls at once" in error.message and error.retry_after == limits.AT_ONCE_RETRY_SECONDS
    settle(store, first)
    take(store)


def test_a_refused_call_is_not_counted(store: Store) -> None:
    first = take(store)
    take(store)
    for _ in range(20):
        refusal(store)
    settle(store, first)
    assert take(store).standing.requests_left == 7


def test_a_killed_workers_places_are_free_when_its_leases_have_run_out(store: Store) -> None:
    take(store)
    take(store)
    store.now += LEASE_SECONDS - 1
    refusal(store)
    store.now += 1
    take(store)


def test_a_call_that_goes_on_keeps_its_place(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm.path.shared.RENEW_SECONDS", 0.01)

    async def run() -> None:
        for _ in range(2):
            await taking(store)
        for _ in range(3):
            store.now += LEASE_SECONDS - 1
            await asyncio.sleep(0.05)
        with pytest.raises(ModelError, match="at once"):
            await taking(store)

    store.run(run())


def test_an_own_key_is_bounded_by_calls_at_once_alone(store: Store) -> None:
    for _ in range(15):
        use(store, allowance=OWN_KEY, tokens=1_000_000)
    for _ in range(20):
        take(store, allowance=OWN_KEY)
    with pytest.raises(ModelError, match="own key's 20 model calls at once"):
        take(store, allowance=OWN_KEY)
    assert take(store).standing.requests_left == 9  # the platform's allowance is untouched


def test_a_burst_from_many_calls_at_once_never_passes_the_cap(store: Store) -> None:
    async def run() -> int:
        tries = (taking(store, allowance=Allowance("x", 50, 10_000, 100)) for _ in range(200))
        results = await asyncio.gather(*tries, return_exceptions=True)
        return sum(isinstance(result, Taken) for result in results)

    assert store.run(run()) == 50


def test_the_headers_tell_limit_remainder_and_reset(store: Store) -> None:
    taken = take(store, tokens=4_000)
    assert taken.standing.headers == {
        "X-RateLimit-Limit-Requests": "10",
        "X-RateLimit-Remaining-Requests": "9",
        "X-RateLimit-Limit-Tokens": "10000",
        "X-RateLimit-Remaining-Tokens": "6000",
        "X-RateLimit-Reset-LLM": "120",
    }
    assert store.run(limits.standing_of(store.shared, user_id=USER, allowance=FREE)) == taken.standing


@pytest.mark.once
def test_the_estimate_counts_what_is_sent_and_the_longest_answer() -> None:
    assert limits.estimate(question("x" * 3_000, max_tokens=500)) == pytest.approx(1_500, abs=20)
    assert limits.estimate(question("x")) == pytest.approx(1_000, abs=20)


@pytest.mark.once
def test_without_redis_the_count_goes_on_in_memory_and_redis_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    with Store("redis://127.0.0.1:9/0") as store:  # nobody is there
        for _ in range(10):
            use(store)
        refusal(store)
    assert len([record for record in caplog.records if "without Redis" in record.message]) == 1


@pytest.mark.redis
def test_all_that_is_stored_in_redis_runs_out(redis_store: Store) -> None:
    take(redis_store)
    lives = redis_store.lives()
    assert len(lives) == 2 and all(0 < life <= 180 for life in lives.values())


@pytest.mark.redis
def test_a_redis_that_has_forgotten_the_scripts_is_given_them_again(redis_store: Store) -> None:
    take(redis_store)
    with redis.Redis.from_url(redis_store.redis_url) as client:
        client.script_flush()
    assert take(redis_store).standing.requests_left == 8
