"""Sheds load by tier, before a pool that all tenants share is asked.

A pool's load is what is waiting for it and under way in it, by what it can do at once. Up to `BLOX_LLM_DEGRADED_AT` it
is healthy, from `BLOX_LLM_CRITICAL_AT` on critical. High_frequency and enterprise are never shed, pro when it is
critical, free by a probability that grows from none, where it begins to be degraded, to all, where it is critical.
One script counts and decides, so that a burst from many workers sees itself.
"""

from collections.abc import Sequence
from typing import Any

from accounts.models import Tier
from bloxserver.core.loops import or_undone
from llm.errors import ModelError
from llm.exchange import Endpoint
from llm.path.shared import LEAVE, Call, Local, Script, Shared, held_at

RETRY_SECONDS = 5.0  # when to come back to a pool that is just full; it grows with the load
MOST_RETRY_SECONDS = 60.0


def most_load(tier: str, *, roll: float, degraded_at: float, critical_at: float) -> float | None:
    """The load from which on a call is shed; None for never. `roll` is a random number from 0 up to 1."""
    if tier in (Tier.HIGH_FREQUENCY, Tier.ENTERPRISE):
        return None
    if tier == Tier.PRO:
        return critical_at
    return degraded_at + roll * (critical_at - degraded_at)


class Admitted:
    """A call that counts as load of a pool until `leaving`."""

    def __init__(self, shared: Shared, keys: list[str], call_id: str) -> None:
        self._shared = shared
        self._keys = keys
        self._call_id = call_id
        for key in keys:
            shared.keep(key, call_id)

    def leaving(self) -> list[Call]:
        """The scripts that end it."""
        for key in self._keys:
            self._shared.let_go(key, self._call_id)
        return [LEAVE(self._keys, *[self._call_id] * len(self._keys))] if self._keys else []


async def admit(
    shared: Shared, endpoints: Sequence[Endpoint], *, call_id: str, most: float | None, tier: str
) -> Admitted:
    """Let a call in to the pool of these endpoints, or raise `ModelError` `llm_overloaded`.

    `most` is what `most_load` gave. A pool without a bound has no load; it costs no round trip.
    """
    bounds = [endpoint.concurrency for endpoint in endpoints]
    capacity = sum(bound for bound in bounds if bound is not None)
    if None in bounds or capacity <= 0:
        return Admitted(shared, [], call_id)
    keys = sorted({f"load:{endpoint.id}" for endpoint in endpoints})
    leaving = LEAVE(keys, *[call_id] * len(keys))
    entering = _ENTER(keys, call_id, -1 if most is None else most * capacity)
    [depth] = await or_undone(shared.run(entering), lambda _: shared.run(leaving))
    if depth >= 0:
        raise _refusal(tier, depth / capacity)
    return Admitted(shared, keys, call_id)


async def depths(shared: Shared, endpoint_ids: Sequence[str]) -> dict[str, int]:
    """How many calls are under way at each endpoint or wait for its pool, for operators. 0 in a pool without a bound."""
    counts = await held_at(shared, [f"load:{endpoint_id}" for endpoint_id in endpoint_ids])
    return dict(zip(endpoint_ids, counts, strict=True))


def _refusal(tier: str, load: float) -> ModelError:
    wait = min(MOST_RETRY_SECONDS, RETRY_SECONDS * max(1.0, load))
    return ModelError(
        f"The platform's models are busy ({load:.0%} of what they can do at once), and calls of the {tier} tier wait. "
        f"Try again in {wait:.0f} s; a higher tier, or a key of your own, is not held back.",
        code="llm_overloaded",
        retry_after=wait,
    )


def _enter_locally(local: Local, now: float, keys: Sequence[str], args: Sequence[Any]) -> int:
    call_id, most = args
    depth = min(local.held(key, now) for key in keys)
    if 0 <= most <= depth:
        return depth
    for key in keys:
        local.hold(key, call_id, now)
    return -1


# Where pools share an endpoint, a call counts at each of its own; the emptiest endpoint tells how full a pool is.
_ENTER = Script(
    """
local depth = math.huge
for _, key in ipairs(KEYS) do depth = math.min(depth, held(key)) end
local most = tonumber(ARGV[3])
if most >= 0 and depth >= most then return depth end
for _, key in ipairs(KEYS) do hold(key, ARGV[2]) end
return -1
""",
    _enter_locally,
)
