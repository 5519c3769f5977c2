"""The real processes, as a benchmark starts and measures them."""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

from django.conf import settings

from bloxserver.core.supervisor import die_with_parent


class Processes:
    """Web, worker and clock, as `manage.py start` runs them."""

    def __init__(self) -> None:
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self.log = Path(settings.VAR_DIR) / "processes.log"

    def start(self, *names: str) -> None:
        with self.log.open("ab") as log:
            for name in names:
                self._running[name] = subprocess.Popen(
                    [sys.executable, "manage.py", "start", name],
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    preexec_fn=die_with_parent,
                )
        if "web" in names:
            self._wait_for_web()

    def _wait_for_web(self) -> None:
        for _ in range(200):
            with suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{settings.PORT}/health/live", timeout=1).close()
                return
            time.sleep(0.05)
        raise RuntimeError(f"The web process does not answer; see {self.log}.")

    def stop(self, *names: str) -> None:
        for name in names or list(self._running):
            process = self._running.pop(name)
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)

    def memory(self) -> dict[str, int]:
        """Bytes of each process with its children: PSS, which counts a shared page by its share."""
        return {name: sum(map(_pss, _family(process.pid))) for name, process in self._running.items()}


def _family(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(grandchild for child in children for grandchild in _family(int(child)))]


def _pss(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0
