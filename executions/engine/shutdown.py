"""Whether this worker is being shut down.

Celery tells the parent of its worker processes and not the processes themselves, so the parent raises a flag in memory
that they share with it, and drains look at it.
"""

import multiprocessing
from typing import Any

from celery.signals import worker_shutting_down

_shutting_down = multiprocessing.Event()  # made at import, before Celery forks: parent and children share it


@worker_shutting_down.connect
def _raise_flag(**_: Any) -> None:
    _shutting_down.set()


def is_shutting_down() -> bool:
    return _shutting_down.is_set()
