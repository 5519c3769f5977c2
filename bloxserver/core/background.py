"""Work that may take long, beside the clock's ticks: a thread that is there as long as there is something to do."""

import logging
from collections.abc import Callable
from threading import Lock, Thread

from django.db import connection

logger = logging.getLogger(__name__)


class Background:
    """Runs `work`, one at a time, in a thread with a database connection of its own."""

    def __init__(self, work: Callable[[], None], name: str) -> None:
        self._work = work
        self._name = name
        self._running = Lock()
        self._asked = False

    def start(self) -> None:
        """Have `work` done, once more if it is being done. Returns at once.

        A call at the very moment at which the work ends may be missed, so whoever depends on it calls again.
        """
        self._asked = True
        if self._running.acquire(blocking=False):
            Thread(target=self._run, name=self._name, daemon=True).start()

    def _run(self) -> None:
        try:
            while self._asked:
                self._asked = False
                self._work()
        except Exception:  # the database is away, say: the next call tries again
            logger.exception("%s broke off", self._name)
        finally:
            connection.close()
            self._running.release()
