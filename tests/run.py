"""`make test`: the whole suite on SQLite and the filesystem broker, then on PostgreSQL and Redis where they answer, then the
short form of the experiments, which bring services of their own.

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
PROCESSES = "processes or faults"
EXPERIMENTS = "experiment"
# What starts servers and kills them spends most of its time waiting for them: two at a time, but nothing else beside them.
WAITING = ["-n", "2", "--dist", "loadfile"]
EMBEDDED = {"BLOX_TEST_DATABASE_URL": "", "BLOX_TEST_REDIS_URL": ""}
COSTLY = "tests/fuzz"  # to collect, and there are no such tests in it


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


def waiting(markers: str, arguments: list[str], environment: dict[str, str]) -> int:
    return pytest(["-m", markers, *WAITING, *(arguments or [f"--ignore={COSTLY}"])], environment)


def run_suite(name: str, arguments: list[str], environment: dict[str, str], *, again: bool = False) -> Result:
    print(f"\n== On {name} ==", flush=True)
    started = time.monotonic()
    less = " and not once" if again else ""
    others = ["-m", f"not ({PROCESSES} or {EXPERIMENTS}){less}", "-n", str(WORKERS), "--dist", "loadfile"]
    statuses = {
        pytest([*others, *arguments], environment),
        waiting(f"({PROCESSES}){less}", arguments, environment),
    }
    return Result(name, time.monotonic() - started, statuses)


def run_experiments(arguments: list[str]) -> Result:
    name = "Experiments, on services of their own"
    print(f"\n== {name} ==", flush=True)
    started = time.monotonic()
    status = waiting(EXPERIMENTS, arguments, EMBEDDED)
    return Result(name, time.monotonic() - started, {status})


def main(arguments: list[str]) -> int:
    found = [services.postgresql(), services.redis(max(WORKERS, 2))]
    results = [run_suite("SQLite and the filesystem broker", arguments, EMBEDDED)]
    usable = [service for service in found if service.url]
    if usable:
        with_services = {"BLOX_TEST_DATABASE_URL": found[0].url, "BLOX_TEST_REDIS_URL": found[1].url}
        names = " and ".join(service.name for service in usable)
        results.append(run_suite(names, arguments, with_services, again=True))
    results.append(run_experiments(arguments))

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
