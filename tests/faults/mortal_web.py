"""Web's application, in a process that dies between the commit of an execution and its bell.

At every `BLOX_FAULTS_DIE_AT`th message it would publish, by Celery's own signal, it kills itself.
"""

import itertools
import os
import signal
from typing import Any

from celery.signals import before_task_publish

from bloxserver.rsgi import application

__all__ = ["application"]

_messages = itertools.count(1)


@before_task_publish.connect
def _die(**_: Any) -> None:
    if next(_messages) == int(os.environ["BLOX_FAULTS_DIE_AT"]):
        os.kill(os.getpid(), signal.SIGKILL)
