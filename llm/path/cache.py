"""Answers that were given before, to the same request of the same tenant.

The tenant is in every key, so that nothing that one tenant asks or is answered can reach another. How long an answer is
kept goes by temperature (`seconds_to_live`): at a high one, or at the provider's default, which is high, another answer
is what was asked for. Cut and refused answers are not kept, nor such as do not fit, nor those of a fallback model.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from decimal import Decimal
from hashlib import sha256
from typing import Any
from uuid import UUID

from llm.exchange import Answer, AssistantMessage, Cached, Message, Request, ToolResult, Usage
from llm.path.shared import Call, Local, Script, Shared

MOST_BYTES = 16 * 1024  # of one answer
MOST_ENTRIES = 500  # of one tenant, so 8 MB; over all tenants Redis's own bound evicts what was used least lately
DAY, HOUR, FIVE_MINUTES = 86_400, 3_600, 300
FORMAT = "1"  # grows when a stored answer or what a key is made of changes its meaning


def seconds_to_live(request: Request) -> int:
    """How long an answer to `request` is kept, 0 for not at all.

    Without a temperature the provider's default holds, which is 1 with all of them: not kept. A listener that asks
    for `cache: semantic` without one has said that it wants to be answered alike: an hour.
    """
    if request.cache == "off":
        return 0
    if request.temperature is None:
        return HOUR if request.cache == "semantic" else 0
    if request.temperature <= 0:
        return DAY
    if request.temperature < 0.3:
        return HOUR
    return FIVE_MINUTES if request.temperature < 0.7 else 0


def is_kept(answer: Answer, request: Request) -> bool:
    """Whether an answer may be given again: not what was cut, or is of no use to who asked."""
    if answer.cached or answer.stop not in ("stop", "tools"):
        return False
    if any(isinstance(call.arguments, str) for call in answer.calls):
        return False
    return bool(answer.calls) or request.fits is None or request.fits(answer.text)


def digest(request: Request, user_id: UUID) -> bytes:
    """What makes two requests of a user the same: all that a model gets to see, and how it is to answer."""
    seen = _conditions(request, user_id) | {"messages": _normalised(request.messages)}
    return _sha(seen)


def conditions_digest(request: Request, user_id: UUID) -> bytes:
    """As `digest`, of all but the last message."""
    return _sha(_conditions(request, user_id) | {"messages": _normalised(request.messages[:-1])})


def _sha(value: Any) -> bytes:
    return sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).digest()


def _conditions(request: Request, user_id: UUID) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "user": str(user_id),
        "model": request.model,
        "system": request.system,
        "tools": [asdict(tool) for tool in request.tools],
        "schema": request.schema,
        "temperature": None if request.temperature is None else float(request.temperature),
        "max_tokens": request.max_tokens,
    }


def _normalised(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages with calls numbered as they come: providers draw the ids anew each time, and they mean nothing."""
    numbers: dict[str, str] = {}

    def number(call_id: str) -> str:
        return numbers.setdefault(call_id, str(len(numbers)))

    normalised = []
    for message in messages:
        if isinstance(message, AssistantMessage):
            calls = tuple(replace(call, id=number(call.id)) for call in message.calls)
            message = replace(message, calls=calls)
        elif isinstance(message, ToolResult):
            message = replace(message, call_id=number(message.call_id))
        normalised.append(asdict(message))
    return normalised


def looking_up(user_id: UUID, digest: bytes) -> Call:
    """The script that looks an answer up; `found` reads its result."""
    return _LOOK_UP([_entry(user_id, digest)])


def found(result: Any, kind: Cached) -> Answer | None:
    """The stored answer, at no cost. None for none, and for one that an older or newer release wrote otherwise."""
    if not result:
        return None
    try:
        answer = Answer.from_json(json.loads(result))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return replace(answer, cached=kind, cost=Decimal(0), usage=Usage())


def storing(user_id: UUID, digest: bytes, answer: Answer, seconds: int) -> Call | None:
    """The script that keeps an answer; None where it is too large."""
    text = json.dumps(replace(answer, path=(), latency_ms=0).as_json(), separators=(",", ":"))
    if len(text.encode()) > MOST_BYTES:
        return None
    return _STORE([_entry(user_id, digest), index_of(user_id)], seconds, text, MOST_ENTRIES)


async def clear(shared: Shared, user_id: UUID) -> int:
    """Forget all that is kept for a user; how many keys that was. In memory, of this process alone."""
    [count] = await shared.run(_CLEAR([index_of(user_id)]))
    return int(count)


def index_of(user_id: UUID) -> str:
    """The sorted set of a user's keys, by when they run out: what `clear` goes by, and what bounds a tenant's share."""
    return f"cache-keys:{user_id}"


def _entry(user_id: UUID, digest: bytes) -> str:
    return f"cache:{user_id}:{digest.hex()}"


# The scripts. -----------------------------------------------------------------------------------------------------
_LOOK_UP = Script("return redis.call('GET', KEYS[1])", lambda local, now, keys, args: local.answers.get(keys[0], now))


def remember_key(local: Local, now: float, index: str, key: str, seconds: int, most: int) -> None:
    """Enter a user's key into the index, and drop what has run out or is one too many, the first to run out first."""
    keys: dict[str, float] = local.counts.get(index, now) or {}
    keys[key] = now + seconds
    for old in [old for old, until in keys.items() if until <= now]:
        del keys[old]
    while len(keys) > most:
        oldest = min(keys, key=keys.__getitem__)
        del keys[oldest]
        local.answers.delete(oldest)
    local.counts.set(index, keys, now, DAY)


REMEMBER_KEY = f"""
local function remember_key(index, key, seconds, most)
  redis.call('ZADD', index, now + seconds, key)
  redis.call('ZREMRANGEBYSCORE', index, '-inf', now)
  while redis.call('ZCARD', index) > most do redis.call('UNLINK', redis.call('ZPOPMIN', index)[1]) end
  redis.call('EXPIRE', index, {DAY})
end
"""


def _store_locally(local: Local, now: float, keys: Sequence[str], args: Sequence[Any]) -> None:
    seconds, text, most = args
    local.answers.set(keys[0], text, now, seconds)
    remember_key(local, now, keys[1], keys[0], seconds, most)


_STORE = Script(
    REMEMBER_KEY
    + """
redis.call('SET', KEYS[1], ARGV[3], 'EX', ARGV[2])
remember_key(KEYS[2], KEYS[1], tonumber(ARGV[2]), tonumber(ARGV[4]))
""",
    _store_locally,
)


def _clear_locally(local: Local, now: float, keys: Sequence[str], args: Sequence[Any]) -> int:
    known: dict[str, float] = local.counts.get(keys[0], now) or {}
    for key in known:
        local.answers.delete(key)
    local.counts.delete(keys[0])
    return len(known)


_CLEAR = Script(
    """
local keys = redis.call('ZRANGE', KEYS[1], 0, -1)
for _, key in ipairs(keys) do redis.call('UNLINK', key) end
redis.call('UNLINK', KEYS[1])
return #keys
""",
    _clear_locally,
    everywhere=True,
)
