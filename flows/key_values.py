"""What a flow keeps between its executions: values by key, with a time to live.

Synchronous, and made to be called inside the transaction that records the step. An expired key counts as absent.
"""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import Q, QuerySet
from django.db.models.functions import Length

from bloxserver.core import json_text
from bloxserver.core.errors import DomainError
from flows.models import KeyValue

MAX_KEY_CHARACTERS = 255
MAX_VALUE_BYTES = 64 * 1024
MAX_KEYS = 10_000  # a flow; new keys that arrive in the same moment may overshoot by a few, which harms nobody
MAX_LISTED_KEYS = 1_000
MAX_LISTED_BYTES = 4 * 1024 * 1024
MAX_TTL_SECONDS = 10 * 365 * 86_400
INT64 = range(-(2**63), 2**63)  # what expressions can hold


class KeyValueRefused(DomainError):
    """The key, the value or the number of keys is beyond what is kept."""

    code = "key_value_refused"


def kv_get(*, flow_id: UUID, key: str, now: datetime) -> Any:
    """The value under `key`, None when there is none."""
    row = _alive(flow_id, now).filter(key=_checked_key(key)).values_list("value", flat=True).first()
    return None if row is None else json_text.loads(row)


def kv_set(*, flow_id: UUID, key: str, value: Any, now: datetime, ttl: float | None = None) -> Any:
    """Keep `value` for `ttl` seconds (None: for good) and give it. The last writer wins (unique by flow and key)."""
    text = _checked_value(value)
    _upsert(flow_id, key, now, ["value", "expires_at", "updated_at"], value=text, expires_at=_expiry(ttl, now))
    return value


def kv_delete(*, flow_id: UUID, key: str, now: datetime) -> Any:
    """Forget `key` and give the value that it had, None when there was none. The row's lock makes one caller get it."""
    with transaction.atomic():
        row = _alive(flow_id, now).filter(key=_checked_key(key)).select_for_update().first()
        if row is None:
            return None
        row.delete()
    return json_text.loads(row.value)


def kv_increment(*, flow_id: UUID, key: str, now: datetime, by: float = 1, ttl: float | None = None) -> int | float:
    """Add `by` and give the sum; an absent key counts as 0. `ttl` runs from the first increment, and is not renewed.

    The upsert takes the row's lock before the number is read, so that no increment is lost.
    """
    with transaction.atomic():
        _upsert(flow_id, key, now, ["updated_at"], value="0", expires_at=_expiry(ttl, now))
        row = KeyValue.objects.get(flow_id=flow_id, key=key)
        if row.expires_at is not None and row.expires_at <= now:
            row.value, row.expires_at = "0", _expiry(ttl, now)
        total = _number(json_text.loads(row.value), key) + _number(by, "the increment")
        if isinstance(total, int) and total not in INT64:
            raise KeyValueRefused(f"{key!r} would leave the range of 64-bit integers.")
        row.value = _checked_value(total)
        row.save(update_fields=["value", "expires_at"])
    return total


def kv_list(*, flow_id: UUID, prefix: str, now: datetime) -> list[dict[str, Any]]:
    """`{key, value}` of every key that starts with `prefix`, by key. Raises `KeyValueRefused` when they are too many."""
    rows = (
        _alive(flow_id, now)
        .filter(key__startswith=prefix)
        .annotate(size=Length("value"))
        .values_list("pk", "key", "size")
    )
    found = [(pk, size) for pk, key, size in rows if key.startswith(prefix)]  # SQLite's LIKE takes A for a
    if len(found) > MAX_LISTED_KEYS or sum(size for _, size in found) > MAX_LISTED_BYTES:
        raise KeyValueRefused(
            f"{len(found):,} keys start with {prefix!r}: more than {MAX_LISTED_KEYS:,} keys or"
            f" {MAX_LISTED_BYTES // 2**20} MiB can't be listed. Use a longer prefix."
        )
    stored = KeyValue.objects.filter(pk__in=[pk for pk, _ in found]).values_list("key", "value")
    return [{"key": key, "value": json_text.loads(value)} for key, value in sorted(stored)]


def _alive(flow_id: UUID, now: datetime) -> QuerySet[KeyValue]:
    return KeyValue.objects.filter(Q(expires_at=None) | Q(expires_at__gt=now), flow_id=flow_id)


def _upsert(flow_id: UUID, key: str, now: datetime, update: list[str], **fields: Any) -> None:
    """Insert, or update these fields: one statement, safe against another that inserts the same key."""
    _make_room(flow_id, _checked_key(key), now)
    KeyValue.objects.bulk_create(
        [KeyValue(flow_id=flow_id, key=key, updated_at=now, **fields)],
        update_conflicts=True,
        unique_fields=["flow", "key"],
        update_fields=update,
    )


def _make_room(flow_id: UUID, key: str, now: datetime) -> None:
    """Raises `KeyValueRefused` when `key` would be one too many; what has expired makes room first."""
    of_flow = KeyValue.objects.filter(flow_id=flow_id)
    if of_flow.filter(key=key).exists() or of_flow.count() < MAX_KEYS:
        return
    with transaction.atomic():
        # Ordered and skipping what others hold: two who make room at once don't wait for each other.
        expired = of_flow.filter(expires_at__lte=now).order_by("pk").select_for_update(skip_locked=True)
        of_flow.filter(pk__in=list(expired.values_list("pk", flat=True))).delete()
    if of_flow.count() >= MAX_KEYS:
        raise KeyValueRefused(f"The flow keeps {MAX_KEYS:,} keys already. Delete some, or give new ones a ttl.")


def _checked_key(key: str) -> str:
    if not key or len(key) > MAX_KEY_CHARACTERS:
        raise KeyValueRefused(f"A key has 1 to {MAX_KEY_CHARACTERS} characters; this one has {len(key)}.")
    if "\0" in key:
        raise KeyValueRefused("A key can't hold NUL.")
    return key


def _checked_value(value: Any) -> str:
    try:
        text = json_text.dumps(value)
    except (TypeError, ValueError) as error:
        raise KeyValueRefused(f"The value is not JSON: {error}.") from None
    size = len(text.encode())
    if size > MAX_VALUE_BYTES:
        raise KeyValueRefused(f"The value takes {size:,} bytes as JSON; at most {MAX_VALUE_BYTES:,} are kept.")
    return text


def _expiry(ttl: float | None, now: datetime) -> datetime | None:
    if ttl is None:
        return None
    if not 0 < ttl <= MAX_TTL_SECONDS:
        raise KeyValueRefused(f"ttl is in seconds, above 0 and at most {MAX_TTL_SECONDS:,}.")
    return now + timedelta(seconds=ttl)


def _number(value: Any, what: str) -> int | float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise KeyValueRefused(f"{what!r} is {type(value).__name__}, not a number, so it can't be incremented.")
    return value
