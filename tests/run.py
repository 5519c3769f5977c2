"""`make test`: the whole suite on SQLite and the filesystem broker, then on PostgreSQL and Redis where they answer.

Arguments go to pytest. A service named in `BLOX_TEST_REQUIRE_SERVICES` ("PostgreSQL Redis") that cannot be used is a failure.
"""

import os
import subprocess
import sys
import time

from tests import services

WORKERS = min(os.cpu_count() or 1, 8)
NO_TESTS = 5  # pytest's exit status
# What starts servers and kills them wants the machine for itself.
ALONE = "processes or faults"


def pytest(arguments: list[str], environment: dict[str, str]) -> int:
    return subprocess.call([sys.executable, "-m", "pytest", "-q", *arguments], env=os.environ | environment)


def run_suite(name: str, arguments: list[str], environment: dict[str, str]) -> tuple[bool, str]:
    print(f"\n== On {name} ==", flush=True)
    started = time.monotonic()
    together = pytest(["-m", f"not ({ALONE})", "-n", str(WORKERS), "--dist", "loadfile", *arguments], environment)
    alone = pytest(["-m", ALONE, *arguments], environment)
    passed = {together, alone} <= {0, NO_TESTS} and 0 in {together, alone}
    return passed, f"{name}: {'passed' if passed else 'FAILED'}, {time.monotonic() - started:.0f} s"


def main(arguments: list[str]) -> int:
    found = [services.postgresql(), services.redis(WORKERS)]
    embedded = {"BLOX_TEST_DATABASE_URL": "", "BLOX_TEST_REDIS_URL": ""}
    results = [run_suite("SQLite and the filesystem broker", arguments, embedded)]
    usable = [service for service in found if service.url]
    if usable:
        with_services = {"BLOX_TEST_DATABASE_URL": found[0].url, "BLOX_TEST_REDIS_URL": found[1].url}
        results.append(run_suite(" and ".join(service.name for service in usable), arguments, with_services))

    print("\n== Summary ==")
    for _, line in results:
        print(line)
    missing = [service for service in found if not service.url]
    for service in missing:
        print(f"Not run on {service.name}: {service.message}")
    required = set(os.environ.get("BLOX_TEST_REQUIRE_SERVICES", "").split()) & {service.name for service in missing}
    for name in sorted(required):
        print(f"That is a failure: {name} is installed here.")
    return int(bool(required) or not all(passed for passed, _ in results))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
