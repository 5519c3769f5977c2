"""What a model says while it says it holds no secret of the flow."""

import asyncio

import pytest

from bloxserver.core.ids import new_id
from executions.engine.speech import Saying, Speaker
from executions.speech import Turn

pytestmark = pytest.mark.once


def told(pieces: list[str], *secrets: str) -> list[str]:
    """What goes out where it is told after each piece."""

    async def say() -> list[str]:
        speaker = Speaker(lambda fn: asyncio.sleep(60))
        saying = Saying(Turn(new_id(), new_id(), 1), speaker, secrets=secrets)
        out = []
        for piece in pieces:
            saying.hear(piece)
            out.append(saying.take())
        return [piece.text for piece in out if piece is not None]

    return asyncio.run(say())


def test_a_secret_is_not_said_even_piece_by_piece() -> None:
    said = "".join(
        told(["The key is sec", "ret-", "123", " and that is all that there is to say of it."], "secret-123")
    )
    assert said.startswith("The key is *** and")
    assert "sec" not in said


def test_each_piece_is_said_once() -> None:
    text = "".join(f"{number} " for number in range(200))
    said = "".join(told([text[at : at + 7] for at in range(0, len(text), 7)], "secret-123"))
    assert text.startswith(said)
    assert len(text) - len(said) < 40


def test_without_secrets_nothing_is_held_back() -> None:
    assert told(["one ", "two"]) == ["one ", "two"]
