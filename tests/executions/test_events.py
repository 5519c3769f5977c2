"""Server-sent events of an execution: order, resume, tickets, and the bound on open streams."""

import json
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.conf import settings as django_settings
from pytest_django import Settings
from rest_framework.test import APIClient

from accounts.models import User
from bloxserver.core.streams import StreamsBusy
from executions import events, stream, tickets
from executions.models import Execution, State
from tests.executions.factories import NOON, make_execution, make_flow, make_step

DEAD_REDIS = "redis://127.0.0.1:1/0"


@pytest.fixture
def execution(alice: User) -> Execution:
    """One under way, with two steps."""
    execution = make_execution(make_flow(alice), status="running", input={"userID": 1})
    make_step(execution, 1, "greet", output={"snake_key": "é\n"})
    make_step(execution, 2, "done", status="running", completed_at=None, parents=["key-1"])
    return execution


def end(execution: Execution) -> None:
    Execution.objects.filter(pk=execution.pk).update(
        state=State.ENDED, status="success", claimed_at=NOON, completed_at=NOON + timedelta(seconds=1), due_at=None
    )


def url(execution: Execution, tail: str = "") -> str:
    return f"/api/v1/flows/{execution.flow_id}/executions/{execution.pk}/events{tail}"


def frames(response: Any) -> Iterator[tuple[str, str, Any]]:
    """(event, id, data) as they come; comments and `retry` are passed over."""
    for chunk in response.streaming_content:
        assert chunk.endswith(b"\n\n")
        fields = dict(line.split(": ", 1) for line in chunk.decode().splitlines() if line)
        if "event" in fields:
            yield fields["event"], fields["id"], json.loads(fields["data"])


def seen(response: Any) -> list[tuple[str, str]]:
    return [(event, event_id) for event, event_id, _ in frames(response)]


def test_the_stream_of_an_ended_execution_gives_its_steps_then_its_end(api: APIClient, execution: Execution) -> None:
    end(execution)
    response = api.get(url(execution), headers={"Accept": "text/event-stream"})
    assert response.status_code == 200
    assert response["Content-Type"] == "text/event-stream"
    assert (response["Cache-Control"], response["X-Accel-Buffering"]) == ("no-store", "no")

    got = list(frames(response))
    assert [(event, event_id) for event, event_id, _ in got] == [("step", "1"), ("step", "2"), ("status", "2-end")]
    assert got[0][2]["output"] == {"snake_key": "é\n"}
    steps = api.get(f"/api/v1/flows/{execution.flow_id}/executions/{execution.pk}/steps").json()["items"]
    assert [data for _, _, data in got[:2]] == steps
    assert (got[2][2]["id"], got[2][2]["status"], got[2][2]["durationMs"]) == (str(execution.pk), "success", 1000)


def test_a_live_stream_tells_each_change_and_closes_at_the_end(api: APIClient, execution: Execution) -> None:
    live = frames(api.get(url(execution)))
    assert [next(live)[:2] for _ in range(3)] == [("status", "0"), ("step", "1"), ("step", "2")]

    Execution.objects.filter(pk=execution.pk).update(claimed_at=NOON)
    event, event_id, data = next(live)
    assert (event, event_id, data["status"], data["queuedMs"]) == ("status", "2", "running", 0)

    execution.steps.filter(key="key-2").update(number=3, status="success", completed_at=NOON)
    event, event_id, data = next(live)
    assert (event, event_id, data["listener"], data["status"]) == ("step", "3", "done", "success")

    end(execution)
    assert next(live)[:2] == ("status", "3-end")
    assert list(live) == []


@pytest.mark.parametrize(("headers", "query"), [({"Last-Event-ID": "1"}, ""), ({}, "?lastEventId=1")])
def test_a_stream_goes_on_after_the_last_event_seen(
    api: APIClient, execution: Execution, headers: dict[str, str], query: str
) -> None:
    end(execution)
    assert seen(api.get(url(execution, query), headers=headers)) == [("step", "2"), ("status", "2-end")]


def test_who_has_all_steps_but_not_the_end_gets_the_end(api: APIClient, execution: Execution) -> None:
    end(execution)
    assert seen(api.get(url(execution), headers={"Last-Event-ID": "2"})) == [("status", "2-end")]


def test_who_has_the_end_is_told_not_to_come_back(api: APIClient, execution: Execution) -> None:
    end(execution)
    assert api.get(url(execution), headers={"Last-Event-ID": "2-end"}).status_code == 204


@pytest.mark.parametrize("last", ["-1", "x", "1-END", "99999999999", "١"])
def test_an_id_that_was_never_sent_is_refused(api: APIClient, execution: Execution, last: str) -> None:
    response = api.get(url(execution), {"lastEventId": last}, headers={"Accept": "text/event-stream"})
    assert (response.status_code, response["Content-Type"]) == (400, "application/json")
    assert "lastEventId" in response.json()["details"]


def test_more_steps_than_one_read_takes_come_in_order(
    api: APIClient, execution: Execution, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "STEPS_AT_ONCE", 2)
    for number in range(3, 8):
        make_step(execution, number, "more", input=0)
    end(execution)
    assert [event_id for _, event_id in seen(api.get(url(execution)))] == [*map(str, range(1, 8)), "7-end"]


def test_a_silent_stream_sends_a_heartbeat(
    api: APIClient, execution: Execution, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "HEARTBEAT_SECONDS", 0.0)
    chunks = iter(api.get(url(execution), headers={"Last-Event-ID": "2"}).streaming_content)  # type: ignore[attr-defined]
    assert [next(chunks)[:6] for _ in range(3)] == [b"retry:", b"event:", b": stil"]


def test_a_stream_ends_after_its_longest_time_and_can_be_resumed(
    api: APIClient, execution: Execution, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "LONGEST_STREAM_SECONDS", 0.2)
    assert seen(api.get(url(execution))) == [("status", "0"), ("step", "1"), ("step", "2")]
    assert seen(api.get(url(execution), headers={"Last-Event-ID": "2"})) == [("status", "2")]


def test_a_stream_of_an_execution_that_is_deleted_ends(api: APIClient, execution: Execution) -> None:
    live = frames(api.get(url(execution)))
    next(live)
    execution.delete()
    assert [event for event, _, _ in live] == []


# Tickets. --------------------------------------------------------------------------------------------------------
def test_a_ticket_opens_the_stream_without_a_header(api: APIClient, anonymous: APIClient, execution: Execution) -> None:
    end(execution)
    body = api.post(url(execution, "/ticket")).json()
    assert body.keys() == {"ticket", "expiresAt"}
    assert seen(anonymous.get(url(execution), {"ticket": body["ticket"]}))[-1] == ("status", "2-end")


def test_a_ticket_opens_nothing_else(api: APIClient, anonymous: APIClient, execution: Execution) -> None:
    ticket = api.post(url(execution, "/ticket")).json()["ticket"]
    other = make_execution(execution.flow)
    for path in (url(other), url(execution).removesuffix("/events"), "/api/v1/executions"):
        assert anonymous.get(path, {"ticket": ticket}).status_code == 401
    assert anonymous.get(url(execution), {"ticket": ticket[:-1] + "~"}).status_code == 401


def test_a_ticket_expires(
    api: APIClient, anonymous: APIClient, execution: Execution, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticket = api.post(url(execution, "/ticket")).json()["ticket"]
    monkeypatch.setattr(tickets, "VALID_FOR", timedelta(seconds=-1))
    response = anonymous.get(url(execution), {"ticket": ticket})
    assert response.status_code == 401
    assert "minute" in response.json()["message"]


def test_a_ticket_of_a_closed_account_opens_nothing(
    api: APIClient, anonymous: APIClient, alice: User, execution: Execution
) -> None:
    ticket = api.post(url(execution, "/ticket")).json()["ticket"]
    User.objects.filter(pk=alice.pk).update(is_active=False)
    assert anonymous.get(url(execution), {"ticket": ticket}).status_code == 401


# The bound. ------------------------------------------------------------------------------------------------------
@pytest.mark.django_db(transaction=True)
def test_streams_beyond_the_limit_are_told_to_come_later(
    api: APIClient, execution: Execution, settings: Settings
) -> None:
    settings.BLOX_STREAM_LIMIT = 1
    first = api.get(url(execution))  # open, and not read yet
    busy = api.get(url(execution), headers={"Accept": "text/event-stream"})
    assert (busy.status_code, busy.json()["code"], busy["Retry-After"]) == (503, "streams_busy", "5")

    first.close()
    end(execution)
    for _ in range(3):  # each gives its slot back when it has been read
        assert seen(api.get(url(execution)))[-1] == ("status", "2-end")


def test_a_stream_that_is_never_read_gives_its_slot_back_when_it_is_closed(settings: Settings) -> None:
    settings.BLOX_STREAM_LIMIT = 1
    unread = stream.EventStream(uuid4(), stream.Position())
    with pytest.raises(StreamsBusy):
        stream.EventStream(uuid4(), stream.Position())
    unread.close()
    stream.EventStream(uuid4(), stream.Position()).close()


# News. -----------------------------------------------------------------------------------------------------------
@pytest.fixture
def _redis_tried_anew() -> Iterator[None]:
    events._redis_paused_until = 0.0
    yield
    events._redis_paused_until = 0.0


@pytest.mark.redis
@pytest.mark.skipif(not django_settings.REDIS_URL, reason="needs Redis")
@pytest.mark.usefixtures("_redis_tried_anew")
def test_news_wakes_a_watcher_at_once() -> None:
    watched, other = uuid4(), uuid4()
    with events.watch(watched) as changes:
        events.announce([other, watched])  # between the look at the database and the wait: not missed
        started = time.monotonic()
        changes.wait(10)
        assert time.monotonic() - started < events.LONGEST_WAIT_SECONDS / 2

        threading.Timer(0.05, events.announce, args=[[watched]]).start()
        changes.wait(10)
        assert time.monotonic() - started < events.LONGEST_WAIT_SECONDS


@pytest.mark.usefixtures("_redis_tried_anew")
def test_without_redis_a_watcher_looks_again_and_nobody_waits_for_it(
    settings: Settings, api: APIClient, execution: Execution
) -> None:
    settings.REDIS_URL = DEAD_REDIS
    events.announce([execution.pk])  # fails once, and pauses
    live = frames(api.get(url(execution)))
    assert [next(live)[:2] for _ in range(3)] == [("status", "0"), ("step", "1"), ("step", "2")]
    end(execution)
    events.announce([execution.pk])
    assert next(live)[:2] == ("status", "2-end")
