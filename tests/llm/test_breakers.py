"""Circuit breakers, in memory and on Redis."""

from uuid import uuid4

import pytest

from llm.errors import Failure, ProviderFailed
from llm.path import breakers
from llm.path.breakers import FAILURES, OPEN_SECONDS, PROBE_SECONDS, SUCCESSES, Outcome, Permit
from tests.llm.stores import Store


def ask(store: Store, endpoint: str = "a") -> Permit:
    async def run() -> Permit:
        call_id = uuid4().hex
        [result] = await store.shared.run(breakers.asking(endpoint, call_id))
        return breakers.permit(endpoint, call_id, result)

    return store.run(run())


def report(store: Store, permit: Permit, outcome: Outcome, *, rest: float = 0.0) -> None:
    async def run() -> None:
        await store.shared.run(breakers.reporting(permit, outcome, rest=rest))

    store.run(run())


def call(store: Store, outcome: Outcome, times: int = 1) -> None:
    for _ in range(times):
        permit = ask(store)
        assert permit.granted
        report(store, permit, outcome)


def opened(store: Store) -> None:
    call(store, Outcome.FAILED, FAILURES)


def state(store: Store) -> str:
    return store.run(breakers.states(store.shared, ["a"]))["a"]


def test_five_failures_in_a_row_open_it_for_thirty_seconds(store: Store) -> None:
    call(store, Outcome.FAILED, 4)
    assert state(store) == "closed"
    call(store, Outcome.FAILED)
    assert state(store) == "open"

    store.now += OPEN_SECONDS - 1
    permit = ask(store)
    assert not permit.granted and permit.wait == 1
    assert ask(store, "b").granted


def test_an_answer_between_them_begins_the_count_anew(store: Store) -> None:
    call(store, Outcome.FAILED, 4)
    call(store, Outcome.ANSWERED)
    call(store, Outcome.FAILED, 4)
    assert state(store) == "closed"


def test_what_says_nothing_about_its_health_is_not_counted(store: Store) -> None:
    call(store, Outcome.UNKNOWN, 10)
    assert state(store) == "closed"


def test_one_call_at_a_time_probes_it_and_three_answers_close_it(store: Store) -> None:
    opened(store)
    store.now += OPEN_SECONDS
    for _ in range(SUCCESSES):
        probe = ask(store)
        assert probe.state == "probing" and not ask(store).granted
        report(store, probe, Outcome.ANSWERED)
    assert state(store) == "closed" and ask(store).granted and ask(store).granted


def test_a_probe_that_fails_opens_it_again_and_the_answers_before_count_no_more(store: Store) -> None:
    opened(store)
    store.now += OPEN_SECONDS
    call(store, Outcome.ANSWERED, SUCCESSES - 1)
    call(store, Outcome.FAILED)
    assert not ask(store).granted

    store.now += OPEN_SECONDS
    call(store, Outcome.ANSWERED)
    assert state(store) == "open"


def test_a_probe_that_was_not_made_makes_room_for_another(store: Store) -> None:
    opened(store)
    store.now += OPEN_SECONDS
    report(store, ask(store), Outcome.UNKNOWN)
    assert ask(store).state == "probing"


def test_a_probe_whose_worker_was_killed_makes_room_after_a_while(store: Store) -> None:
    opened(store)
    store.now += OPEN_SECONDS
    ask(store)
    store.now += PROBE_SECONDS
    assert ask(store).state == "probing"


def test_calls_that_began_before_it_opened_change_nothing_after(store: Store) -> None:
    late = [ask(store) for _ in range(FAILURES * 2)]
    opened(store)
    report(store, late.pop(), Outcome.ANSWERED)
    assert state(store) == "open"
    store.now += OPEN_SECONDS
    call(store, Outcome.ANSWERED, SUCCESSES)

    for permit in late:
        report(store, permit, Outcome.FAILED)
    assert state(store) == "closed"


def test_a_provider_that_asked_for_patience_rests_without_being_broken(store: Store) -> None:
    report(store, ask(store), Outcome.UNKNOWN, rest=7)
    resting = ask(store)
    assert (resting.state, resting.wait) == ("resting", 7)
    store.now += 7
    assert ask(store).state == "closed"


def test_an_operator_closes_it(store: Store) -> None:
    opened(store)
    late = ask(store)
    report(store, late, Outcome.UNKNOWN, rest=7)

    store.run(store.shared.run(breakers.closing("a")))
    assert state(store) == "closed" and ask(store).granted
    call(store, Outcome.FAILED, FAILURES - 1)
    assert state(store) == "closed"  # it begins anew


def test_nobody_can_make_it_rest_for_days(store: Store) -> None:
    report(store, ask(store), Outcome.UNKNOWN, rest=1_000_000)
    assert ask(store).wait == breakers.MOST_REST_SECONDS


@pytest.mark.once
@pytest.mark.parametrize(
    ("failure", "timeout", "expected"),
    [
        (Failure.UNAVAILABLE, 1, Outcome.FAILED),
        (Failure.BAD_ANSWER, 1, Outcome.FAILED),
        (Failure.TIMEOUT, 120, Outcome.FAILED),
        (Failure.TIMEOUT, 1, Outcome.UNKNOWN),  # else one tenant's short timeouts would open it for all
        (Failure.RATE_LIMITED, 120, Outcome.UNKNOWN),
        (Failure.KEY_REFUSED, 120, Outcome.UNKNOWN),
        (Failure.CONTEXT_TOO_LONG, 120, Outcome.UNKNOWN),
    ],
)
def test_a_failure_counts_where_it_is_the_endpoints_own(failure: Failure, timeout: float, expected: Outcome) -> None:
    assert breakers.outcome_of(ProviderFailed(failure, ""), timeout=timeout) is expected
