"""Load shedding by tier, in memory and on Redis."""

import asyncio
from collections.abc import Sequence

import pytest

from accounts.models import Tier
from llm.errors import ModelError
from llm.exchange import Endpoint
from llm.path.admission import Admitted, admit, most_load
from llm.path.shared import LEASE_SECONDS
from tests.llm.stores import Store, endpoint, load

POOL = [endpoint("a", concurrency=6), endpoint("b", concurrency=4)]


def most(tier: str, roll: float = 0.5) -> float | None:
    return most_load(tier, roll=roll, degraded_at=1.0, critical_at=2.0)


def enter(store: Store, tier: str, call_id: str, *, roll: float = 0.5, pool: Sequence[Endpoint] = POOL) -> Admitted:
    return store.run(admit(store.shared, pool, call_id=call_id, most=most(tier, roll), tier=tier))


def fill(store: Store, count: int) -> None:
    for number in range(count):
        enter(store, Tier.ENTERPRISE, f"call-{number}")


def leave(store: Store, admitted: Admitted) -> None:
    async def run() -> None:
        await store.shared.run(*admitted.leaving())

    store.run(run())


def is_shed(store: Store, tier: str, roll: float = 0.5) -> bool:
    try:
        leave(store, enter(store, tier, "one more", roll=roll))
    except ModelError:
        return True
    return False


@pytest.mark.parametrize(
    ("under_way", "shed"),
    [
        (9, []),  # healthy
        (15, [Tier.FREE]),  # degraded: half-way to critical, by a roll of a half
        (20, [Tier.FREE, Tier.PRO]),  # critical
        (100, [Tier.FREE, Tier.PRO]),
    ],
)
def test_who_is_shed_goes_by_load_and_tier(store: Store, under_way: int, shed: list[str]) -> None:
    fill(store, under_way)
    assert [tier for tier in Tier.values if is_shed(store, tier)] == shed


def test_free_is_shed_the_more_the_higher_the_load(store: Store) -> None:
    fill(store, 13)  # a third of the way
    rolls = [number / 10 for number in range(10)]
    assert [roll for roll in rolls if is_shed(store, Tier.FREE, roll)] == [0.0, 0.1, 0.2, 0.3]


@pytest.mark.once
def test_high_frequency_and_enterprise_are_never_shed() -> None:
    assert most(Tier.HIGH_FREQUENCY) is None and most(Tier.ENTERPRISE) is None


def test_a_call_that_has_ended_is_no_load(store: Store) -> None:
    fill(store, 19)
    last = enter(store, Tier.PRO, "last")
    assert is_shed(store, Tier.PRO)
    leave(store, last)
    assert not is_shed(store, Tier.PRO)


def test_a_killed_workers_calls_are_no_load_when_their_leases_have_run_out(store: Store) -> None:
    fill(store, 20)
    store.now += LEASE_SECONDS
    assert not is_shed(store, Tier.PRO)


def test_a_pool_that_shares_a_busy_endpoint_is_as_full_as_its_emptiest_one(store: Store) -> None:
    for number in range(30):
        enter(store, Tier.ENTERPRISE, f"call-{number}", pool=POOL[:1])
    assert store.run(load(store, POOL[:1])) == 5.0
    assert not is_shed(store, Tier.FREE, 0.0)


def test_a_pool_without_a_bound_sheds_nobody(store: Store) -> None:
    pool = [endpoint("a", concurrency=1), endpoint("b")]
    for number in range(10):
        enter(store, Tier.FREE, f"call-{number}", pool=pool)


def test_a_burst_sees_itself(store: Store) -> None:
    async def run() -> int:
        entering = (admit(store.shared, POOL, call_id=str(n), most=most(Tier.PRO), tier=Tier.PRO) for n in range(100))
        results = await asyncio.gather(*entering, return_exceptions=True)
        return sum(isinstance(result, Admitted) for result in results)

    assert store.run(run()) == 20


@pytest.mark.once
def test_a_refusal_says_how_busy_it_is_and_when_to_come_back() -> None:
    with Store("") as store:
        fill(store, 25)
        with pytest.raises(ModelError) as caught:
            enter(store, Tier.PRO, "one more")
    assert "250%" in caught.value.message and "pro tier" in caught.value.message
    assert (caught.value.code, caught.value.retry_after) == ("llm_overloaded", 12.5)
