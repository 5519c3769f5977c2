import os
import signal
import threading
import warnings
from typing import Any

from celery import Celery
from celery.app.amqp import AMQP
from celery.signals import beat_embedded_init, celeryd_after_setup, task_prerun, worker_init, worker_ready
from django.conf import settings
from django.db import close_old_connections
from kombu import Connection
from kombu.transport import redis

from bloxserver.core import redis_broker
from bloxserver.core.database import wait_for_migrations
from bloxserver.core.garbage import leave_alone_what_is_loaded
from bloxserver.core.supervisor import die_with_parent

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "bloxserver.settings")
# Checks import every view into workers that serve none (20 MB each); `manage.py up`, `start` and `check` run them.
os.environ.setdefault("CELERY_SKIP_CHECKS", "1")
# What it warns of is pickle, which is not accepted here; containers run as a user of their own all the same.
warnings.filterwarnings("ignore", message="You're running the worker with superuser privileges")


class _Connection(Connection):
    """One that is tried again each second. Kombu's own waits are up to 30 s, so long would a clock sleep beside a broker that
    is back: no schedule would fire, and what a dead worker held would be held."""

    def get_transport_cls(self) -> Any:
        transport = super().get_transport_cls()
        return redis_broker.Transport if transport is redis.Transport else transport

    def ensure_connection(self, *args: Any, **options: Any) -> Any:
        every_second = {"interval_start": 1, "interval_step": 0, "interval_max": 1}
        return super().ensure_connection(*args, **{**every_second, **options})


class _AMQP(AMQP):
    Connection = _Connection


app = Celery("bloxserver", amqp=_AMQP)
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


# Of a release that is newer than the database: every query would fail, a hundred lines a second, and the bells that it takes
# would ring in vain. Celery goes on when this is through, so nobody has to start it again.
@worker_init.connect
def _wait_for_migrations(sender: Any, **kwargs: Any) -> None:
    if sender.app is app:  # another's workers may use this package's broker, and no database
        wait_for_migrations()


# Before it forks a child or beat: a collector that goes through all that was loaded writes to all of it, and what is written to
# is no longer shared. And a tick may make tens of thousands of rows at once.
@worker_init.connect
def _leave_alone_what_is_loaded(**kwargs: Any) -> None:
    leave_alone_what_is_loaded()


# Where processes contend for a machine, web and clock go first: what is accepted can wait, and a caller gives up.
@celeryd_after_setup.connect
def _stand_back(instance: Any, **kwargs: Any) -> None:
    if "executions" in instance.app.amqp.queues.consume_from:
        os.nice(settings.BLOX_WORKER_NICE)


# Connections outlive tasks (CELERY_DB_REUSE_MAX), so nobody else looks whether one was broken: a clock that met the database
# away would fail at every tick for ever.
@task_prerun.connect
def _close_broken_connections(task: Any, **kwargs: Any) -> None:
    if not task.request.is_eager:  # run within somebody else's transaction, perhaps
        close_old_connections()


# The clock's beat is a process of its own, forked by Celery, which neither ends it when the clock is killed nor notices
# when it dies: a clock without a tick. So each ends with the other, and the supervisor starts both again.
@beat_embedded_init.connect
def _beat_ends_with_clock(**kwargs: Any) -> None:
    die_with_parent()


@worker_ready.connect
def _clock_ends_with_beat(sender: Any, **kwargs: Any) -> None:
    beat = getattr(sender.controller, "beat", None)
    if beat is not None:
        threading.Thread(target=_end_after, args=(beat,), name="beat-watch", daemon=True).start()


def _end_after(beat: Any) -> None:
    beat.join()
    os.kill(os.getpid(), signal.SIGTERM)
