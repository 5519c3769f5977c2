"""`make test`: the whole suite on SQLite and the filesystem broker, with the short form of the experiments, which bring services
of their own; then on PostgreSQL and Redis where they answer.

Arguments go to pytest. A service named in `BLOX_TEST_REQUIRE_SERVICES` ("PostgreSQL Redis") that cannot be used is a failure.
"""

import os
import subprocess
import sys
import time
from dataclasses import dataclass

from tests import services

WORKERS = min((os.cpu_count() or 1) + 1, 8)  # one more than can run at once, since tests wait for timers and sockets
NO_TESTS = 5  # pytest's exit status
PLAIN = ["-n", str(WORKERS), "--dist", "loadfile", "-p", "no:schemathesis"]
PROCESSES, EXPERIMENTS, FUZZ = "processes or faults", "experiment", "fuzz"
# What starts servers and kills them spends most of its time waiting for them: two at a time, but nothing else beside them. In
# the order of the paths, so that the last to end is a short one.
WAITING = ["-n", "2", "--dist", "loadfile", "--no-loadscope-reorder"]
LONGEST_FIRST = ["tests/fuzz", "tests/faults", "tests/pages", "tests/bloxserver", "tests"]
EMBEDDED = {"BLOX_TEST_DATABASE_URL": "", "BLOX_TEST_REDIS_URL": ""}


@dataclass(frozen=True)
class Result:
    name: str
    seconds: float
    statuses: set[int]  # pytest's

    @property
    def passed(self) -> bool:
        return self.statuses <= {0, NO_TESTS}

    def __str__(self) -> str:
        word = "no tests" if self.statuses == {NO_TESTS} else "passed" if self.passed else "FAILED"
        return f"{self.name}: {word}, {self.seconds:.0f} s"


def pytest(arguments: list[str], environment: dict[str, str]) -> int:
    return subprocess.call([sys.executable, "-m", "pytest", "-q", *arguments], env=os.environ | environment)


def run_suite(
    name: str, arguments: list[str], environment: dict[str, str], *, long: list[str], again: bool = False
) -> Result:
    print(f"\n== On {name} ==", flush=True)
    started = time.monotonic()
    less = " and not once" if again else ""
    short = f"not ({PROCESSES} or {EXPERIMENTS} or {FUZZ}){less}"
    statuses = {
        pytest(["-m", short, *PLAIN, *(arguments or ["--ignore=tests/fuzz"])], environment),
        pytest(["-m", f"({' or '.join(long)}){less}", *WAITING, *(arguments or LONGEST_FIRST)], environment),
    }
    return Result(name, time.monotonic() - started, statuses)


def main(arguments: list[str]) -> int:
    found = [services.postgresql(), services.redis(max(WORKERS, 2))]
    usable = [service for service in found if service.url]
    # Hostile requests go to the database that takes less, where there is one.
    long = [PROCESSES, EXPERIMENTS] if usable else [PROCESSES, EXPERIMENTS, FUZZ]
    results = [run_suite("SQLite and the filesystem broker, with the experiments", arguments, EMBEDDED, long=long)]
    if usable:
        with_services = {"BLOX_TEST_DATABASE_URL": found[0].url, "BLOX_TEST_REDIS_URL": found[1].url}
        names = " and ".join(service.name for service in usable)
        results.append(run_suite(names, arguments, with_services, long=[PROCESSES, FUZZ], again=True))

    print("\n== Summary ==")
    for each in results:
        print(each)
    missing = [service for service in found if not service.url]
    for service in missing:
        print(f"Not run on {service.name}: {service.message}")
    required = set(os.environ.get("BLOX_TEST_REQUIRE_SERVICES", "").split()) & {service.name for service in missing}
    for name in sorted(required):
        print(f"That is a failure: {name} is installed here.")
    ran = any(0 in each.statuses for each in results)
    return int(bool(required) or not ran or not all(each.passed for each in results))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
