"""What keeps a log readable: while a part of the server is away, and while strangers try things."""

import logging
import time

EVERY_SECONDS = 10.0


class Brief(logging.Filter):
    """One line each ten seconds for what a logger would say with a stack trace each second: beat, without a broker."""

    def __init__(self) -> None:
        super().__init__()
        self._last = float("-inf")

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info is None:
            return True
        if time.monotonic() - self._last < EVERY_SECONDS:
            return False
        self._last = time.monotonic()
        record.msg, record.args, record.exc_info = record.getMessage().split("\n", 1)[0], (), None
        return True


class WithoutTrace(logging.Filter):
    """The line alone, where the stack trace is the same each time and anybody can bring it about."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.exc_info = None
        return True
