"""What the server accepts, finishes and fires: real processes on PostgreSQL and Redis, under load over HTTP.

    make bench-throughput                       # or, on a database of one's own with "bench" in its name:
    DATABASE_URL=postgres://postgres@127.0.0.1:5432/blox_bench_load REDIS_URL=redis://127.0.0.1:6379/9 \
        .venv/bin/python -m bench.throughput [floor accepted finished latency schedules memory start]

The database and that number of Redis are emptied. Rates are printed beside the floor that was taken in the same run
(`bench/floor.py`), since machines differ and are noisy; README.md says what each figure means.
"""

import argparse
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from cryptography.fernet import Fernet

PORT = 8765
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "bloxserver.settings")
os.environ.update(
    {
        "BLOX_ENV_FILE": os.devnull,
        "BLOX_VAR_DIR": tempfile.mkdtemp(prefix="blox-bench-"),
        "SECRET_KEY": secrets.token_hex(40),
        "BLOX_ENCRYPTION_KEYS": Fernet.generate_key().decode(),
        "ALLOWED_HOSTS": "127.0.0.1",
        "PORT": str(PORT),
        "BLOX_PUBLIC_URL": f"http://127.0.0.1:{PORT}",
        "LOG_LEVEL": "WARNING",
    }
)
DATABASE_URL = os.environ.get("DATABASE_URL", "")
if not DATABASE_URL.startswith("postgres") or "bench" not in DATABASE_URL or not os.environ.get("REDIS_URL"):
    sys.exit(
        "DATABASE_URL must name a scratch PostgreSQL database with 'bench' in its name, REDIS_URL a scratch Redis."
    )

import django  # noqa: E402

django.setup()

import redis  # noqa: E402
from django.conf import settings  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import connection  # noqa: E402
from django.utils import timezone  # noqa: E402

from accounts.models import Tier, User  # noqa: E402
from bench import load  # noqa: E402
from bench.floor import commits_per_second  # noqa: E402
from bench.server import Processes  # noqa: E402
from flows.models import Flow  # noqa: E402
from flows.services import create_flow, start_flow  # noqa: E402
from triggers.models import Trigger  # noqa: E402
from triggers.services import create_trigger  # noqa: E402

CONNECTIONS = 16
TENANTS = 10  # a tenant's webhooks take 1,000 calls a second
ORGANISM = """\
organism: {name: bench}
listeners:
  - name: read
    handler: blox.transform
    config: {value: {customer: "{{ payload.customer }}", total: "{{ payload.total }}"}}
    peers: [large]
  - name: large
    handler: blox.branch
    config: {cases: [{when: "payload.total > 100", to: note}], otherwise: note}
    peers: [note]
  - name: note
    handler: blox.output
    config: {value: {message: "Call {{ payload.customer }}."}}
"""
ORDER = json.dumps({"order": "1042", "customer": "Ada", "total": 129.5, "lines": [{"sku": "A-1", "count": 2}]}).encode()


class Bench:
    def __init__(self, runs: int, total: int) -> None:
        self.runs, self.total = runs, total
        self.processes = Processes()
        self.floor = 0.0
        self.webhooks: list[bytes] = []

    def prepare(self) -> None:
        _run("DROP SCHEMA public CASCADE")
        _run("CREATE SCHEMA public")
        redis.Redis.from_url(settings.REDIS_URL).flushdb()
        call_command("migrate", verbosity=0)
        flows = [self._flow(number) for number in range(TENANTS)]
        self.webhooks = [self._webhook(flow, {}) for flow in flows]
        self.answering = self._webhook(flows[0], {"respond": "result"})

    def _flow(self, number: int) -> Flow:
        user = User.objects.create_user(f"tenant-{number}@bench.example", tier=Tier.HIGH_FREQUENCY)
        return start_flow(flow=create_flow(owner=user, name="Orders", organism_yaml=ORGANISM), by=user)

    def _webhook(self, flow: Flow, config: dict[str, object]) -> bytes:
        trigger = create_trigger(flow=flow, type="webhook", name="Orders", config=config, now=timezone.now())
        return load.post(PORT, f"/webhooks/{trigger.webhook_token}", ORDER)

    # What is measured. ------------------------------------------------------------------------------------------------

    def measure_floor(self) -> None:
        self.floor = statistics.median(commits_per_second(DATABASE_URL) for _ in range(self.runs))
        print(f"floor: {self.floor:,.0f} single-row commits/s over 8 connections of psycopg")

    def measure_accepted(self) -> None:
        """Everything runs, so the worker takes its share of the machine while it carries out what is accepted."""
        with self._running("web", "worker", "clock"):
            loads, finished = [], []
            for _ in range(1 + self.runs):
                began = timezone.now()
                loads.append(load.run(PORT, self.webhooks, connections=CONNECTIONS, total=self.total))
                self._wait_for_ends()
                finished.append(_per_second(began, "started_at"))
        for each in loads:
            assert set(each.statuses) == {202}, each.statuses
        print(f"accepted: {self._rate(median(each.per_second for each in loads[1:]))}, at concurrency {CONNECTIONS}")
        latencies = [median(each.percentile(percent) for each in loads[1:]) * 1000 for percent in (50, 99)]
        print(f"   latency p50 {latencies[0]:.1f} ms, p99 {latencies[1]:.1f} ms")
        print(f"   accepted and finished, first to last: {self._rate(median(finished[1:]))}")

    def measure_finished(self) -> None:
        """A backlog of three-listener executions, all steps on record, from the first claim to the last end."""
        rates = []
        with self._running("web", "clock"):
            for _ in range(self.runs):
                began = timezone.now()
                load.run(PORT, self.webhooks, connections=CONNECTIONS, total=self.total)
                self.processes.start("worker")
                self._wait_for_ends()
                self.processes.stop("worker")
                rates.append(_per_second(began, "claimed_at"))
                assert (
                    _one(
                        "SELECT count(*) FROM executions_step JOIN executions_execution e ON e.id = execution_id"
                        " WHERE e.started_at >= %s",
                        began,
                    )
                    == 3 * self.total
                )
        print(f"finished: {self._rate(median(rates))}")

    def measure_latency(self) -> None:
        """One call at a time on an idle server, from the first byte sent."""
        with self._running("web", "worker", "clock"):
            for _ in range(2):  # the first warms it up
                seen, answered = [], []
                for _ in range(200):
                    one = load.run(PORT, self.webhooks[:1], connections=1, total=1, keep=True)
                    self._wait_for_ends()
                    ended = _one(
                        "SELECT extract(epoch FROM completed_at)::float8 FROM executions_execution WHERE id = %s",
                        json.loads(one.bodies[0])["executionId"],
                    )
                    seen.append(ended - one.sent_at[0])
                    answered.append(load.run(PORT, [self.answering], connections=1, total=1).latencies[0])
        for name, values in (("webhook to finished", seen), ("webhook with respond: result, to its answer", answered)):
            print(
                f"{name}: p50 {load.percentile(values, 50) * 1000:.1f} ms, p99 {load.percentile(values, 99) * 1000:.1f} ms"
            )

    def measure_schedules(self) -> None:
        """Ten thousand schedules due in one second, in 50 flows of ten tenants."""
        self._make_schedules(10_000)
        with self._running("web", "worker", "clock"):
            due = (timezone.now() + timedelta(seconds=70)).replace(second=0, microsecond=0)
            _run("UPDATE triggers_trigger SET next_moment = %s, next_fire_at = %s WHERE type = 'schedule'", due, due)
            made = "SELECT count(*) FROM executions_execution WHERE scheduled_for = %s"
            while _one(made, due) < 10_000:
                time.sleep(0.01)
            on_record = time.time() - due.timestamp()
            _run(
                "UPDATE triggers_trigger SET enabled = false, next_moment = NULL, next_fire_at = NULL WHERE type = 'schedule'"
            )
            self._wait_for_ends()
            ended = _one("SELECT extract(epoch FROM max(completed_at))::float8 FROM executions_execution")
            print(f"10,000 schedules due in one second: on record after {on_record:.2f} s,", end=" ")
            print(f"finished after {ended - due.timestamp():.2f} s")
            assert _one("SELECT count(*) FROM triggers_moment WHERE moment = %s AND outcome = 'fired'", due) == 10_000

    def measure_memory(self) -> None:
        with self._running("web", "worker", "clock"):
            load.run(PORT, self.webhooks, connections=CONNECTIONS, total=3_000)
            self._wait_for_ends()
            each = {name: size / 1_000_000 for name, size in self.processes.memory().items()}
        print(
            "memory after 3,000 executions: " + ", ".join(f"{name} {size:.0f} MB" for name, size in each.items()),
            end="",
        )
        print(f"; together {sum(each.values()):.0f} MB (PSS)")

    def measure_start(self) -> None:
        """`manage.py up` on a migrated database, until web, worker and clock are ready."""
        took = []
        for _ in range(self.runs):
            started = time.perf_counter()
            server = subprocess.Popen([sys.executable, "manage.py", "up"], stdout=subprocess.PIPE, text=True)
            assert server.stdout is not None
            next(line for line in server.stdout if line.startswith("READY"))
            took.append(time.perf_counter() - started)
            server.terminate()
            server.communicate()
        print(f"warm start: {median(took):.1f} s")

    # How. -------------------------------------------------------------------------------------------------------------

    @contextmanager
    def _running(self, *names: str) -> Iterator[None]:
        try:
            self.processes.start(*names)
            load.run(PORT, self.webhooks, connections=CONNECTIONS, total=200)
            time.sleep(3)  # the others start in that time
            yield
        finally:
            self.processes.stop()

    def _wait_for_ends(self) -> None:
        while _one("SELECT EXISTS (SELECT FROM executions_execution WHERE state <> 'ended')"):
            time.sleep(0.005)

    def _rate(self, per_second: float) -> str:
        return f"{per_second:,.0f}/s" + (f" = {per_second / self.floor:.2f} of the floor" if self.floor else "")

    def _make_schedules(self, count: int) -> None:
        users = list(User.objects.filter(email__endswith="@bench.example"))
        flows = [
            start_flow(
                flow=create_flow(owner=user, name=f"Clock {n}", organism_yaml=ORGANISM.replace("bench", f"clock-{n}")),
                by=user,
            )
            for user in users
            for n in range(5)
        ]
        config = {"cron": "* * * * *", "timezone": "Europe/Berlin"}
        Trigger.objects.bulk_create(
            Trigger(flow=flows[n % len(flows)], type="schedule", name=f"Schedule {n}", config=config)
            for n in range(count)
        )


def median(values: Iterable[float]) -> float:
    return statistics.median(values)


def _run(sql: str, *parameters: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)


def _one(sql: str, *parameters: Any) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return cursor.fetchone()[0]


def _per_second(began: datetime, since: str) -> float:
    """Executions accepted after `began` that ended, a second between the first `since` and the last end."""
    took = f"extract(epoch FROM max(completed_at) - min({since}))::float8"
    rate: float = _one(f"SELECT count(*) / {took} FROM executions_execution WHERE started_at >= %s", began)
    return rate


NAMES = ["floor", "accepted", "finished", "latency", "schedules", "memory", "start"]


def main() -> None:
    parser = argparse.ArgumentParser(description="What the server accepts, finishes and fires.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all of them without one")
    parser.add_argument("--runs", type=int, default=3, help="of each rate; the median counts")
    parser.add_argument("--total", type=int, default=6_000, help="executions in each")
    options = parser.parse_args()
    bench = Bench(options.runs, options.total)
    bench.prepare()
    for name in options.names or NAMES:
        getattr(bench, f"measure_{name}")()


if __name__ == "__main__":
    main()
