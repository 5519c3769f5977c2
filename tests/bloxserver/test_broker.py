"""The embedded broker, with real processes on one folder."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from queue import Empty

import pytest
from kombu import Connection, Exchange, Queue

pytestmark = pytest.mark.once

REPOSITORY = Path(__file__).resolve().parents[2]

PRODUCER = """
import sys
from tests.bloxserver.test_broker import connected
folder, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
with connected(folder) as connection:
    queue = connection.SimpleQueue("bells")
    for number in range(count):
        queue.put(f"{name}-{number}")
        print(f"{name}-{number}", flush=True)
"""

CONSUMER = """
import sys
from queue import Empty
from tests.bloxserver.test_broker import connected
with connected(sys.argv[1]) as connection:
    queue = connection.SimpleQueue("bells", no_ack=True)
    while True:
        try:
            body = queue.get(timeout=3).payload
        except Empty:
            break
        print(body, flush=True)
"""

WORKER = """
import os, pathlib, sys
from celery import Celery
app = Celery("bells", broker="filesystem://localhost")
app.conf.update(
    broker_transport="bloxserver.core.broker:Transport",
    broker_transport_options={"folder": sys.argv[1]},
    task_ignore_result=True,
    worker_enable_remote_control=False,
    worker_prefetch_multiplier=1,
)
@app.task(name="note")
def note(path):
    pathlib.Path(path).write_text(str(os.getpid()))
if sys.argv[2] == "worker":
    app.worker_main(["worker", "--pool=prefork", "--concurrency=1", "--without-mingle"])
else:
    note.delay(sys.argv[3])
"""


@contextmanager
def connected(folder: str | Path) -> Iterator[Connection]:
    with Connection(
        "filesystem://", transport="bloxserver.core.broker:Transport", transport_options={"folder": str(folder)}
    ) as connection:
        yield connection


def start(script: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        cwd=REPOSITORY,
        env=os.environ | {"DJANGO_SETTINGS_MODULE": "tests.settings"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process: subprocess.Popen[str]) -> list[str]:
    out, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (0, "")
    return out.split()


def queue_folder(folder: Path) -> Path:
    return folder / "queues" / "bells"


def test_four_producers_and_three_consumers_lose_no_message_and_double_none(tmp_path: Path) -> None:
    consumers = [start(CONSUMER, str(tmp_path)) for _ in range(3)]
    producers = [start(PRODUCER, str(tmp_path), name, "1500") for name in "abcd"]
    sent = [body for producer in producers for body in end(producer)]
    received = [body for consumer in consumers for body in end(consumer)]
    assert len(sent) == 6000
    assert sorted(received) == sorted(sent)


def test_producers_that_are_killed_leave_nothing_that_a_consumer_trips_over(tmp_path: Path) -> None:
    consumers = [start(CONSUMER, str(tmp_path)) for _ in range(2)]
    said: set[str] = set()
    for round_number in range(4):
        producer = start(PRODUCER, str(tmp_path), f"killed{round_number}", "1000000")
        assert producer.stdout is not None
        said.add(producer.stdout.readline().strip())  # it is at work
        time.sleep(0.2)
        producer.send_signal(signal.SIGKILL)
        # Not by `communicate`, which passes over what `readline` has taken in beside its line, and begins within one.
        said.update(producer.stdout.read().split("\n")[:-1])
        producer.wait()
    received = [body for consumer in consumers for body in end(consumer)]
    assert len(received) == len(set(received))
    assert said <= set(received)


def test_messages_come_in_the_order_in_which_they_were_put(tmp_path: Path) -> None:
    with connected(tmp_path) as connection:
        queue = connection.SimpleQueue("bells", no_ack=True)
        for number in range(100):
            queue.put(number)
        assert [queue.get(timeout=1).payload for _ in range(100)] == list(range(100))


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b"null", b"[" * 100_000])
def test_a_file_that_is_not_a_message_is_moved_aside_and_the_next_one_arrives(tmp_path: Path, content: bytes) -> None:
    with connected(tmp_path) as connection:
        queue = connection.SimpleQueue("bells", no_ack=True)
        queue.put("good")
        (queue_folder(tmp_path) / "00000000000000000000-1-1.msg").write_bytes(content)
        assert queue.get(timeout=1).payload == "good"
    assert [path.read_bytes() for path in (tmp_path / "unreadable").iterdir()] == [content]


def test_a_message_that_has_expired_is_dropped_and_one_that_has_not_arrives(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    with connected(tmp_path) as connection:
        queue = connection.SimpleQueue("bells", no_ack=True)
        queue.put("late", headers={"expires": (now - timedelta(seconds=1)).isoformat()})
        queue.put("in time", headers={"expires": (now + timedelta(hours=1)).isoformat()})
        assert queue.get(timeout=1).payload == "in time"
        with pytest.raises(Empty):
            queue.get(timeout=0.2)
    assert list(queue_folder(tmp_path).iterdir()) == []


def test_a_consumer_hears_a_message_within_the_tenth_of_a_second_that_it_polls(tmp_path: Path) -> None:
    with connected(tmp_path) as connection:
        assert connection.transport.polling_interval <= 0.1


def test_a_message_that_was_not_acknowledged_is_put_back_when_the_consumer_goes(tmp_path: Path) -> None:
    with connected(tmp_path) as connection:
        queue = connection.SimpleQueue("bells")
        queue.put("kept")
        queue.get(timeout=1)
    with connected(tmp_path) as connection:
        assert connection.SimpleQueue("bells", no_ack=True).get(timeout=1).payload == "kept"


def test_a_queue_knows_its_size_and_is_emptied_by_a_purge(tmp_path: Path) -> None:
    with connected(tmp_path) as connection:
        queue = connection.SimpleQueue("bells")
        for number in range(3):
            queue.put(number)
        assert queue.qsize() == 3
        assert queue.clear() == 3
        assert queue.qsize() == 0


def test_a_fanout_exchange_reaches_every_queue_that_is_bound_and_none_that_is_gone(tmp_path: Path) -> None:
    exchange = Exchange("news", type="fanout")
    with connected(tmp_path) as connection, connection.channel() as channel:
        queues = [Queue(f"reader@{name}", exchange, auto_delete=True)(channel) for name in "ab"]
        for queue in queues:
            queue.declare()
        connection.Producer(channel).publish("first", exchange=exchange)
        assert [queue.get(no_ack=True).payload for queue in queues] == ["first", "first"]
        queues[0].delete()
        connection.Producer(channel).publish("second", exchange=exchange)
        assert [queue.get(no_ack=True) is not None for queue in queues] == [False, True]


def test_a_folder_that_was_deleted_under_a_producer_is_made_again(tmp_path: Path) -> None:
    with connected(tmp_path) as connection:
        queue = connection.SimpleQueue("bells", no_ack=True)
        queue.put("before")
        queue.get(timeout=1)
        queue_folder(tmp_path).rmdir()
        queue.put("after")
        assert queue.get(timeout=1).payload == "after"


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    process = start(WORKER, str(tmp_path / "broker"), "worker")
    yield process
    process.terminate()
    process.communicate(timeout=30)


def run_by(tmp_path: Path, name: str) -> int:
    """The process of the pool that ran a task, sent now."""
    path = tmp_path / name
    end(start(WORKER, str(tmp_path / "broker"), "send", str(path)))
    deadline = time.monotonic() + 30
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < deadline, "the worker ran nothing"
        time.sleep(0.02)
    return int(path.read_text())


def test_a_worker_whose_pool_process_was_killed_runs_the_next_task_in_another(
    tmp_path: Path, worker: subprocess.Popen[str]
) -> None:
    first = run_by(tmp_path, "first")
    os.kill(first, signal.SIGKILL)
    assert run_by(tmp_path, "second") not in {first, worker.pid}
