"""What a model says goes out on the event stream while it says it."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any

import pytest
from django.conf import settings as django_settings
from pytest_django import Settings
from rest_framework.test import APIClient

from executions import events
from executions.models import Execution, SpokenText, State
from llm.models import Provider
from llm.services import forget_pool
from tests.executions.flows import result, run, start
from tests.llm.model_server import ModelServer, cut, text
from tests.waiting import wait_until

pytestmark = pytest.mark.django_db(transaction=True)
Drain = Callable[[], None]
Frame = tuple[str, str, Any]

SAID = "The quick brown fox jumps over the lazy dog and then it rests."
ASK = "  - {name: ask, handler: acme.asker, config: {turns: 1}, retry: {max_attempts: 1}}\n"


@contextmanager
def working(drain: Drain) -> Iterator[None]:
    worker = Thread(target=drain)
    worker.start()
    try:
        yield
    finally:
        worker.join()


def stream(api: APIClient, execution: Execution, after: str = "") -> Iterator[Frame]:
    """(event, id, data) as they come."""
    url = f"/api/v1/flows/{execution.flow_id}/executions/{execution.pk}/events"
    response: Any = api.get(url, headers={"Last-Event-ID": after} if after else {})
    for chunk in response.streaming_content:
        fields = dict(line.split(": ", 1) for line in chunk.decode().splitlines() if ": " in line)
        if "event" in fields:
            yield fields["event"], fields["id"], json.loads(fields["data"])


def tokens(frames: list[Frame]) -> list[dict[str, Any]]:
    return [data for event, _, data in frames if event == "token"]


def until_token(frames: Iterator[Frame]) -> list[Frame]:
    got = []
    for frame in frames:
        got.append(frame)
        if frame[0] == "token":
            return got
    raise AssertionError(f"no token came: {got}")


def test_a_stream_tells_what_a_model_says_while_it_speaks(api: APIClient, drain: Drain, models: ModelServer) -> None:
    models.script(text(SAID, pause=0.2))
    execution = run(api, start(api, ASK), "x")
    with working(drain):
        frames = list(stream(api, execution))
    heard = tokens(frames)
    said = "".join(token["text"] for token in heard)
    assert len(heard) > 1 and SAID.startswith(said) and len(said) > len(SAID) / 2
    assert [token["seq"] for token in heard] == list(range(1, len(heard) + 1))
    steps = [(event, data["status"]) for event, _, data in frames if data.get("block") == "blox.model"]
    assert steps == [("step", "running"), ("step", "success")]
    [turn] = {data["id"] for _, _, data in frames if data.get("block") == "blox.model"}
    assert {(token["stepId"], token["listener"]) for token in heard} == {(turn, "ask")}
    assert frames[-1][0] == "status" and frames[-1][1].endswith("-end")


def test_who_comes_while_it_speaks_hears_all_of_it(api: APIClient, drain: Drain, models: ModelServer) -> None:
    models.script(text(SAID, pause=0.2))
    execution = run(api, start(api, ASK), "x")
    with working(drain):
        first = until_token(stream(api, execution))
        late = until_token(stream(api, execution))
        again = until_token(stream(api, execution, after=first[-1][1]))  # whose step the client has
    for frames in (late, again):
        [token] = tokens(frames)
        assert token["seq"] == 1 and SAID.startswith(token["text"])
    assert [event for event, _, _ in again] == ["status", "token"]


def test_a_token_s_id_takes_a_client_that_comes_back_to_the_next_step(
    api: APIClient, drain: Drain, models: ModelServer
) -> None:
    models.script(text(SAID, pause=0.2))
    execution = run(api, start(api, ASK), "x")
    with working(drain):
        *before, token = until_token(stream(api, execution))
    rest = list(stream(api, execution, after=token[1]))
    numbers = [data["number"] for event, _, data in [*before, *rest] if event == "step"]
    assert numbers == sorted(set(numbers))
    assert [data["status"] for event, _, data in rest if event == "step"] == ["success", "success"]


def test_an_answer_that_breaks_off_begins_anew_with_the_next_provider(
    api: APIClient, drain: Drain, models: ModelServer
) -> None:
    Provider.objects.create(name="Other", provider="acme", base_url=f"{models.url}/other", priority=1)
    forget_pool()
    models.script(cut("This sentence has no end and no beginning either", pause=0.1), text(SAID, pause=0.1))
    execution = run(api, start(api, ASK), "x")
    with working(drain):
        heard = tokens(list(stream(api, execution)))
    starts = [index for index, token in enumerate(heard) if token["seq"] == 1]
    assert len(starts) == 2
    assert "This sentence has no end".startswith(heard[0]["text"][:10])
    assert SAID.startswith("".join(token["text"] for token in heard[starts[1] :]))


def test_nothing_said_is_left_once_the_turn_has_ended(api: APIClient, drain: Drain, models: ModelServer) -> None:
    models.script(text(SAID, pause=0.1))
    execution = run(api, start(api, ASK), "x")
    with working(drain):
        wait_until(lambda: _is_anything_said())
    assert result(execution)[0] == "success"
    assert not _is_anything_said()


def _is_anything_said() -> bool:
    if django_settings.REDIS_URL:
        return bool(events.redis().keys("blox:said:*"))
    return SpokenText.objects.exists()


def test_a_redis_that_is_away_delays_no_answer(
    api: APIClient, drain: Drain, models: ModelServer, settings: Settings
) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    models.script(text(SAID, pause=0.05))
    execution = run(api, start(api, ASK), "x")
    try:
        drain()
    finally:
        events._redis_paused_until = 0.0
    assert result(execution) == ("success", [SAID])
    assert Execution.objects.get(pk=execution.pk).state == State.ENDED
