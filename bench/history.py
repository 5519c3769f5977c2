"""How long the lists, statistics and house-keeping of a long history take, at a million executions on PostgreSQL.

    createdb blox_bench
    DATABASE_URL=postgres://postgres@127.0.0.1:5432/blox_bench .venv/bin/python -m bench.history

The first run migrates the database and fills it (a minute and about 1.2 GB); later ones find it filled. Nothing else may live
in it: the script refuses a database whose name does not hold "bench". `--plans` prints the query plans as well, `--prune`
deletes a part of the history and measures that (the next run fills it up again), `--rows` makes fewer.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "bloxserver.settings")
os.environ.update({"DEBUG": "1", "BLOX_DEV_AUTH": "1", "ALLOWED_HOSTS": "testserver", "LOG_LEVEL": "ERROR"})
os.environ.setdefault("BLOX_ENV_FILE", os.devnull)
os.environ.setdefault("BLOX_VAR_DIR", tempfile.mkdtemp(prefix="blox-bench-"))

import django

if not os.environ.get("DATABASE_URL", "").startswith("postgres") or "bench" not in os.environ["DATABASE_URL"]:
    sys.exit("DATABASE_URL must name a scratch PostgreSQL database with 'bench' in its name.")
django.setup()

from django.core.management import call_command  # noqa: E402
from django.db import connection, reset_queries  # noqa: E402
from django.test import Client  # noqa: E402
from rest_framework.test import APIClient  # noqa: E402

from accounts.models import Tier, User  # noqa: E402
from executions import history, tally  # noqa: E402
from executions.models import Execution  # noqa: E402
from flows.models import Flow, FlowVersion  # noqa: E402
from flows.services import delete_flow  # noqa: E402

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)  # the newest execution; each one before it is two seconds older
BIG, OPERATOR = "big@bench.example", "operator@bench.example"
TENANTS = 50  # besides the big one; each with a tenth of a percent of the rows, for two steps each
RUNS = 60

# `n` counts down in time. Ids are UUIDv7 of the moment, as the server makes them.
FILL = """
WITH flows AS (SELECT array_agg(id ORDER BY name) AS ids FROM flows_flow WHERE user_id = %(user)s),
rows AS (
  SELECT n, %(noon)s::timestamptz - n * interval '2 seconds' AS at,
    ids[CASE WHEN n %% 5 < 4 THEN 1 ELSE 1 + (n / 5) %% cardinality(ids) END] AS flow_id,
    CASE WHEN n %% 50 = 7 THEN 'error' WHEN n %% 200 = 9 THEN 'timeout' ELSE 'success' END AS status,
    CASE WHEN n %% 1000 = 3 THEN 'manual' WHEN n %% 10 = 5 THEN 'schedule' ELSE 'webhook' END AS kind
  FROM generate_series(1, %(rows)s) AS n, flows)
INSERT INTO executions_execution (id, user_id, flow_id, version_id, trigger_name, trigger_type, depth, is_draft, status,
  error_code, error_message, started_at, claimed_at, completed_at, state, priority, lease_owner, fence, claim_alone, crashes,
  seconds_allowed, seconds_worked, cancel_reason)
SELECT (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7' || substr(md5(n::text || %(user)s), 1, 3) || '8'
    || substr(md5(%(user)s || n::text), 1, 15))::uuid,
  %(user)s, rows.flow_id, v.id, 'Orders', kind, 0, false, status, CASE status WHEN 'success' THEN '' ELSE 'http_status' END,
  CASE status WHEN 'success' THEN NULL ELSE 'call_crm: the server answered 503 Service Unavailable to order ' || n END,
  at, at + interval '4 ms', at + interval '40 ms', 'ended', 2, '', 2, false, 0, 300, 0.036, ''
FROM rows JOIN flows_flowversion v ON v.flow_id = rows.flow_id ORDER BY n DESC
"""
PAYLOADS = """
INSERT INTO executions_executionpayload (execution_id, input, output, trigger, variables, only_listener)
SELECT id, '{"body":{"order":"' || id || '","customer":"customer-' || fence || '","lines":[{"sku":"A-1","count":2},{"sku":"B-7",'
  || '"count":1}],"total":129.5,"currency":"EUR"},"headers":{"content-type":"application/json"}}', '{"ok":true}', '{}', '{}', ''
FROM executions_execution ON CONFLICT DO NOTHING
"""
STEPS = """
INSERT INTO executions_step (id, execution_id, key, scope, parents, number, listener, block, status, attempt, output,
  is_output_apart, sent_to, error_code, failures, notes, started_at, completed_at, tokens_in, tokens_out)
SELECT gen_random_uuid(), e.id, 'key-' || k, '', '[]', k, 'step-' || k, 'blox.http', 'success', 1, repeat('x', 300), false,
  '[]', '', '[]', '[]', e.started_at, e.completed_at, 0, 0
FROM executions_execution e CROSS JOIN generate_series(1, 2) AS k WHERE e.user_id = %s AND e.flow_id <> ALL(%s)
ON CONFLICT DO NOTHING
"""


def fill(rows: int) -> None:
    call_command("migrate", verbosity=0)
    if Execution.objects.count() >= rows:
        return
    print(f"Filling it with {rows:,} executions ...")
    Execution.objects.all()._raw_delete("default") if not _has_children() else call_command("flush", interactive=False)
    operator = User.objects.filter(email=OPERATOR).first()
    operator or User.objects.create_superuser(OPERATOR, "correct horse battery")
    of_small = rows // 1000
    with connection.cursor() as cursor:  # a fold of a million ends would take a minute
        cursor.execute("ALTER TABLE executions_execution DISABLE TRIGGER USER")
    for number in range(TENANTS + 1):
        user = _user(BIG if number == 0 else f"tenant-{number}@bench.example", flows=20 if number == 0 else 1)
        count = rows - TENANTS * of_small if number == 0 else of_small
        with connection.cursor() as cursor:
            cursor.execute(FILL, {"user": str(user.pk), "noon": NOON, "rows": count})
    with connection.cursor() as cursor:
        cursor.execute(PAYLOADS)
        big = User.objects.get(email=BIG)
        hot = Flow.objects.filter(user=big).order_by("name").first()
        cursor.execute(STEPS, [big.pk, [hot.pk if hot else None]])
        cursor.execute("ALTER TABLE executions_execution ENABLE TRIGGER USER")
    tally.recount()
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE")


def _has_children() -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT EXISTS (SELECT FROM executions_executionpayload)")
        return cursor.fetchone()[0]


def _user(email: str, *, flows: int) -> User:
    user = User.objects.filter(email=email).first() or User.objects.create_user(email, tier=Tier.HIGH_FREQUENCY)
    for number in range(flows):
        flow, made = Flow.objects.get_or_create(
            user=user, name=f"Flow {number:02}", defaults={"organism_yaml": "organism: {}"}
        )
        if made:
            FlowVersion.objects.create(flow=flow, number=1, organism_yaml="organism: {}", digest="0" * 64)
    return user


class Bench:
    """Measures through the whole of Django, as a client of the API or the admin would see it, without the network."""

    def __init__(self, *, plans: bool) -> None:
        self.plans = plans
        self.floor = 0.0
        self.api = APIClient()
        self.api.credentials(HTTP_AUTHORIZATION=f"Bearer dev:{BIG}")
        self.admin = Client()
        self.admin.force_login(User.objects.get(email=OPERATOR), backend="django.contrib.auth.backends.ModelBackend")

    def get(self, name: str, url: str, *, client: Client | None = None) -> None:
        asked = client or self.api
        answer = asked.get(url)
        assert answer.status_code == 200, answer.content
        median, p95 = measure(lambda: asked.get(url))
        self.floor = self.floor or median
        print(f"{name:<52} {median:7.1f} ms {p95:7.1f} ms {median / self.floor:7.1f} x")
        if self.plans:
            explain(lambda: asked.get(url))


def measure(call: Callable[[], object], runs: int = RUNS) -> tuple[float, float]:
    """The median and the 95th percentile of `runs` calls, in milliseconds, after five that are not counted."""
    times = []
    for number in range(runs + 5):
        start = time.perf_counter()
        call()
        if number >= 5:
            times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times), sorted(times)[int(0.95 * runs)]


def explain(call: Callable[[], object]) -> None:
    """The plan of each query on executions and tallies that `call` makes."""
    reset_queries()
    call()
    for query in list(connection.queries):
        if query["sql"].startswith("SELECT") and "executions_" in query["sql"]:
            with connection.cursor() as cursor:
                cursor.execute("EXPLAIN (ANALYZE, BUFFERS, COSTS OFF) " + query["sql"].replace("%", "%%"))
                print("\n".join(f"      {line}" for (line,) in cursor.fetchall()))


def lists(bench: Bench) -> None:
    user = User.objects.get(email=BIG)
    hot, small = Flow.objects.filter(user=user).order_by("name")[:2]
    of_hot, day = f"/api/v1/flows/{hot.pk}/executions", f"{NOON - timedelta(days=3):%Y-%m-%dT%H:%M:%SZ}"
    since, middle = f"since={day}", Execution.objects.filter(user=user).order_by("-started_at")[500_000:500_001]
    deep = _cursor(middle.first() or Execution.objects.latest("started_at"))
    bench.get("floor: GET /me, which reads no history", "/api/v1/me")
    bench.get("a flow's list, page 1", of_hot)
    bench.get("a flow's list, status=error", f"{of_hot}?status=error")
    bench.get("a flow's list, status=running (none)", f"{of_hot}?status=running")
    bench.get("a flow's list, three days", f"{of_hot}?{since}")
    bench.get("a flow's list, errors of three days", f"{of_hot}?status=error,timeout&{since}")
    bench.get("a flow's list, triggerType=manual (one in 1,000)", f"{of_hot}?triggerType=manual")
    bench.get("a flow's list, cursor half a million deep", f"{of_hot}?cursor={deep}")
    bench.get("a small flow's list, page 1", f"/api/v1/flows/{small.pk}/executions")
    bench.get("the tenant's list, page 1", "/api/v1/executions")
    bench.get("the tenant's list, status=timeout", "/api/v1/executions?status=timeout")
    bench.get("the tenant's list, status=running (none)", "/api/v1/executions?status=running")
    bench.get("the tenant's list, three days", f"/api/v1/executions?{since}")
    bench.get("the tenant's list, one flow", f"/api/v1/executions?flow={small.pk}")
    bench.get("the tenant's list, cursor half a million deep", f"/api/v1/executions?cursor={deep}")
    bench.get("the tenant's list, search (found often)", "/api/v1/executions?search=Service+Unavailable")
    bench.get("the tenant's list, search (found nowhere)", "/api/v1/executions?search=no+such+text")
    bench.get("a flow's stats", f"/api/v1/flows/{hot.pk}/stats")
    bench.get("admin: all executions", "/admin/executions/execution/", client=bench.admin)
    bench.get("admin: status=timeout", "/admin/executions/execution/?status__exact=timeout", client=bench.admin)
    bench.get("admin: search by a flow's name", "/admin/executions/execution/?q=Flow+03", client=bench.admin)


def _cursor(execution: Execution) -> str:
    from bloxserver.api.long_lists import cursor_at

    return cursor_at(execution, "started_at")


def prune() -> None:
    user = User.objects.get(email=BIG)
    small = Flow.objects.filter(user=user).order_by("-name").first()
    assert small is not None
    of_small = Execution.objects.filter(flow=small).count()
    start = time.perf_counter()
    delete_flow(flow=small)
    print(
        f"\nDELETE of a flow with {of_small:,} executions and two steps each: {time.perf_counter() - start:.3f} s for the caller"
    )
    User.objects.exclude(pk=user.pk).update(tier=Tier.FREE)
    for name, now in (("that flow", NOON), ("50 tenants, without steps", NOON + timedelta(days=8))):
        start = time.perf_counter()
        done = history.prune_history(now=now, seconds=None)
        took = time.perf_counter() - start
        print(
            f"prune_history, {name}: {done.executions:,} executions in {took:.2f} s ({done.executions / took:,.0f}/s)"
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--plans", action="store_true")
    parser.add_argument("--prune", action="store_true")
    options = parser.parse_args()
    fill(options.rows)
    print(f"{'':<52} {'median':>10} {'p95':>10} {'floor':>9}")
    lists(Bench(plans=options.plans))
    if options.prune:
        prune()


if __name__ == "__main__":
    main()
