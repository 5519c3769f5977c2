"""What agents remember from one execution of a flow to the next: what was said to them, and what they answered.

Not the tools' chatter: whatever matters of it is in the answer. Synchronous, and made to be called inside the transaction
that records the step.
"""

from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import transaction

from bloxserver.core import json_text
from flows.blocks.agent import MAX_REMEMBERED
from flows.models import AgentMemory

MAX_BYTES = 64 * 1024  # of one memory, as JSON; the oldest exchanges go first
MAX_CHARACTERS = 6_000  # of a message or an answer: what goes on is cut
MAX_MEMORIES = 10_000  # a flow; beyond it the one that rested longest is forgotten


def recall(*, flow_id: UUID, listener: str, key: str) -> list[dict[str, Any]]:
    """The exchanges under `key`, the oldest first: {user, answer, at}."""
    rows = AgentMemory.objects.filter(flow_id=flow_id, listener=listener, key=json_text.clean(key))
    messages = rows.values_list("messages", flat=True).first()
    return [] if messages is None else json_text.loads(messages)


def remember(*, flow_id: UUID, listener: str, key: str, user: str, answer: str, now: datetime) -> None:
    """Add an exchange, and drop the oldest beyond `MAX_BYTES` or `MAX_REMEMBERED`.

    Executions that run at once each add theirs: the row is made if need be (unique by flow, listener and key) and locked
    before it is read, so that none is lost. They stand in the order in which the executions came to their answers.
    """
    name = {"flow_id": flow_id, "listener": listener, "key": json_text.clean(key)}
    with transaction.atomic():
        fresh = AgentMemory(**name, messages="[]", size=2, updated_at=now)
        AgentMemory.objects.bulk_create([fresh], ignore_conflicts=True)
        memory = AgentMemory.objects.select_for_update().get(**name)
        exchange = {"user": _cut(user), "answer": _cut(answer), "at": now.isoformat()}
        memory.messages = _fitting([*json_text.loads(memory.messages), exchange])
        memory.size, memory.updated_at = len(memory.messages.encode()), now
        memory.save(update_fields=["messages", "size", "updated_at"])
        if memory.pk == fresh.pk:
            _forget_beyond(flow_id)


def forget(*, memory: AgentMemory) -> None:
    """Delete it. An execution that is under way may still add its exchange to a new one."""
    memory.delete()


def _fitting(exchanges: list[dict[str, Any]]) -> str:
    exchanges = exchanges[-MAX_REMEMBERED:]
    while len((text := json_text.dumps(exchanges)).encode()) > MAX_BYTES:
        exchanges = exchanges[1:]
    return text


def _cut(text: str) -> str:
    return text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]}..."


def _forget_beyond(flow_id: UUID) -> None:
    """Two who do this at once may both delete the same rows, or leave a few too many, which harms nobody."""
    too_many = AgentMemory.objects.filter(flow_id=flow_id).order_by("-updated_at", "-id")[MAX_MEMORIES:]
    keys = list(too_many.values_list("pk", flat=True))
    held = AgentMemory.objects.filter(pk__in=keys).order_by("pk").select_for_update(skip_locked=True)
    AgentMemory.objects.filter(pk__in=list(held.values_list("pk", flat=True))).delete()
