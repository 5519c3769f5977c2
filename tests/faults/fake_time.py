"""`celery`, in a process whose `django.utils.timezone.now` is told by the file that `BLOX_FAULTS_TIME` names.

The file says when it was written, what time it was then, and how fast time has passed since (`schedules.FakeTime`).
"""

import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from celery.__main__ import main
from django.utils import timezone


def told(file: Path) -> datetime:
    written, then, rate = map(float, file.read_text().split())
    return datetime.fromtimestamp(then + (time.time() - written) * rate, UTC)


if __name__ == "__main__":
    file = Path(os.environ["BLOX_FAULTS_TIME"])
    timezone.now = lambda: told(file)
    sys.exit(main())
