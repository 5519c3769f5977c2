"""Celery's connection to a Redis that goes away at the worst moment."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection, Queue

from bloxserver.celery import app
from tests.faults.own_services import Redis, missing
from tests.waiting import wait_until

QUEUE = Queue("bells", routing_key="bells")


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    if "redis-server" in missing():
        pytest.skip("redis-server not installed")
    server = Redis(tmp_path / "redis")
    yield server
    server.kill()


@pytest.mark.parametrize("done", ["ack", "reject"])
def test_a_consumer_whose_message_cannot_be_acknowledged_goes_on_consuming(redis: Redis, done: str) -> None:
    options = {"socket_timeout": 0.2, "socket_connect_timeout": 0.5}
    with app.connection_for_read(redis.url, transport="redis", transport_options=options) as connection:
        received: list[Any] = []
        consumer = connection.Consumer([QUEUE], callbacks=[lambda body, message: received.append((body, message))])
        consumer.qos(prefetch_count=1)
        with consumer:
            _publish(redis, "first")
            wait_until(lambda: _drain(connection, received))
            with redis.frozen(), pytest.raises(connection.connection_errors):
                getattr(received[0][1], done)()
            _publish(redis, "second")
            wait_until(lambda: _drain(connection, received) and received[-1][0] == "second", seconds=10)


def _drain(connection: Connection, received: list[Any]) -> bool:
    with suppress(TimeoutError, *connection.connection_errors):
        connection.drain_events(timeout=1)
    return bool(received)


def _publish(redis: Redis, text: str) -> None:
    with Connection(redis.url) as connection:
        connection.Producer().publish(text, routing_key="bells", declare=[QUEUE])
