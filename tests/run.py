"""`make test`: the whole suite on SQLite and the filesystem broker, with the short form of the experiments, which bring services
of their own; then on PostgreSQL and Redis where they answer.

Arguments go to pytest. A service named in `BLOX_TEST_REQUIRE_SERVICES` ("PostgreSQL Redis") that cannot be used is a failure.
"""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from glob import glob

from tests import services

CORES = os.cpu_count() or 1
WORKERS = min(2 * CORES, 8)  # more than can run at once, since tests wait nearly half of their time
NO_TESTS = 5  # pytest's exit status
# Whoever is done takes of what another has still to do: files differ much in how long they take.
PLAIN = ["-n", str(WORKERS), "--dist", "worksteal", "-p", "no:schemathesis"]
PROCESSES, EXPERIMENTS, FUZZ = "processes or faults", "experiment", "fuzz"
# What starts servers and kills them spends most of its time waiting for them: two at a time, but nothing else beside them. In
# the order of the paths, each worker one test or those that share a server (`xdist_group`), so that both end together.
WAITING = ["-n", "2", "--dist", "loadgroup", "--no-loadscope-reorder"]
LONGEST_FIRST = ["tests/fuzz", "tests/pages", "tests/faults", "tests/bloxserver"]
# Named one by one: pytest takes a folder for all that is in it, and forgets that a part of it was to come first.
LONGEST_FIRST += sorted({*glob("tests/[a-z]*/"), *glob("tests/test_*.py")} - {f"{path}/" for path in LONGEST_FIRST})
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
    # Each of several processes would compile all tests, with their asserts rewritten, were they kept from keeping that.
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return subprocess.call([sys.executable, "-m", "pytest", "-q", *arguments], env=inherited | environment)


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
    found = [services.postgresql(), services.redis(WORKERS)]
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
