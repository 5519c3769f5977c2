"""Answers to nearly the same question of the same tenant, for listeners that ask for `cache: semantic`.

Two questions are near by the cosine of their embeddings, from a static model that comes with its package: no call, no
download, a tenth of a millisecond. All else must be the same: tenant, model, system prompt, tools, schema, and the
conversation before the question. So must be what such an embedding cannot tell apart: numbers ("order 123" and "order
124" have 0.93) and denials (with "not" and without: 0.94). Long texts are an average of so many words that a changed
sentence is lost in it: they are matched exactly alone.

What is stored here is the embedding and the digest of a request; the answer itself is the cache's.
"""

import asyncio
import re
from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from bloxserver.core import json_text
from llm.exchange import Request, UserMessage
from llm.path import cache
from llm.path.shared import Call, Local, Script

if TYPE_CHECKING:
    from wordllama.inference import WordLlamaInference

MOST_CHARACTERS = 1_000  # of a question that is matched
MOST_NEIGHBOURS = 100  # of one partition; all of them travel to be compared
DIMENSIONS = 256

_NUMBER = re.compile(r"\d+(?:[.,:/-]\d+)*")
_DENIAL = re.compile(
    r"\b(?:not|no|never|none|nobody|nothing|neither|nor|without|cannot|\w+n['\u2019]t)\b", re.IGNORECASE
)


@lru_cache(maxsize=1)
def _model() -> "WordLlamaInference":
    """Takes 100 MB and a second or two, so it is loaded at the first use. Its own loader looks in the wrong folder."""
    import wordllama
    from safetensors import safe_open
    from tokenizers import Tokenizer
    from wordllama.inference import WordLlamaInference

    folder = Path(wordllama.__file__).parent
    with safe_open(folder / "weights" / f"l2_supercat_{DIMENSIONS}.safetensors", framework="np") as weights:
        embedding = weights.get_tensor("embedding.weight")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizers" / "l2_supercat_tokenizer_config.json"))
    return WordLlamaInference(embedding, tokenizer)


def question(request: Request) -> str | None:
    """The text that is matched: the last message, where a person or a listener says something short. None for none."""
    last = request.messages[-1] if request.messages else None
    if request.cache != "semantic" or not isinstance(last, UserMessage):
        return None
    text = json_text.clean(last.text).strip()  # the tokenizer takes no lone surrogates
    return text if 0 < len(text) <= MOST_CHARACTERS else None


def partition(request: Request, user_id: UUID) -> str:
    """Within which questions are compared."""
    text = question(request) or ""
    alike = " ".join([*_NUMBER.findall(text), str(len(_DENIAL.findall(text)))])
    return f"near:{user_id}:{sha256(cache.conditions_digest(request, user_id) + alike.encode()).hexdigest()}"


async def embed(text: str) -> bytes | None:
    """The text's direction, as half floats; None where it has none (no word that the model knows)."""
    model = _model() if _model.cache_info().currsize else await asyncio.to_thread(_model)
    import numpy

    [vector] = model.embed([text])
    norm = float(numpy.linalg.norm(vector))
    return (vector / norm).astype(numpy.float16).tobytes() if norm > 0 else None


def looking_around(partition: str) -> Call:
    """The script that gives a partition's neighbours; `nearest` reads its result."""
    return _NEIGHBOURS([partition])


def nearest(result: Sequence[bytes], vector: bytes, threshold: float) -> bytes | None:
    """The digest of the request whose question is nearest, if it is as near as `threshold` (cosine)."""
    if not result:
        return None
    import numpy

    digests, vectors = zip(*((member[:_DIGEST_BYTES], member[_DIGEST_BYTES:]) for member in result), strict=True)
    matrix = numpy.frombuffer(b"".join(vectors), numpy.float16).reshape(len(vectors), -1).astype(numpy.float32)
    cosines = matrix @ numpy.frombuffer(vector, numpy.float16).astype(numpy.float32)
    best = int(cosines.argmax())
    return digests[best] if cosines[best] >= threshold else None


def remembering(user_id: UUID, partition: str, digest: bytes, vector: bytes, seconds: int) -> Call:
    """The script that makes an answer, which the cache keeps under `digest`, findable by what is near."""
    return _REMEMBER(
        [partition, cache.index_of(user_id)], seconds, digest + vector, MOST_NEIGHBOURS, cache.MOST_ENTRIES
    )


# The scripts. A partition is a sorted set of digest and vector, by when they run out. ------------------------------
_DIGEST_BYTES = 32


def _neighbours(local: Local, now: float, key: str) -> dict[bytes, float]:
    members: dict[bytes, float] = local.answers.get(key, now) or {}
    return {member: until for member, until in members.items() if until > now}


_NEIGHBOURS = Script(
    """
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
return redis.call('ZRANGE', KEYS[1], 0, -1)
""",
    lambda local, now, keys, args: list(_neighbours(local, now, keys[0])),
)


def _remember_locally(local: Local, now: float, keys: Sequence[str], args: Sequence[Any]) -> None:
    seconds, member, most, most_keys = args
    members = _neighbours(local, now, keys[0]) | {member: now + seconds}
    while len(members) > most:
        del members[min(members, key=members.__getitem__)]
    local.answers.set(keys[0], members, now, seconds)
    cache.remember_key(local, now, keys[1], keys[0], seconds, most_keys)


_REMEMBER = Script(
    cache.REMEMBER_KEY
    + """
local seconds, most = tonumber(ARGV[2]), tonumber(ARGV[4])
redis.call('ZADD', KEYS[1], now + seconds, ARGV[3])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -most - 1)
redis.call('EXPIRE', KEYS[1], seconds)
remember_key(KEYS[2], KEYS[1], seconds, tonumber(ARGV[5]))
""",
    _remember_locally,
)
