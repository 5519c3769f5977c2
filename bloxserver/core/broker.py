"""The embedded broker: kombu's filesystem transport, mended so that many processes may share a folder.

kombu's own writes a message under its final name, so that a reader can meet half a file (it lost 7 of 8,000 messages,
and an empty file ended the worker), polls once a second, and sorts the whole folder for each message. Here

- a message is written under a temporary name and renamed: what a reader sees is whole;
- a reader takes a message under an exclusive lock and then unlinks it: one reader gets it, and a reader killed before
  that leaves it for the next;
- what is not JSON is moved to `unreadable/`, logged, and taken for an empty queue;
- a message whose `expires` header has passed is dropped unread, so that a clock that slept does not wake to a backlog;
- each queue has a folder of its own, listed once for as many messages as it holds.

Transport options: `folder` (made if missing), `polling_interval` (seconds between looks at empty queues).
"""

import fcntl
import itertools
import logging
import os
import time
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from queue import Empty
from typing import Any, ClassVar

from kombu import Connection
from kombu.transport import filesystem
from kombu.transport.virtual import BrokerState
from kombu.utils.json import dumps, loads

logger = logging.getLogger(__name__)

POLLING_SECONDS = 0.05
MOST_AT_ONCE = 100  # messages delivered before the event loop gets its turn
STALE_SECONDS = 3600  # a temporary file of that age belongs to a writer that was killed
_serial = itertools.count()


class Channel(filesystem.Channel):
    """`<folder>/queues/<queue>/*.msg` are the messages, `<folder>/exchanges/*.exchange` the bindings."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._seen: dict[str, deque[str]] = {}
        for folder in (self._queues, self._temporary, self.control_folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._clear_temporary()

    @cached_property
    def _folder(self) -> Path:
        return Path(self.transport_options["folder"])

    @cached_property
    def _queues(self) -> Path:
        return self._folder / "queues"

    @cached_property
    def _temporary(self) -> Path:
        return self._folder / "writing"

    @property
    def control_folder(self) -> Path:
        return self._folder / "exchanges"

    def _queue_folder(self, queue: str) -> Path:
        if not self._is_valid_exchange_name(queue) or not queue:
            # Celery's own names for replies hold '@': anything else than a file name is written as hexadecimal.
            queue = "x-" + queue.encode().hex()
        return self._queues / queue

    # Messages ----------------------------------------------------------------------------------------------------
    def _put(self, queue: str, payload: dict[str, Any], **kwargs: Any) -> None:
        # The time first: names sort in the order of arrival, across processes too.
        name = f"{time.time_ns():020d}-{os.getpid()}-{next(_serial)}.msg"
        self._write(self._queue_folder(queue) / name, payload)

    def _get(self, queue: str, timeout: float | None = None) -> dict[str, Any]:
        folder = self._queue_folder(queue)
        seen = self._seen.setdefault(queue, deque())
        if not seen:
            seen.extend(sorted(_message_names(folder)))
        while seen:
            payload = self._take(folder / seen.popleft())
            if payload is not None and not _has_expired(payload):
                return payload
        raise Empty

    def _take(self, path: Path) -> dict[str, Any] | None:
        """The message in `path`, which is gone then; None where another reader has it or nobody can read it."""
        try:
            with path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(file.fileno()).st_nlink == 0:
                    return None  # another reader unlinked it between our open and our lock
                payload = _parse(file.read())
                if payload is None:
                    self._move_aside(path)
                else:
                    path.unlink()
                return payload
        except (FileNotFoundError, BlockingIOError):
            return None

    def _move_aside(self, path: Path) -> None:
        aside = self._folder / "unreadable"
        aside.mkdir(exist_ok=True)
        path.rename(aside / path.name)
        logger.error("A message that is not JSON was moved to %s.", aside / path.name)

    def _purge(self, queue: str) -> int:
        folder = self._queue_folder(queue)
        return sum(self._take(folder / name) is not None for name in _message_names(folder))

    def _size(self, queue: str) -> int:
        return len(_message_names(self._queue_folder(queue)))

    # Bindings: read whole, replaced whole, changed under one lock ----------------------------------------------------
    def get_table(self, exchange: str) -> list[filesystem.exchange_queue_t]:
        try:
            rows = loads(self._exchange_file(exchange).read_text())
        except FileNotFoundError:
            return []
        except ValueError:
            logger.exception("The bindings of exchange %r cannot be read; they are taken for empty.", exchange)
            return []
        return [filesystem.exchange_queue_t(*row) for row in rows]

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str | None, queue: str) -> None:
        binding = filesystem.exchange_queue_t(routing_key or "", pattern or "", queue or "")
        with self._bindings_locked():
            table = self.get_table(exchange)
            if binding not in table:
                self._write(self._exchange_file(exchange), [binding, *table])

    def _delete(
        self, queue: str, exchange: str, routing_key: str, pattern: str | None, *args: Any, **kwargs: Any
    ) -> None:
        binding = filesystem.exchange_queue_t(routing_key or "", pattern or "", queue or "")
        with self._bindings_locked():
            table = self.get_table(exchange)
            if binding in table:
                self._write(self._exchange_file(exchange), [row for row in table if row != binding])
        self._purge(queue)
        with suppress(OSError):  # someone put a message there just now, or there was no folder
            self._queue_folder(queue).rmdir()

    @contextmanager
    def _bindings_locked(self) -> Iterator[None]:
        with (self._folder / "bindings.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    # Files -----------------------------------------------------------------------------------------------------------
    def _write(self, path: Path, content: Any) -> None:
        """Makes `path` hold `content` as JSON, at once and whole. No fsync: a lost bell costs a second."""
        temporary = self._temporary / f"{path.name}-{os.getpid()}-{next(_serial)}"
        text = dumps(content)
        for folder in (self._temporary, path.parent):
            folder.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text)
        try:
            temporary.rename(path)
        except FileNotFoundError:  # the queue's folder was deleted in between
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.rename(path)

    def _clear_temporary(self) -> None:
        for path in self._temporary.iterdir():
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > STALE_SECONDS:
                    path.unlink()


class Transport(filesystem.Transport):
    """Works with Celery's event loop, where each process of a pool has a pipe of its own.

    Without it (kombu's own has no part in the loop) they share one pipe under a lock, and a process that is killed while
    it waits there keeps the lock: the worker goes on, and runs nothing any more.
    """

    Channel = Channel
    implements = filesystem.Transport.implements.extend(asynchronous=True)
    polling_interval = POLLING_SECONDS
    driver_name = "bloxserver-filesystem"
    states: ClassVar[defaultdict[str, BrokerState]] = defaultdict(BrokerState)

    def __init__(self, client: Connection, **kwargs: Any) -> None:
        super().__init__(client, **kwargs)
        # Which bindings this process has declared already is known for one folder, not for all.
        self.state = self.states[client.transport_options["folder"]]
        self._poll_entry: Any = None

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """`connection` is this transport's; `loop` is a `kombu.asynchronous.Hub`."""
        self._poll_entry = loop.call_repeatedly(self.polling_interval, self._deliver_waiting)

    def close_connection(self, connection: Any) -> None:
        if self._poll_entry is not None:
            self._poll_entry.cancel()
        super().close_connection(connection)

    def _deliver_waiting(self) -> None:
        with suppress(Empty):  # raised when there is no message, and when the consumers have as many as they take
            for _ in range(MOST_AT_ONCE):
                self.cycle.get(self._deliver)


def _message_names(folder: Path) -> list[str]:
    try:
        return [name for name in os.listdir(folder) if name.endswith(".msg")]
    except FileNotFoundError:
        return []


def _parse(raw: bytes) -> dict[str, Any] | None:
    try:
        payload = loads(raw)
    except (ValueError, RecursionError):
        return None
    return payload if isinstance(payload, dict) else None


def _has_expired(payload: dict[str, Any]) -> bool:
    """Celery writes `expires` as ISO 8601; one that it cannot read is left to the worker's own check."""
    expires = (payload.get("headers") or {}).get("expires")
    if not isinstance(expires, str):
        return False
    with suppress(ValueError, TypeError):
        moment = datetime.fromisoformat(expires)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) <= datetime.now(UTC)
    return False
