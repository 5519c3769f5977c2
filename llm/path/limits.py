"""Requests and tokens a minute, and calls at once, of each user.

A sliding window of two counters: what was counted in the minute before weighs as much as of it still lies within the
last sixty seconds. One script checks all three and counts, so that however many workers ask at once, none passes.
Tokens are counted by an estimate before the call, and put right by `settling` after it. A call at once is a lease.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor
from typing import Any
from uuid import UUID

from accounts.models import User
from billing.services import is_overridden, limits_of
from llm import catalogue
from llm.errors import ModelError
from llm.exchange import Allowance, Request
from llm.path.shared import Call, Local, Script, Shared

OWN_KEY_AT_ONCE = 20  # calls of a user's, and of one key: it has no other limit of ours
ANSWER_TOKENS = 1_000  # what is assumed of an answer whose length the request does not bound
AT_ONCE_RETRY_SECONDS = 3.0  # nobody knows when a call under way will end


OWN_KEY = Allowance("own key", None, None, OWN_KEY_AT_ONCE)


def allowance_of(user: User) -> Allowance:
    """What the user may on the platform's keys. Not to be called in an event loop: it may read the database."""
    name, remedy = f"{user.tier} tier", "A higher tier, or a key of your own, lifts the limit."
    if is_overridden(user, "llm_requests_per_minute", "llm_tokens_per_minute", "llm_concurrent"):
        name, remedy = "account", "A key of your own lifts the limit."
    limits = limits_of(user)
    return Allowance(
        name, limits.llm_requests_per_minute, limits.llm_tokens_per_minute, limits.llm_concurrent, remedy=remedy
    )


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a user stands within the minute. Seconds until a whole allowance is there again."""

    allowance: Allowance
    requests_left: int
    tokens_left: int
    reset_seconds: float

    @property
    def headers(self) -> dict[str, str]:
        """`X-RateLimit-*`, beside those of the API's own limit. Empty where nothing a minute is limited."""
        if self.allowance.requests is None or self.allowance.tokens is None:
            return {}
        return {
            "X-RateLimit-Limit-Requests": str(self.allowance.requests),
            "X-RateLimit-Remaining-Requests": str(self.requests_left),
            "X-RateLimit-Limit-Tokens": str(self.allowance.tokens),
            "X-RateLimit-Remaining-Tokens": str(self.tokens_left),
            "X-RateLimit-Reset-LLM": str(ceil(self.reset_seconds)),
        }


@dataclass(frozen=True, slots=True)
class Wanted:
    """One call of a user's, with so many `tokens` by an estimate. More than the allowance has at all wait for a minute in
    which nothing was used."""

    id: str
    user_id: UUID
    allowance: Allowance
    tokens: int

    @property
    def reserved(self) -> int:
        return self.tokens if self.allowance.tokens is None else min(self.tokens, self.allowance.tokens)

    @property
    def keys(self) -> list[str]:
        return _keys(self.user_id, self.allowance)


@dataclass(frozen=True, slots=True)
class Taken:
    """A call that was let through, until `settling`."""

    wanted: Wanted
    minute: int  # in which its tokens are counted
    standing: Standing


def estimate(request: Request) -> int:
    """The tokens, in and out, that a request will take: what is reserved for it."""
    return catalogue.estimate_tokens(request) + (request.most_tokens or ANSWER_TOKENS)


def taking(wanted: Wanted) -> Call:
    """The script that counts a call against its user's allowance; `taken` reads its result."""
    allowance = wanted.allowance
    bounds = [-1 if bound is None else bound for bound in (allowance.requests, allowance.tokens)]
    return _TAKE(wanted.keys, wanted.id, *bounds, allowance.at_once, wanted.reserved)


def taken(shared: Shared, wanted: Wanted, result: Sequence[Any]) -> Taken:
    """What `taking` gave; `settling` must follow. Raises `ModelError` `llm_rate_limited`: which limit, when to come back."""
    verdict, wait_ms, requests_left, tokens_left, reset_ms, minute = result
    if verdict:
        raise _refusal(verdict, wait_ms / 1000, wanted)
    shared.keep(wanted.keys[1], wanted.id)
    return Taken(wanted, minute, Standing(wanted.allowance, requests_left, tokens_left, reset_ms / 1000))


def untaking(wanted: Wanted, result: Sequence[Any]) -> list[Call]:
    """The scripts that give back what `taking` gave to a call that was given up meanwhile."""
    verdict, *_, minute = result
    return [] if verdict else [_SETTLE(wanted.keys, wanted.id, minute, -wanted.reserved)]


def settling(shared: Shared, taken: Taken, *, tokens: int | None) -> Call:
    """The script that ends a call: it used so many `tokens`; None where nobody knows, and the estimate stands."""
    wanted = taken.wanted
    shared.let_go(wanted.keys[1], wanted.id)
    counted = wanted.allowance.tokens is not None and tokens is not None
    return _SETTLE(wanted.keys, wanted.id, taken.minute, (tokens or 0) - wanted.reserved if counted else 0)


async def standing_of(shared: Shared, *, user_id: UUID, allowance: Allowance) -> Standing:
    """Where a user stands on the platform's keys; counts nothing."""
    [result] = await shared.run(_LOOK(_keys(user_id, allowance), allowance.requests, allowance.tokens))
    return Standing(allowance, result[2], result[3], result[4] / 1000)


def _keys(user_id: UUID, allowance: Allowance) -> list[str]:
    if allowance is OWN_KEY:
        return [f"own-minute:{user_id}", f"own-calls:{user_id}"]
    return [f"minute:{user_id}", f"calls:{user_id}"]


def _refusal(verdict: int, wait: float, wanted: Wanted) -> ModelError:
    allowance = wanted.allowance
    if verdict == _AT_ONCE:
        what, wait = f"{allowance.at_once} model calls at once are under way", AT_ONCE_RETRY_SECONDS
    elif verdict == _REQUESTS:
        what = f"{allowance.requests:,} model calls a minute are used up"
    else:
        what = f"{allowance.tokens:,} tokens a minute do not leave the {wanted.tokens:,} that this call may take"
    return ModelError(
        f"The {allowance.name}'s {what}. Try again in {max(1, ceil(wait))} s. {allowance.remedy}".rstrip(),
        code="llm_rate_limited",
        retry_after=max(0.1, wait),
    )


# The scripts. Counters: the minute they were last used in, what it counts, and what the one before counted. -------
_REQUESTS, _TOKENS, _AT_ONCE = 1, 2, 3
_KEPT_SECONDS = 180

_WINDOW = """
local stored = redis.call('HMGET', KEYS[1], 'minute', 'requests', 'tokens', 'requests_before', 'tokens_before')
local minute = math.floor(now / 60)
local was = tonumber(stored[1]) or minute
local requests, tokens = tonumber(stored[2]) or 0, tonumber(stored[3]) or 0
local requests_before, tokens_before = tonumber(stored[4]) or 0, tonumber(stored[5]) or 0
if minute == was + 1 then
  requests, tokens, requests_before, tokens_before = 0, 0, requests, tokens
elseif minute > was + 1 then
  requests, tokens, requests_before, tokens_before = 0, 0, 0, 0
end
minute = math.max(minute, was)
local rest = math.min(60, math.max(0, (minute + 1) * 60 - now))
local function wait(count, before, amount, limit)
  if limit < 0 or count + before * rest / 60 + amount <= limit then return 0 end
  if count + amount <= limit then return rest - 60 * (limit - count - amount) / before end
  return rest + 60 - 60 * (limit - amount) / count
end
local function left(count, before, limit)
  return math.max(0, math.floor(limit - count - before * rest / 60))
end
local function result(verdict, seconds, most_requests, most_tokens)
  local reset = 0
  if requests_before + tokens_before > 0 then reset = rest end
  if requests + tokens > 0 then reset = rest + 60 end
  return {verdict, math.ceil(seconds * 1000), left(requests, requests_before, most_requests),
    left(tokens, tokens_before, most_tokens), math.ceil(reset * 1000), minute}
end
"""


@dataclass(slots=True)
class _Window:
    """The same in Python, one user's."""

    minute: int
    requests: int = 0
    tokens: int = 0
    requests_before: int = 0
    tokens_before: int = 0
    rest: float = 60.0  # seconds of the minute that are left

    def move_to(self, now: float) -> None:
        minute = floor(now / 60)
        if minute > self.minute:
            follows = minute == self.minute + 1
            self.requests_before, self.tokens_before = (self.requests, self.tokens) if follows else (0, 0)
            self.minute, self.requests, self.tokens = minute, 0, 0
        self.rest = min(60.0, max(0.0, (self.minute + 1) * 60 - now))

    def wait(self, count: int, before: int, amount: int, limit: int) -> float:
        """Seconds until `amount` more fits."""
        if limit < 0 or count + before * self.rest / 60 + amount <= limit:
            return 0.0
        if count + amount <= limit:
            return self.rest - 60 * (limit - count - amount) / before
        return self.rest + 60 - 60 * (limit - amount) / count

    def result(self, verdict: int, seconds: float, most_requests: int, most_tokens: int) -> list[int]:
        reset = self.rest if self.requests_before + self.tokens_before else 0.0
        reset = self.rest + 60 if self.requests + self.tokens else reset
        requests_left = max(0, floor(most_requests - self.requests - self.requests_before * self.rest / 60))
        tokens_left = max(0, floor(most_tokens - self.tokens - self.tokens_before * self.rest / 60))
        return [verdict, ceil(seconds * 1000), requests_left, tokens_left, ceil(reset * 1000), self.minute]


def _window(local: Local, now: float, key: str) -> _Window:
    window: _Window = local.counts.get(key, now) or _Window(floor(now / 60))
    window.move_to(now)
    return window


def _take_locally(local: Local, now: float, keys: Sequence[str], args: Sequence[Any]) -> list[int]:
    call_id, most_requests, most_tokens, at_once, amount = args
    window = _window(local, now, keys[0])
    requests_wait = window.wait(window.requests, window.requests_before, 1, most_requests)
    tokens_wait = window.wait(window.tokens, window.tokens_before, amount, most_tokens)
    if max(requests_wait, tokens_wait) > 0:
        verdict = _REQUESTS if requests_wait >= tokens_wait else _TOKENS
        return window.result(verdict, max(requests_wait, tokens_wait), most_requests, most_tokens)
    if local.held(keys[1], now) >= at_once:
        return window.result(_AT_ONCE, 0, most_requests, most_tokens)
    local.hold(keys[1], call_id, now)
    if most_requests >= 0:
        window.requests += 1
        window.tokens += amount
        local.counts.set(keys[0], window, now, _KEPT_SECONDS)
    return window.result(0, 0, most_requests, most_tokens)


_TAKE = Script(
    _WINDOW
    + f"""
local most_requests, most_tokens, amount = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[6])
local requests_wait = wait(requests, requests_before, 1, most_requests)
local tokens_wait = wait(tokens, tokens_before, amount, most_tokens)
if requests_wait > 0 or tokens_wait > 0 then
  local verdict = requests_wait >= tokens_wait and {_REQUESTS} or {_TOKENS}
  return result(verdict, math.max(requests_wait, tokens_wait), most_requests, most_tokens)
end
if held(KEYS[2]) >= tonumber(ARGV[5]) then return result({_AT_ONCE}, 0, most_requests, most_tokens) end
hold(KEYS[2], ARGV[2])
if most_requests >= 0 then
  requests, tokens = requests + 1, tokens + amount
  redis.call('HSET', KEYS[1], 'minute', minute, 'requests', requests, 'tokens', tokens,
    'requests_before', requests_before, 'tokens_before', tokens_before)
  redis.call('EXPIRE', KEYS[1], {_KEPT_SECONDS})
end
return result(0, 0, most_requests, most_tokens)
""",
    _take_locally,
)


def _settle_locally(local: Local, now: float, keys: Sequence[str], args: Sequence[Any]) -> None:
    call_id, minute, change = args
    local.leave(keys[1], call_id, now)
    window: _Window | None = local.counts.get(keys[0], now)
    if window is not None and window.minute == minute:
        window.tokens = max(0, window.tokens + change)
    elif window is not None and window.minute == minute + 1:
        window.tokens_before = max(0, window.tokens_before + change)


# Of a minute that is over twice, nothing is counted any more.
_SETTLE = Script(
    """
redis.call('ZREM', KEYS[2], ARGV[2])
if tonumber(ARGV[4]) == 0 then return end
local stored = redis.call('HMGET', KEYS[1], 'minute', 'tokens', 'tokens_before')
local since = (tonumber(stored[1]) or -1) - tonumber(ARGV[3])
if since == 0 then
  redis.call('HSET', KEYS[1], 'tokens', math.max(0, tonumber(stored[2]) + tonumber(ARGV[4])))
elseif since == 1 then
  redis.call('HSET', KEYS[1], 'tokens_before', math.max(0, tonumber(stored[3]) + tonumber(ARGV[4])))
end
""",
    _settle_locally,
    everywhere=True,
)

_LOOK = Script(
    _WINDOW + "return result(0, 0, tonumber(ARGV[2]), tonumber(ARGV[3]))",
    lambda local, now, keys, args: _window(local, now, keys[0]).result(0, 0, *args),
)
