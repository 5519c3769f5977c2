"""The commands of the server's processes: the same under `manage.py up`, in a container and as services."""

import sys
from pathlib import Path

from django.conf import settings

BIN = Path(sys.executable).parent
# Gossip, mingle and heartbeats are talk between workers that nothing here listens to.
CELERY = [
    *(str(BIN / "celery"), "--quiet", "--app", "bloxserver", "worker"),
    *("--without-gossip", "--without-mingle", "--without-heartbeat"),
]


def web_command() -> list[str]:
    """WSGI behind a guard against slow clients (`bloxserver.rsgi`); one process, many threads."""
    return [
        *(str(BIN / "granian"), "--interface", "rsgi", "bloxserver.rsgi:application"),
        *("--host", settings.BLOX_HOST, "--port", str(settings.PORT)),
        # A connection that sends slowly costs little: more of them than this and new ones wait for those to end.
        *("--workers", str(settings.BLOX_WEB_PROCESSES), "--backlog", "4096", "--backpressure", "4096"),
        # HTTP/1 alone: a body of HTTP/2 may come without a length, and would be taken for none. A proxy speaks the rest.
        *("--http", "1", "--no-ws", "--workers-kill-timeout", "10", "--log-level", "error"),
    ]


def worker_command() -> list[str]:
    """One process runs many executions at once, so prefork has one child: what it is for is to be replaced."""
    return [*CELERY, "--hostname", "worker@%h", "--queues", "executions", "--pool", "prefork", "--concurrency", "1"]


def clock_command() -> list[str]:
    return [*CELERY, "--hostname", "clock@%h", "--queues", "clock", "--pool", "solo", "--beat"]


COMMANDS = {"web": web_command, "worker": worker_command, "clock": clock_command}
