"""Kombu's Redis transport, mended: a consumer whose acknowledgement fails goes on consuming.

Kombu's own raises before it has noted that the message is done with, and Celery logs the error and goes on. The message then
counts as under way for ever; with a prefetch of one nothing else is taken, and no BRPOP is pending whose end would tell that the
connection is broken. So a clock or worker that acknowledges in the instant in which Redis goes would stand still, alive,
until somebody starts it again.
"""

from typing import Any

from kombu.transport import redis, virtual


class QoS(redis.QoS):
    def ack(self, delivery_tag: str) -> None:
        """Raises where Redis does not answer; it may deliver the message again then, after its visibility timeout."""
        try:
            super().ack(delivery_tag)
        finally:
            virtual.QoS.ack(self, delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        try:
            super().reject(delivery_tag, requeue=requeue)
        finally:
            virtual.QoS.ack(self, delivery_tag)


class Channel(redis.Channel):
    QoS = QoS


class Transport(redis.Transport):
    Channel: Any = Channel
