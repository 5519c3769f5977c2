"""Runs web, worker and clock under one process, and ends with all of them.

A script of the standard library alone, so that what stays in memory beside the server is small: `manage.py up` prepares
everything and then becomes this. Standard input is JSON, see `main`.

- Every child leads a process group of its own. A terminal's Ctrl-C reaches only the supervisor, which passes SIGTERM to
  the leaders, waits `GRACE_SECONDS`, and ends what is left of the groups with SIGKILL. A signal a second later does that at once.
- A child whose supervisor was killed gets SIGTERM from the kernel (`die_with_parent`).
- A child that ends is started again, after a pause that doubles up to `LONGEST_PAUSE`.
"""

import ctypes
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

GRACE_SECONDS = 30.0  # a worker hands its executions back within 25 (CELERY_WORKER_SOFT_SHUTDOWN_TIMEOUT)
LONGEST_PAUSE = 30.0
STEADY_SECONDS = 60.0  # a child that ran so long starts again without a pause
START_ATTEMPTS = 5  # before web was ever ready
TICK_SECONDS = 0.1
PR_SET_PDEATHSIG = 1  # prctl(2)


def die_with_parent(number: int = signal.SIGTERM) -> None:
    """Asks the kernel to send this process signal `number` when its parent ends. Linux only; elsewhere a no-op."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(number))


class Child:
    """One of the processes, through all its starts."""

    def __init__(self, name: str, command: list[str], label: str) -> None:
        self.name = name
        self.command = command
        self.label = label
        self.process: subprocess.Popen[bytes] | None = None
        self.started_at = 0.0
        self.start_at = 0.0
        self.failures = 0
        self._rest = b""

    def start(self) -> int:
        """Starts the process; gives the descriptor from which its output comes."""
        supervisor = os.getpid()

        def prepare() -> None:
            die_with_parent()
            if os.getppid() != supervisor:
                os._exit(1)  # the supervisor ended before the kernel knew to tell us

        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
            start_new_session=True,
            preexec_fn=prepare,
        )
        self.started_at = time.monotonic()
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)
        return self.process.stdout.fileno()

    @property
    def is_alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def tell(self, number: int) -> None:
        if self.process is not None and self.is_alive:
            self.process.send_signal(number)

    def end_group(self) -> None:
        """Ends what a dead leader left behind: a prefork child, an embedded beat, granian's worker."""
        if self.process is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)

    def read_lines(self) -> tuple[list[bytes], bool]:
        """What it has printed since, as whole lines, and whether there may be more later."""
        assert self.process is not None and self.process.stdout is not None
        try:
            chunk = os.read(self.process.stdout.fileno(), 65536)
        except BlockingIOError:
            return [], True
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if not chunk and self._rest:
            lines, self._rest = [*lines, self._rest], b""
        return lines, bool(chunk)

    def fail(self) -> float:
        """Notes its end; gives the seconds to wait before the next start."""
        ran = time.monotonic() - self.started_at
        self.failures = 1 if ran > STEADY_SECONDS else self.failures + 1
        pause = min(LONGEST_PAUSE, 2.0 ** (self.failures - 1) / 2)
        self.start_at = time.monotonic() + pause
        return pause


class Supervisor:
    def __init__(self, *, commands: dict[str, list[str]], host: str, port: int, banner: str, with_parent: bool) -> None:
        width = max(map(len, commands))
        self.children = [Child(name, command, f"{name:<{width}} | ") for name, command in commands.items()]
        self.address = (host, port)
        self.banner = banner
        self.parent = Parent() if with_parent else None
        self.is_ready = False
        self.signalled_at: float | None = None  # the latest
        self._selector = selectors.DefaultSelector()

    def run(self) -> int:
        """Runs until a signal comes; gives the exit status."""
        self._listen_for_signals()
        while self.signalled_at is None:
            self._start_due()
            self._pump(TICK_SECONDS)
            self._note_ended()
            if not self.is_ready and self._web_answers():
                self.is_ready = True
                self._say(self.banner)
            if not self.is_ready and any(child.failures >= START_ATTEMPTS for child in self.children):
                self._say("Giving up: a process ends again and again before the server is ready. Its output is above.")
                self._end()
                return 1
            if self.parent is not None and not self.parent.wants_us:
                break
        self._end()
        return 0

    # Signals -----------------------------------------------------------------------------------------------------
    def _listen_for_signals(self) -> None:
        def note(number: int, frame: object) -> None:
            self.signalled_at = time.monotonic()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, note)
        # A signal, also that of a child's end, ends a wait at once.
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(theirs.fileno())
        self._wakeup = (ours, theirs)
        self._selector.register(ours, selectors.EVENT_READ)
        if self.parent is not None:
            die_with_parent()

    # Children ------------------------------------------------------------------------------------------------------
    def _start_due(self) -> None:
        for child in self.children:
            if child.process is None and child.start_at <= time.monotonic():
                self._selector.register(child.start(), selectors.EVENT_READ, child)

    def _note_ended(self) -> None:
        for child in self.children:
            if child.process is None or child.is_alive:
                continue
            self._drain_output(child)
            code = child.process.returncode
            pause = child.fail()
            child.process = None
            self._say(f"{child.name} ended with {describe(code)}; it starts again in {pause:g} s.")

    def _drain_output(self, child: Child) -> None:
        """Prints the rest of a dead child's output, and forgets its pipe."""
        assert child.process is not None and child.process.stdout is not None
        child.end_group()
        more = True
        deadline = time.monotonic() + 1
        while more and time.monotonic() < deadline:
            lines, more = child.read_lines()
            self._print(child, lines)
        self._forget(child)
        child.process.stdout.close()

    def _forget(self, child: Child) -> None:
        assert child.process is not None and child.process.stdout is not None
        with suppress(KeyError, ValueError):
            self._selector.unregister(child.process.stdout.fileno())

    def _end(self) -> None:
        began = time.monotonic()
        self._say("Ending: web, worker and clock finish what they hold ...")
        for child in self.children:
            child.tell(signal.SIGTERM)
        while any(child.is_alive for child in self.children) and time.monotonic() < began + GRACE_SECONDS:
            self._pump(TICK_SECONDS)
            # One wish may come twice at once: from the terminal's process group, and passed on by make.
            if self.signalled_at is not None and self.signalled_at > began + 1:
                self._say("Ending at once.")
                break
        for child in self.children:
            child.tell(signal.SIGKILL)
            child.end_group()
            if child.process is not None:
                child.process.wait()
                self._drain_output(child)
        self._say("Ended.")

    # Output ----------------------------------------------------------------------------------------------------------
    def _pump(self, seconds: float) -> None:
        for key, _ in self._selector.select(seconds):
            if key.data is None:
                with suppress(BlockingIOError):
                    self._wakeup[0].recv(4096)
                continue
            lines, more = key.data.read_lines()
            self._print(key.data, lines)
            if not more:
                self._forget(key.data)

    def _print(self, child: Child, lines: list[bytes]) -> None:
        for line in lines:
            self._write(child.label.encode() + line + b"\n")

    def _say(self, text: str) -> None:
        self._write(text.rstrip("\n").encode() + b"\n")

    def _write(self, text: bytes) -> None:
        try:
            while text:
                text = text[os.write(1, text) :]
        except BrokenPipeError:  # whoever read our output is gone; the server goes on
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

    def _web_answers(self) -> bool:
        """Whether web answers its own health page with 200."""
        try:
            with socket.create_connection(self.address, timeout=0.5) as connection:
                connection.settimeout(5)
                connection.sendall(b"GET /health/live HTTP/1.0\r\nHost: localhost\r\n\r\n")
                return b" 200 " in connection.recv(64)
        except OSError:
            return False


def describe(code: int) -> str:
    return f"status {code}" if code >= 0 else signal.Signals(-code).name


class Parent:
    """The process whose end, or wish to end, ends us: `make`.

    GNU make passes SIGTERM to its recipe, but expects the terminal to have sent SIGINT to all of them; `kill -INT` on make
    alone leaves it waiting for us. It restores the default handling of a signal it has taken: that can be seen.
    """

    def __init__(self) -> None:
        self.pid = os.getppid()
        self.caught_at_first = self._catches_interrupt()

    @property
    def wants_us(self) -> bool:
        if os.getppid() != self.pid:
            return False
        return self._catches_interrupt() or not self.caught_at_first

    def _catches_interrupt(self) -> bool:
        try:
            status = Path(f"/proc/{self.pid}/status").read_text()
        except OSError:  # gone, or not Linux
            return False
        caught = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigCgt:"))
        return bool(caught >> (signal.SIGINT - 1) & 1)


def main() -> int:
    """Reads `{"commands": {name: argv}, "host", "port", "banner", "with_parent"}` and runs it."""
    specification = json.load(sys.stdin)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    return Supervisor(**specification).run()


if __name__ == "__main__":
    sys.exit(main())
