"""What models are saying in turns that are under way, for who watches: told by the worker, heard by the event streams.

With Redis it is a list for each attempt at a turn, and watchers have news of it (`events.SPEECH`); without Redis it is rows of
`SpokenText`, at which they look again and again. Either way who comes late hears all of it. It is gone with the turn's
end, since the step then has the answer; what is lost on the way costs nothing for the same reason.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple
from uuid import UUID

from django.conf import settings
from django.db import Error as DatabaseError
from redis import RedisError

from executions import events
from executions.models import SpokenText

logger = logging.getLogger(__name__)

KEPT_SECONDS = 600  # by Redis after the last piece: the answer's end removes it, unless its worker dies


class Piece(NamedTuple):
    """`seq` counts from 1; a piece with `seq` 1 begins the answer, or begins it anew: what was said before is void."""

    seq: int
    text: str


@dataclass(frozen=True, slots=True)
class Turn:
    """An attempt at a model's turn."""

    execution_id: UUID
    step_id: UUID
    attempt: int

    @property
    def key(self) -> str:
        return f"blox:said:{self.step_id}:{self.attempt}"


@dataclass(frozen=True, slots=True)
class Heard:
    """How far somebody has listened to a turn."""

    turn: Turn
    listener: str
    until: int = 0  # how many of Redis's pieces, or the id of the last row


# ARGV: how long it is kept, then a key, a piece and a channel, again and again.
_SAY = """
for i = 2, #ARGV, 3 do
    redis.call('RPUSH', ARGV[i], ARGV[i + 1])
    redis.call('EXPIRE', ARGV[i], ARGV[1])
    redis.call('PUBLISH', ARGV[i + 2], 'speech')
end
"""


def say(pieces: Sequence[tuple[Turn, Piece]]) -> None:
    """Tell the watchers. Best effort: waits for Redis as `events.announce` does, and never raises.

    Without Redis it inserts one row a piece; a turn whose execution has been deleted meanwhile is refused by the
    foreign key, with all that came with it.
    """
    try:
        if not settings.REDIS_URL:
            rows = [SpokenText(step_id=turn.step_id, attempt=turn.attempt, **piece._asdict()) for turn, piece in pieces]
            SpokenText.objects.bulk_create(rows)
        elif events.redis_usable():
            told = [(turn.key, json.dumps(piece), events.channel(turn.execution_id)) for turn, piece in pieces]
            events.redis().eval(_SAY, 0, str(KEPT_SECONDS), *[text for each in told for text in each])
    except RedisError as error:
        events.pause_redis(error)
    except DatabaseError as error:
        logger.warning("What a model says is not shown: %s", error)


def forget(turn: Turn) -> None:
    """Remove what was said: the turn is over. Best effort, as `say`."""
    try:
        if not settings.REDIS_URL:
            SpokenText.objects.filter(step=turn.step_id).delete()  # also of an attempt whose worker died
        elif events.redis_usable():
            events.redis().delete(turn.key)
    except RedisError as error:
        events.pause_redis(error)
    except DatabaseError as error:
        logger.warning("What a model said stays until its execution goes: %s", error)


def listen(heard: Heard) -> tuple[Heard, list[Piece]]:
    """What was said since, and how far that leads. Raises `django.db.Error` where there is no Redis."""
    if settings.REDIS_URL:
        return _listen_to_redis(heard)
    rows = list(
        SpokenText.objects.filter(step=heard.turn.step_id, attempt=heard.turn.attempt, pk__gt=heard.until).order_by(
            "pk"
        )
    )
    pieces = [Piece(row.seq, row.text) for row in rows]
    return (replace(heard, until=rows[-1].pk), pieces) if rows else (heard, [])


def _listen_to_redis(heard: Heard) -> tuple[Heard, list[Piece]]:
    if not events.redis_usable():
        return heard, []
    try:
        found: list[bytes] = events.redis().lrange(heard.turn.key, heard.until, -1)  # type: ignore[assignment]
    except RedisError as error:
        events.pause_redis(error)
        return heard, []
    return replace(heard, until=heard.until + len(found)), [Piece(*json.loads(text)) for text in found]
