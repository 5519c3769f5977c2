"""The whole path of a request: the stages together, in memory and on Redis."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from bloxserver.core.loops import background_done
from llm.ask import ask
from llm.errors import Failure, ModelError, ProviderFailed
from llm.exchange import Answer, Caller, Endpoint, OnText, Request, Usage
from llm.path import breakers, limits, pool
from llm.path.breakers import FAILURES, OPEN_SECONDS
from llm.path.shared import Shared, held_at
from tests.llm.stores import Store, caller, endpoint, load, question

A, B, FALLBACK = endpoint("a"), endpoint("b", priority=1), endpoint("c", model="gpt-5")
OWN = endpoint("own:1", provider="a", own_key=True)
WARM = question()
COLD = question(temperature=0)


class Provider:
    """Answers, or fails as told, by endpoint; keeps a list of what was asked."""

    def __init__(self, **failures: ProviderFailed | list[ProviderFailed | None]) -> None:
        """A failure for always, or one after the other, None being an answer."""
        self.failures = failures
        self.asked: list[str] = []
        self.silences: list[float] = []
        self.most_at_once = self.at_once = 0
        self.says: list[str] = ["yes"]
        self.seconds = 0.0

    async def __call__(
        self, endpoint: Endpoint, request: Request, *, on_text: OnText | None, timeout: float, silence: float
    ) -> Answer:
        self.asked.append(endpoint.id)
        self.silences.append(silence)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(self.seconds)
            return self._answer(endpoint, on_text)
        finally:
            self.at_once -= 1

    def _answer(self, endpoint: Endpoint, on_text: OnText | None) -> Answer:
        if on_text is not None:
            for piece in self.says:
                on_text(piece)
        failures = self.failures.get(endpoint.id.replace(":", "_"))
        failure = failures if isinstance(failures, ProviderFailed) else failures.pop(0) if failures else None
        if failure is not None:
            raise failure
        usage, cost = Usage(100, 20), Decimal("0.5")
        return Answer("".join(self.says), usage=usage, model=endpoint.model, provider=endpoint.provider, cost=cost)


def failed(
    failure: Failure, retry_after: float | None = None, *, accepted: bool = False, began: bool = False
) -> ProviderFailed:
    failed = ProviderFailed(failure, f"said {failure}", retry_after=retry_after)
    failed.accepted, failed.began = accepted, began
    return failed


DOWN, BUSY = failed(Failure.UNAVAILABLE), failed(Failure.RATE_LIMITED, 30)


def asking(
    store: Store,
    provider: "Provider",
    endpoints: Sequence[Sequence[Endpoint]] = ((A, B),),
    request: Request = WARM,
    by: Caller | None = None,
    timeout: float = 5.0,
    **more: Any,
) -> Answer:
    return store.run(
        ask(
            request,
            caller=by or caller(),
            endpoints=endpoints,
            timeout=timeout,
            call=provider,
            shared=store.shared,
            rng=random.Random(1),
            **more,
        )
    )


def refused(store: Store, *args: Any, **more: Any) -> ModelError:
    with pytest.raises(ModelError) as caught:
        asking(store, *args, **more)
    return caught.value


def hops(answer: Answer) -> list[tuple[str, str]]:
    return [(hop.provider, hop.outcome) for hop in answer.path]


# Failover. --------------------------------------------------------------------------------------------------------
def test_the_first_endpoint_answers(store: Store) -> None:
    provider = Provider()
    answer = asking(store, provider)
    assert (answer.text, hops(answer), provider.asked) == ("yes", [("a", "answered")], ["a"])


@pytest.mark.parametrize("failure", [DOWN, BUSY, failed(Failure.TIMEOUT), failed(Failure.MODEL_UNKNOWN)])
def test_where_one_endpoint_fails_the_next_answers_and_the_path_says_so(store: Store, failure: ProviderFailed) -> None:
    answer = asking(store, Provider(a=failure))
    assert hops(answer) == [("a", failure.failure.value), ("b", "answered")]


@pytest.mark.once
def test_the_fallback_model_is_asked_when_no_provider_of_the_first_answers() -> None:
    with Store("") as store:
        answer = asking(store, Provider(a=DOWN, b=DOWN), [(A, B), (FALLBACK,)])
    assert answer.model == "gpt-5"
    assert hops(answer) == [("a", "unavailable"), ("b", "unavailable"), ("c", "answered")]


@pytest.mark.once
@pytest.mark.parametrize("failure", [Failure.CONTEXT_TOO_LONG, Failure.REQUEST_REFUSED, Failure.CONTENT_REFUSED])
def test_what_is_the_requests_own_fault_is_asked_of_nobody_else(failure: Failure) -> None:
    provider = Provider(a=failed(failure))
    with Store("") as store:
        error = refused(store, provider)
    assert (error.code, error.retryable, provider.asked) == (failure.value, False, ["a"])


@pytest.mark.once
def test_a_fallback_with_more_room_is_asked_where_the_request_is_too_long() -> None:
    provider = Provider(a=failed(Failure.CONTEXT_TOO_LONG), c=[failed(Failure.CONTEXT_TOO_LONG), None])
    with Store("") as store:
        assert refused(store, provider, [(A, B), (FALLBACK,)]).code == "context_too_long"
        answer = asking(store, provider, [(A, B), (FALLBACK,)])
    assert hops(answer) == [("a", "context_too_long"), ("c", "answered")]  # b has the same model


@pytest.mark.once
def test_nobody_waits_long_for_silence_while_another_may_answer() -> None:
    provider = Provider(a=failed(Failure.TIMEOUT), b=failed(Failure.TIMEOUT))
    with Store("") as store:
        asking(store, provider, [(A, B), (FALLBACK,)], timeout=100)
        asking(store, provider, [(A, B), (FALLBACK,)], timeout=20)
    assert provider.silences == pytest.approx([50, 50, 100, 10, 10, 20], abs=0.5)


@pytest.mark.once
def test_an_endpoint_that_hangs_for_its_share_of_the_time_is_taken_for_broken() -> None:
    with Store("") as store:
        for _ in range(FAILURES):
            asking(store, Provider(a=failed(Failure.TIMEOUT)), timeout=60)
        assert hops(asking(store, Provider())) == [("a", "open"), ("b", "answered")]


@pytest.mark.once
def test_an_endpoint_whose_model_thinks_for_too_long_is_not_taken_for_broken() -> None:
    with Store("") as store:
        for _ in range(FAILURES):
            asking(store, Provider(a=failed(Failure.TIMEOUT, accepted=True)), timeout=60)
        assert hops(asking(store, Provider())) == [("a", "answered")]


@pytest.mark.once
def test_an_endpoint_that_the_tiers_limit_keeps_out_takes_no_time_from_an_own_key() -> None:
    by, provider = caller("free"), Provider()
    other = replace(FALLBACK, id="own:2", own_key=True)
    with Store("") as store:
        for _ in range(10):
            asking(store, Provider(), by=by)
        asking(store, provider, [(A,), (other, FALLBACK)], by=by, timeout=20)
    assert provider.asked == ["own:2"] and provider.silences == pytest.approx([20], abs=0.5)


@pytest.mark.once
def test_where_nobody_was_asked_since_all_are_left_alone_the_calls_turn_has_not_come() -> None:
    with Store("") as store:
        for _ in range(FAILURES):
            asking(store, Provider(a=DOWN))
        open_alone = refused(store, Provider(), [(A,)])
        asking(store, Provider(b=[BUSY]), [(B,), (FALLBACK,)])
        error = refused(store, Provider())
    assert {(each.code, each.retryable) for each in (open_alone, error)} == {("llm_overloaded", True)}
    assert [(hop.provider, hop.outcome) for hop in error.path] == [("a", "open"), ("b", "resting")]


@pytest.mark.once
def test_who_asks_is_told_once_that_a_provider_is_being_asked() -> None:
    told: list[int] = []
    provider = Provider(a=DOWN)
    by = caller()
    with Store("") as store:
        asking(store, provider, request=COLD, by=by, on_asked=lambda: told.append(len(provider.asked)))
        assert told == [0]
        asking(store, provider, request=COLD, by=by, on_asked=lambda: told.append(9))  # out of the cache
        refused(store, provider, timeout=0, on_asked=lambda: told.append(9))
    assert told == [0]


@pytest.mark.once
@pytest.mark.parametrize(
    ("failure", "charged"),
    [
        (DOWN, False),
        (failed(Failure.UNAVAILABLE, began=True), True),
        (failed(Failure.TIMEOUT), True),
        (failed(Failure.BAD_ANSWER), True),
        (BUSY, False),
    ],
)
def test_the_path_tells_who_may_charge_for_what_never_came(failure: ProviderFailed, charged: bool) -> None:
    provider = Provider(a=failure)
    with Store("") as store:
        answer = asking(store, provider, on_text=lambda text: None)
    assert [hop.may_be_charged for hop in answer.path] == [charged, False]


@pytest.mark.once
def test_when_all_refuse_each_is_named_with_its_reason_and_when_to_come_back() -> None:
    with Store("") as store:
        error = refused(store, Provider(a=BUSY, b=failed(Failure.RATE_LIMITED, 20)))
    assert error.message == (
        "No provider answered: a (gpt-4o-mini) is over its rate limit (said rate_limited); "
        "b (gpt-4o-mini) is over its rate limit (said rate_limited). Try again in 20 s."
    )
    assert (error.code, error.retryable, error.retry_after) == ("provider_rate_limited", True, 20)


@pytest.mark.once
def test_a_model_that_nobody_serves_is_not_asked_for_again() -> None:
    with Store("") as store:
        error = refused(store, Provider(), [(), ()])
        assert (error.code, error.retryable) == ("no_provider", False)
        unknown = failed(Failure.MODEL_UNKNOWN)
        error = refused(store, Provider(a=unknown, b=unknown))
    assert (error.code, error.retryable) == ("model_unknown", False)


# Retries. ---------------------------------------------------------------------------------------------------------
@pytest.mark.once
def test_a_short_wait_is_waited_in_place() -> None:
    provider = Provider(a=[failed(Failure.RATE_LIMITED, 0.05), None])
    with Store("") as store:
        store.shared._clock = None  # it goes on
        answer = asking(store, provider, [(A,)])
    assert hops(answer) == [("a", "rate_limited"), ("a", "answered")]


@pytest.mark.once
def test_a_long_wait_is_the_callers() -> None:
    provider = Provider(a=BUSY)
    with Store("") as store:
        error = refused(store, provider, [(A,)])
    assert (error.retry_after, provider.asked) == (30, ["a"])


@pytest.mark.once
def test_an_endpoint_that_is_away_is_asked_twice_more_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm.path.retries.BACKOFF_SECONDS", 0.01)
    provider = Provider(a=DOWN)
    with Store("") as store:
        error = refused(store, provider, [(A,)])
    assert (error.code, provider.asked) == ("provider_unavailable", ["a"] * 3)


def test_an_endpoint_that_asked_for_patience_is_left_alone_by_other_calls(store: Store) -> None:
    asking(store, Provider(a=BUSY))
    provider = Provider()
    assert hops(asking(store, provider)) == [("a", "resting"), ("b", "answered")]
    assert provider.asked == ["b"]


# Breakers. --------------------------------------------------------------------------------------------------------
def test_an_endpoint_that_failed_five_times_is_passed_by_until_a_probe_answers(store: Store) -> None:
    for _ in range(FAILURES):
        asking(store, Provider(a=DOWN))
    assert hops(asking(store, Provider())) == [("a", "open"), ("b", "answered")]
    store.now += OPEN_SECONDS
    assert hops(asking(store, Provider())) == [("a", "answered")]


@pytest.mark.once
def test_a_call_without_time_left_is_not_made_and_not_held_against_anybody() -> None:
    provider = Provider()
    with Store("") as store:
        for _ in range(FAILURES):
            assert refused(store, provider, timeout=0).code == "provider_unavailable"
        assert provider.asked == []
        assert store.run(breakers.states(store.shared, ["a"])) == {"a": "closed"}


# Own keys. --------------------------------------------------------------------------------------------------------
@pytest.mark.once
def test_a_refused_own_key_is_reported_and_the_platform_answers() -> None:
    told: list[tuple[str, str]] = []

    async def on_key_refused(which: Endpoint, message: str) -> None:
        told.append((which.id, message))

    refusal = failed(Failure.KEY_REFUSED)
    with Store("") as store:
        answer = asking(store, Provider(own_1=refusal), [(A, OWN)], on_key_refused=on_key_refused)
    assert told == [("own:1", "said key_refused")]
    assert hops(answer) == [("a", "key_refused"), ("a", "answered")] and not answer.own_key


@pytest.mark.once
def test_that_nobody_could_be_told_of_a_refused_key_costs_no_answer() -> None:
    async def on_key_refused(which: Endpoint, message: str) -> None:
        raise OSError("the database is away")

    with Store("") as store:
        provider = Provider(own_1=failed(Failure.KEY_REFUSED))
        assert asking(store, provider, [(A, OWN)], on_key_refused=on_key_refused).text == "yes"


def test_an_own_key_is_outside_the_platforms_limits(store: Store) -> None:
    by = caller("free")
    for _ in range(12):
        assert asking(store, Provider(), [(A, OWN)], by=by).own_key
    for _ in range(10):
        asking(store, Provider(), by=by)
    assert refused(store, Provider(), by=by).code == "llm_rate_limited"
    # Where the own key fails, the platform's limits hold for its endpoints.
    assert refused(store, Provider(own_1=DOWN), [(A, OWN)], by=by).code == "llm_rate_limited"


@pytest.mark.once
def test_where_the_tiers_limit_is_reached_a_fallback_with_an_own_key_answers() -> None:
    by = caller("free")
    other = replace(FALLBACK, id="own:2", own_key=True)
    with Store("") as store:
        for _ in range(10):
            asking(store, Provider(), by=by)
        answer = asking(store, Provider(), [(A, B), (FALLBACK, other)], by=by)
        assert answer.own_key and hops(answer) == [("c", "answered")]
        with_own = replace(OWN, id="own:1")
        assert hops(asking(store, Provider(own_1=DOWN), [(with_own, A), (other,)], by=by))[-1] == ("c", "answered")


# Limits. ----------------------------------------------------------------------------------------------------------
def tokens_left(store: Store, by: Caller) -> int:
    return store.run(limits.standing_of(store.shared, user_id=by.user_id, allowance=by.allowance)).tokens_left


def test_what_a_call_used_is_counted_when_it_has_ended(store: Store) -> None:
    by = caller("free")
    asking(store, Provider(), by=by)
    assert tokens_left(store, by) == 10_000 - 120


@pytest.mark.once
def test_a_call_that_got_nothing_is_given_its_tokens_back_unless_the_provider_worked_on_it() -> None:
    with Store("") as store:
        by = caller("free")
        refused(store, Provider(a=BUSY), [(A,)], by=by)
        assert tokens_left(store, by) == 10_000
        refused(store, Provider(b=failed(Failure.TIMEOUT)), [(B,)], by=by)
        assert tokens_left(store, by) < 9_000


def test_nothing_is_held_after_a_call_however_it_ended(store: Store) -> None:
    by, one = caller("free"), endpoint("a", concurrency=1)
    provider = Provider(a=[DOWN, ProviderFailed(Failure.CONTENT_REFUSED, "no")])
    asking(store, provider, [(one, B)], by=by)
    refused(store, provider, [(one,)], by=by)

    async def given_up() -> None:
        provider.seconds = 60
        task = asyncio.create_task(
            ask(question(), caller=by, endpoints=[[one]], timeout=90, call=provider, shared=store.shared)
        )
        await asyncio.sleep(0.05)
        assert provider.at_once == 1
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    store.run(given_up())
    provider.seconds = 0
    for _ in range(3):
        assert asking(store, provider, [(one,)], by=by).text == "yes"


@pytest.mark.once
def test_an_answer_does_not_wait_for_what_is_given_back_behind_it() -> None:
    by, one = caller("free"), endpoint("a", concurrency=1)

    async def run(store: Store) -> None:
        whole, rounds = store.shared.run, []

        async def slow(*calls: Any) -> list[Any]:
            rounds.append(calls)
            if len(rounds) > 3:  # limits, admission, breaker and slot
                await asyncio.sleep(0.1)
            return await whole(*calls)

        store.shared.run = slow  # type: ignore[method-assign]
        task = asyncio.create_task(
            ask(question(), caller=by, endpoints=[[one]], timeout=5, call=Provider(), shared=store.shared)
        )
        while len(rounds) < 4:
            await asyncio.sleep(0)
        task.cancel()  # comes after the answer
        assert (await task).text == "yes"
        await background_done()
        assert await load(store, [one]) == 0 and (await pool.slots_taken(store.shared, ["a"])) == {"a": 0}

    with Store("") as store:
        store.run(run(store))


def test_a_call_that_is_given_up_on_its_way_in_holds_nothing(store: Store) -> None:
    by, one = caller("free"), endpoint("a", concurrency=1)

    async def given_up(after: int) -> None:
        task = asyncio.create_task(
            ask(question(), caller=by, endpoints=[[one]], timeout=5, call=Provider(), shared=store.shared)
        )
        whole, rounds = Shared.run, []

        async def counted(*calls: Any) -> list[Any]:
            rounds.append(calls)
            results = await whole(store.shared, *calls)
            if len(rounds) == after:  # it is done there, and its result on its way here
                asyncio.get_running_loop().call_soon(task.cancel)
                await asyncio.sleep(0.001)
            return results

        store.shared.run = counted  # type: ignore[method-assign]
        await asyncio.gather(task, return_exceptions=True)
        await background_done()
        assert task.cancelled()
        del store.shared.run

    for after in (1, 2, 3):
        store.run(given_up(after))
        assert store.run(load(store, [one])) == 0
        assert store.run(pool.slots_taken(store.shared, ["a"])) == {"a": 0}
        assert tokens_left(store, by) == 10_000
    assert store.run(held_at(store.shared, [f"calls:{by.user_id}"])) == [0]


# Cache. -----------------------------------------------------------------------------------------------------------
def test_the_same_request_is_asked_once(store: Store) -> None:
    by, provider = caller(), Provider()
    heard: list[str] = []
    asking(store, provider, request=COLD, by=by)
    answer = asking(store, provider, request=COLD, by=by, on_text=heard.append)
    assert (answer.text, answer.cached, answer.cost, answer.usage) == ("yes", "exact", Decimal(0), Usage())
    assert provider.asked == ["a"] and heard == ["yes"]


def test_nearly_the_same_request_is_asked_once_where_the_listener_wants_that(store: Store) -> None:
    by, provider = caller(), Provider()
    asked = question("How do I reset my password?", cache="semantic")
    asking(store, provider, request=asked, by=by)
    near = replace(asked, messages=question("How can I reset my password?").messages)
    assert asking(store, provider, request=near, by=by).cached == "semantic"
    assert asking(store, provider, request=replace(near, cache="exact", temperature=0), by=by).cached == ""


def test_a_tenant_is_never_answered_with_what_another_made_the_model_say(store: Store) -> None:
    mallory, poison = caller(), Provider()
    poison.says = ["Send your password to eve@x.example"]
    for mode in ("exact", "semantic"):
        asking(store, poison, request=replace(COLD, cache=mode), by=mallory)
        answer = asking(store, Provider(), request=replace(COLD, cache=mode), by=caller())
        assert (answer.text, answer.cached) == ("yes", "")


def test_a_cached_answer_takes_no_tokens_but_counts_as_a_request(store: Store) -> None:
    by = caller("free")
    for _ in range(10):
        asking(store, Provider(), request=COLD, by=by)
    assert tokens_left(store, by) == 10_000 - 120
    assert refused(store, Provider(), request=COLD, by=by).code == "llm_rate_limited"


@pytest.mark.once
def test_an_answer_that_does_not_fit_is_asked_for_again() -> None:
    provider, by = Provider(), caller()
    strict = replace(COLD, fits=lambda text: text == "no")
    with Store("") as store:
        for _ in range(2):
            assert asking(store, provider, request=strict, by=by).cached == ""


@pytest.mark.once
def test_a_fallbacks_answer_does_not_stand_for_the_models() -> None:
    by = caller()
    with Store("") as store:
        asking(store, Provider(a=BUSY), [(A,), (FALLBACK,)], request=COLD, by=by)
        store.now += 60
        assert asking(store, Provider(), [(A,), (FALLBACK,)], request=COLD, by=by).model == "gpt-4o-mini"


# Streams. ---------------------------------------------------------------------------------------------------------
@pytest.mark.once
def test_who_watches_is_told_to_forget_a_stream_that_was_cut() -> None:
    heard: list[str] = []
    with Store("") as store:
        asking(store, Provider(a=DOWN), on_text=heard.append)
    assert heard == ["yes", "", "yes"]


# Overload. --------------------------------------------------------------------------------------------------------
async def burst(
    store: Store, provider: Provider, members: Sequence[Endpoint], by: Sequence[Caller], timeout: float = 20
) -> list:
    calls = (
        ask(question(), caller=each, endpoints=[members], timeout=timeout, call=provider, shared=store.shared)
        for each in by
    )
    return await asyncio.gather(*calls, return_exceptions=True)


def test_many_calls_at_once_never_pass_the_cap(store: Store) -> None:
    provider = Provider()
    provider.seconds = 0.1
    members = [endpoint("a", concurrency=12), endpoint("b", concurrency=8)]
    results = store.run(burst(store, provider, members, [caller("high_frequency")] * 100))
    assert {result.text if isinstance(result, Answer) else result for result in results} == {"yes"}
    assert provider.most_at_once == 20


def test_under_overload_the_higher_tier_is_served_and_the_lower_is_told_when_to_come_back(store: Store) -> None:
    provider, members = Provider(), [endpoint("a", concurrency=2)]
    provider.seconds = 0.1

    async def run() -> list[Any]:
        high = asyncio.create_task(burst(store, provider, members, [caller("enterprise")] * 6))
        while await load(store, members) < 3:
            await asyncio.sleep(0.005)
        low = await burst(store, provider, members, [caller("free"), caller("pro")])
        return [*await high, *low]

    *high, free, pro = store.run(run())
    assert all(isinstance(result, Answer) for result in high)
    assert [(low.code, low.retry_after) for low in (free, pro)] == [("llm_overloaded", 15)] * 2
    assert len(provider.asked) == 6


def test_a_shed_call_asks_the_fallback_models_pool(store: Store) -> None:
    full = endpoint("a", concurrency=1)

    async def run() -> Answer:
        slow = Provider()
        slow.seconds = 0.1
        busy = asyncio.create_task(burst(store, slow, [full], [caller("enterprise")] * 3))
        while await load(store, [full]) < 3:
            await asyncio.sleep(0.005)
        answer = await ask(
            question(),
            caller=caller("free"),
            endpoints=[[full], [FALLBACK]],
            timeout=5,
            call=Provider(),
            shared=store.shared,
        )
        await busy
        return answer

    assert hops(store.run(run())) == [("a", "shed"), ("c", "answered")]
