"""A circuit breaker for each endpoint, which all processes share.

`FAILURES` in a row open it: nobody asks the endpoint for `OPEN_SECONDS`. Then one call at a time probes it; `SUCCESSES`
probes in a row close it, one that fails opens it again. A provider that asks for patience (429 with Retry-After)
rests for so long without being taken for broken. Reports of calls that began before the breaker last opened are news of
the past and change nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal, TypeAlias

from llm.errors import Failure, ProviderFailed
from llm.path.shared import Call, Local, Script, Shared

FAILURES = 5
OPEN_SECONDS = 30
SUCCESSES = 3
PROBE_SECONDS = 30  # a probe that tells nothing for so long (its worker was killed, say) makes room for another
MOST_REST_SECONDS = 60
KEPT_SECONDS = 86_400
# A call with less time than this that got no answer says more about its author's `timeout` than about the endpoint.
FAIR_TIMEOUT_SECONDS = 20.0

State: TypeAlias = Literal["closed", "probing", "open", "resting"]


class Outcome(StrEnum):
    ANSWERED = "answered"
    FAILED = "failed"
    UNKNOWN = "unknown"  # it says nothing about the endpoint's health


@dataclass(frozen=True, slots=True)
class Permit:
    """Whether an endpoint may be asked, and in which of its lives; `wait` is in seconds where it may not."""

    endpoint_id: str
    call_id: str
    state: State
    turn: int
    wait: float = 0.0

    @property
    def granted(self) -> bool:
        return self.state in ("closed", "probing")


def asking(endpoint_id: str, call_id: str) -> Call:
    """The script that asks for a permit; `permit` reads its result."""
    return _ASK([_key(endpoint_id)], call_id)


def permit(endpoint_id: str, call_id: str, result: Sequence[Any]) -> Permit:
    """What `asking` gave. A permit that probes must be reported on, even if the call was not made (`UNKNOWN`)."""
    state, wait_ms, turn = result
    return Permit(endpoint_id, call_id, _STATES[state], turn, wait_ms / 1000)


def reporting(permit: Permit, outcome: Outcome, *, rest: float = 0.0) -> Call:
    """The script that tells what became of a call; `rest` is for how many seconds the endpoint asked to be left alone."""
    rest_ms = round(min(rest, MOST_REST_SECONDS) * 1000)
    return _REPORT([_key(permit.endpoint_id)], permit.call_id, permit.turn, outcome.value, rest_ms)


def outcome_of(failure: ProviderFailed, *, timeout: float) -> Outcome:
    """What a failure says about its endpoint; `timeout` is what the call was given, in seconds.

    One that has taken a request on is well: how long the model then thinks goes by what it was asked.
    """
    if failure.failure is Failure.TIMEOUT and (failure.accepted or timeout < FAIR_TIMEOUT_SECONDS):
        return Outcome.UNKNOWN
    if failure.failure in (Failure.UNAVAILABLE, Failure.TIMEOUT, Failure.BAD_ANSWER):
        return Outcome.FAILED
    return Outcome.UNKNOWN


async def states(shared: Shared, endpoint_ids: Sequence[str]) -> dict[str, State]:
    """How the breakers stand, for operators; "open" also where the next call would be a probe."""
    results = await shared.run(*(_LOOK([_key(endpoint_id)]) for endpoint_id in endpoint_ids))
    return {key: _STATES[state] for key, state in zip(endpoint_ids, results, strict=True)}


def closing(endpoint_id: str) -> Call:
    """The script that closes a breaker, and ends its endpoint's rest, for operators who know that it is well again."""
    return _CLOSE([_key(endpoint_id)])


def _key(endpoint_id: str) -> str:
    return f"breaker:{endpoint_id}"


# The scripts. -----------------------------------------------------------------------------------------------------
_STATES: tuple[State, ...] = ("closed", "probing", "open", "resting")
_CLOSED, _PROBING, _OPEN, _RESTING = range(4)


@dataclass(slots=True)
class _Breaker:
    """One endpoint's, in memory; in Redis a hash of the same fields. `turn` grows when it opens."""

    turn: int = 0
    failures: int = 0
    open: bool = False
    opens_again: float = 0.0  # when the first probe may go
    successes: int = 0
    probe: str = ""
    probe_until: float = 0.0
    rest_until: float = 0.0


def _breaker(local: Local, now: float, key: str) -> _Breaker:
    return local.counts.get(key, now) or _Breaker()


def _ask_locally(local: Local, now: float, keys: Sequence[str], args: Sequence[Any]) -> list[int]:
    breaker = _breaker(local, now, keys[0])
    if breaker.rest_until > now:
        return [_RESTING, round((breaker.rest_until - now) * 1000), breaker.turn]
    if not breaker.open:
        return [_CLOSED, 0, breaker.turn]
    blocked_until = max(breaker.opens_again, breaker.probe_until if breaker.probe else 0.0)
    if blocked_until > now:
        return [_OPEN, round((blocked_until - now) * 1000), breaker.turn]
    breaker.probe, breaker.probe_until = args[0], now + PROBE_SECONDS
    local.counts.set(keys[0], breaker, now, KEPT_SECONDS)
    return [_PROBING, 0, breaker.turn]


_ASK = Script(
    f"""
local b = redis.call('HMGET', KEYS[1], 'turn', 'open', 'opens_again', 'probe', 'probe_until', 'rest_until')
local turn = tonumber(b[1]) or 0
local rest_until = tonumber(b[6]) or 0
if rest_until > now then return {{{_RESTING}, math.ceil((rest_until - now) * 1000), turn}} end
if b[2] ~= '1' then return {{{_CLOSED}, 0, turn}} end
local blocked_until = tonumber(b[3]) or 0
if b[4] and b[4] ~= '' then blocked_until = math.max(blocked_until, tonumber(b[5]) or 0) end
if blocked_until > now then return {{{_OPEN}, math.ceil((blocked_until - now) * 1000), turn}} end
redis.call('HSET', KEYS[1], 'probe', ARGV[2], 'probe_until', now + {PROBE_SECONDS})
redis.call('EXPIRE', KEYS[1], {KEPT_SECONDS})
return {{{_PROBING}, 0, turn}}
""",
    _ask_locally,
)


def _report_locally(local: Local, now: float, keys: Sequence[str], args: Sequence[Any]) -> None:
    call_id, turn, outcome, rest_ms = args
    breaker = _breaker(local, now, keys[0])
    if rest_ms:
        breaker.rest_until = max(breaker.rest_until, now + rest_ms / 1000)
    if breaker.open and breaker.probe == call_id:
        _end_probe(breaker, outcome, now)
    elif not breaker.open and breaker.turn == turn:
        if outcome == Outcome.ANSWERED:
            breaker.failures = 0
        elif outcome == Outcome.FAILED:
            breaker.failures += 1
            if breaker.failures >= FAILURES:
                _open(breaker, now)
    local.counts.set(keys[0], breaker, now, KEPT_SECONDS)


def _end_probe(breaker: _Breaker, outcome: str, now: float) -> None:
    breaker.probe = ""
    if outcome == Outcome.FAILED:
        _open(breaker, now)
    elif outcome == Outcome.ANSWERED:
        breaker.successes += 1
        if breaker.successes >= SUCCESSES:
            breaker.open, breaker.failures = False, 0


def _open(breaker: _Breaker, now: float) -> None:
    breaker.open, breaker.opens_again = True, now + OPEN_SECONDS
    breaker.failures, breaker.successes, breaker.turn = 0, 0, breaker.turn + 1


_REPORT = Script(
    f"""
local call_id, turn, outcome, rest_ms = ARGV[2], tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5])
local b = redis.call('HMGET', KEYS[1], 'turn', 'open', 'failures', 'successes', 'probe', 'rest_until')
local own_turn, failures, successes = tonumber(b[1]) or 0, tonumber(b[3]) or 0, tonumber(b[4]) or 0
local function set(...)
  redis.call('HSET', KEYS[1], ...)
  redis.call('EXPIRE', KEYS[1], {KEPT_SECONDS})
end
local function open()
  set('open', 1, 'opens_again', now + {OPEN_SECONDS}, 'failures', 0, 'successes', 0, 'turn', own_turn + 1)
end
if rest_ms > 0 then set('rest_until', math.max(tonumber(b[6]) or 0, now + rest_ms / 1000)) end
if b[2] == '1' then
  if b[5] ~= call_id then return end
  set('probe', '')
  if outcome == '{Outcome.FAILED}' then
    open()
  elseif outcome == '{Outcome.ANSWERED}' then
    if successes + 1 >= {SUCCESSES} then
      set('open', 0, 'failures', 0, 'successes', 0)
    else
      set('successes', successes + 1)
    end
  end
elseif own_turn == turn then
  if outcome == '{Outcome.ANSWERED}' and failures > 0 then
    set('failures', 0)
  elseif outcome == '{Outcome.FAILED}' and failures + 1 >= {FAILURES} then
    open()
  elseif outcome == '{Outcome.FAILED}' then
    set('failures', failures + 1)
  end
end
""",
    _report_locally,
)


def _close_locally(local: Local, now: float, keys: Sequence[str], args: Sequence[Any]) -> None:
    local.counts.set(keys[0], _Breaker(_breaker(local, now, keys[0]).turn), now, KEPT_SECONDS)


# Its turn stays, so that calls that began before it opened are still news of the past.
_CLOSE = Script(
    "redis.call('HDEL', KEYS[1], 'failures', 'open', 'opens_again', 'successes', 'probe', 'probe_until', 'rest_until')",
    _close_locally,
    everywhere=True,
)


def _look_locally(local: Local, now: float, keys: Sequence[str], args: Sequence[Any]) -> int:
    breaker = _breaker(local, now, keys[0])
    if breaker.open:
        return _PROBING if breaker.probe and breaker.probe_until > now else _OPEN
    return _RESTING if breaker.rest_until > now else _CLOSED


_LOOK = Script(
    f"""
local b = redis.call('HMGET', KEYS[1], 'open', 'probe', 'probe_until', 'rest_until')
if b[1] == '1' then
  if b[2] and b[2] ~= '' and (tonumber(b[3]) or 0) > now then return {_PROBING} end
  return {_OPEN}
end
if (tonumber(b[4]) or 0) > now then return {_RESTING} end
return {_CLOSED}
""",
    _look_locally,
)
