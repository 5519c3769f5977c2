"""What agents remember between executions: kept within bounds, listed and deleted through the API."""

from datetime import UTC, datetime, timedelta
from threading import Thread
from typing import Any
from uuid import UUID

import pytest
from django.db import connection
from django.test import Client
from rest_framework.test import APIClient

from flows import memories
from flows.memories import recall, remember
from flows.models import AgentMemory
from tests.flows.samples import make_flow

pytestmark = pytest.mark.django_db

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def flow(api: APIClient) -> UUID:
    return UUID(make_flow(api)["id"])


def tell(flow: UUID, said: str, *, key: str = "ann", minutes: int = 0, answer: str = "ok") -> None:
    moment = NOON + timedelta(minutes=minutes)
    remember(flow_id=flow, listener="agent", key=key, user=said, answer=answer, now=moment)


def said(flow: UUID, key: str = "ann") -> list[str]:
    return [exchange["user"] for exchange in recall(flow_id=flow, listener="agent", key=key)]


def test_exchanges_are_kept_by_listener_and_key(flow: UUID) -> None:
    tell(flow, "one")
    tell(flow, "two", minutes=1)
    tell(flow, "other", key="bob")
    assert recall(flow_id=flow, listener="agent", key="ann") == [
        {"user": "one", "answer": "ok", "at": "2026-03-01T12:00:00+00:00"},
        {"user": "two", "answer": "ok", "at": "2026-03-01T12:01:00+00:00"},
    ]
    assert said(flow, "bob") == ["other"]
    assert recall(flow_id=flow, listener="another", key="ann") == []


def test_the_oldest_exchanges_go_when_there_are_too_many(flow: UUID) -> None:
    for number in range(53):
        tell(flow, str(number))
    assert said(flow) == [str(number) for number in range(3, 53)]


def test_the_oldest_exchanges_go_when_they_are_too_large(flow: UUID) -> None:
    for letter in "abcdefg":
        tell(flow, letter * 6_000, answer="€" * 6_000)
    memory = AgentMemory.objects.get()
    assert memory.size == len(memory.messages.encode()) <= memories.MAX_BYTES
    assert said(flow) == [letter * 6_000 for letter in "fg"]


def test_a_long_text_is_cut(flow: UUID) -> None:
    tell(flow, "x" * 100_000, answer="y" * 100_000)
    [exchange] = recall(flow_id=flow, listener="agent", key="ann")
    assert exchange["user"] == "x" * 6_000 + "..."
    assert exchange["answer"] == "y" * 6_000 + "..."


def test_what_no_text_column_takes_is_remembered_all_the_same(flow: UUID) -> None:
    tell(flow, "a\x00b\ud800", key="k\x00")
    assert said(flow, "k\x00") == ["a\x00b\ud800"]


def test_beyond_a_number_of_memories_the_longest_unused_is_forgotten(
    flow: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memories, "MAX_MEMORIES", 2)
    tell(flow, "1", key="ann", minutes=0)
    tell(flow, "1", key="bob", minutes=1)
    tell(flow, "2", key="ann", minutes=2)
    tell(flow, "1", key="eve", minutes=3)
    assert sorted(AgentMemory.objects.values_list("key", flat=True)) == ["ann", "eve"]


@pytest.mark.django_db(transaction=True)
def test_executions_that_end_at_once_lose_nothing(flow: UUID) -> None:
    def add(number: int) -> None:
        try:
            for step in range(3):
                tell(flow, f"{number}.{step}")
        finally:
            connection.close()

    threads = [Thread(target=add, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(said(flow)) == sorted(f"{number}.{step}" for number in range(4) for step in range(3))


# The API. --------------------------------------------------------------------------------------------------------
def listed(api: APIClient, flow: UUID) -> list[dict[str, Any]]:
    return api.get(f"/api/v1/flows/{flow}/memories").json()["items"]


def test_memories_are_listed_the_latest_first(api: APIClient, flow: UUID) -> None:
    tell(flow, "Hello", key="ann")
    tell(flow, "Hello", key="bob", minutes=1)
    rows = listed(api, flow)
    assert [row["key"] for row in rows] == ["bob", "ann"]
    assert {name: rows[1][name] for name in ("listener", "key", "size", "updatedAt")} == {
        "listener": "agent",
        "key": "ann",
        "size": AgentMemory.objects.get(key="ann").size,
        "updatedAt": "2026-03-01T12:00:00Z",
    }


def test_a_memory_is_shown_with_what_was_said(api: APIClient, flow: UUID) -> None:
    tell(flow, "Hello", answer="Hi")
    [row] = listed(api, flow)
    assert api.get(f"/api/v1/flows/{flow}/memories/{row['id']}").json()["exchanges"] == [
        {"user": "Hello", "answer": "Hi", "at": "2026-03-01T12:00:00+00:00"}
    ]


def test_a_deleted_memory_is_forgotten(api: APIClient, flow: UUID) -> None:
    tell(flow, "Hello")
    [row] = listed(api, flow)
    assert api.delete(f"/api/v1/flows/{flow}/memories/{row['id']}").status_code == 204
    assert listed(api, flow) == []
    assert said(flow) == []


def test_a_memory_is_found_under_its_own_flow_alone(api: APIClient, flow: UUID) -> None:
    tell(flow, "Hello")
    [row] = listed(api, flow)
    other = make_flow(api, name="Another")["id"]
    assert listed(api, UUID(other)) == []
    assert api.get(f"/api/v1/flows/{other}/memories/{row['id']}").status_code == 404
    assert api.delete(f"/api/v1/flows/{other}/memories/{row['id']}").status_code == 404
    assert said(flow) == ["Hello"]


def test_operators_see_whose_memory_it_is_and_not_what_was_said(admin_client: Client, flow: UUID) -> None:
    tell(flow, "a private matter")
    memory = AgentMemory.objects.get()
    page = admin_client.get(f"/admin/flows/agentmemory/{memory.pk}/change/").content.decode()
    assert "ann" in page
    assert "a private matter" not in page
    assert admin_client.post(f"/admin/flows/agentmemory/{memory.pk}/delete/", {"post": "yes"}).status_code == 302
    assert not AgentMemory.objects.exists()
