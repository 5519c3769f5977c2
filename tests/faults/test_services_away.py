"""PostgreSQL and Redis are stopped, frozen and crashed, and refuse what they are asked, while webhooks come in."""

import time

import pytest
import redis

from tests.faults.conftest import Begin
from tests.faults.experiment import Experiment, scaled
from tests.faults.flows import mixed
from tests.faults.load import Load
from tests.faults.own_services import USER, Redis
from tests.faults.server import Server
from tests.waiting import wait_until

pytestmark = pytest.mark.experiment

LISTENERS = 3  # two workers and a clock
# The tick and the sweep, a drain that begins and a page that is asked for say that the database is away.
DATABASE_AWAY = r"OperationalError|InterfaceError|The database did not answer|the connection is (closed|lost)"
REDIS_AWAY = (
    r"redis\.exceptions|kombu\.exceptions|ConnectionError|ConnectionRefused|ConnectionReset|consumer: Connection"
)


def test_e3_redis_is_stopped_and_frozen_and_comes_back_empty(begin: Begin, server: Server) -> None:
    with begin("E3 Redis away", explained=REDIS_AWAY) as trial:
        pids = {name: process.pid for name, process in server.processes.items()}
        with trial.load(mixed(trial.tenant(), trial.server.world.url), rate=scaled(30, least=10)) as load:
            time.sleep(1)
            with trial.fault("redis", "killed"):
                server.redis.kill()
                time.sleep(scaled(20, least=2))
            server.redis.start()
            wait_for_listeners(server.redis)
            with trial.fault("redis", "frozen"), server.redis.frozen():
                time.sleep(scaled(20, least=2))
            for _ in range(scaled(5, least=1)):
                with trial.fault("redis", "restarted empty"):
                    server.redis.kill()
                    server.redis.start()
                wait_for_listeners(server.redis)
        trial.settle()
        assert {answer.status for answer in load.answers} == {202}
        trial.remark(f"p99 {load.percentile(99):.2f} s")
        assert load.percentile(99) < 1
        assert {name: process.pid for name, process in server.processes.items()} == pids


def test_e4_postgresql_is_stopped_and_crashes_again_and_again(begin: Begin, server: Server) -> None:
    with begin("E4 PostgreSQL away", explained=DATABASE_AWAY) as trial:
        pids = {name: process.pid for name, process in server.processes.items()}
        with trial.load(mixed(trial.tenant(), trial.server.world.url), rate=scaled(30, least=10)) as load:
            trial.let_work(10)
            with trial.fault("database", "stopped"):
                server.postgres.stop()
                time.sleep(scaled(10, least=3))
                server.postgres.start()
            for _ in range(scaled(8, least=2)):
                wait_until(lambda: answered_since(load, trial.faults[-1].ended), seconds=5)
                trial.pause(scaled(5, least=1), scaled(20, least=2))
                with trial.fault("database", "crashed"):
                    server.postgres.crash()
                    server.postgres.start()
        trial.settle()
        assert_refused_at_once(trial, load)
        assert {name: process.pid for name, process in server.processes.items()} == pids


def test_e19_the_database_takes_no_writes_and_no_connections(begin: Begin, server: Server) -> None:
    with begin("E19 read-only, connection limit", explained=DATABASE_AWAY + "|read-only|too many connections") as trial:
        flows = mixed(trial.tenant(), trial.server.world.url)
        with trial.load(flows, rate=scaled(30, least=10)) as load:
            for text, breaks, mends in (
                ("read-only", "ALTER SYSTEM SET default_transaction_read_only = on", "ALTER SYSTEM RESET ALL"),
                ("limit", f"ALTER ROLE {USER} CONNECTION LIMIT 1", f"ALTER ROLE {USER} CONNECTION LIMIT -1"),
            ):
                trial.let_work(10)
                with trial.fault("database", text):
                    server.postgres.execute(breaks, "SELECT pg_reload_conf()")
                    for _ in range(scaled(15, least=3)):
                        time.sleep(1)
                        server.postgres.execute(CUT)  # wherever in their work they are
                    server.postgres.execute(mends, "SELECT pg_reload_conf()")
                wait_until(lambda: answered_since(load, trial.faults[-1].ended), seconds=5)
        trial.settle()
        assert_refused_at_once(trial, load)
        ends = {code for flow in flows for code in trial.executions(flow, "error_code")}
        assert ends <= {"", "worker_lost", "unexpected_status", "called_flow_failed"}


CUT = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{USER}'"


def wait_for_listeners(server: Redis) -> None:
    """Until every Celery process waits for messages again, or has one and is busy with the bell before."""

    def listening() -> bool:
        with redis.Redis(port=server.port) as client:
            waiting = sum(each["cmd"] == "brpop" and "b" in each["flags"] for each in client.client_list())
            return waiting + client.hlen("unacked") >= LISTENERS

    began = time.monotonic()
    wait_until(listening, seconds=140)  # one that is busy may be so for as long as a drain lasts: two minutes
    print(f"listening again after {time.monotonic() - began:.1f} s")


def answered_since(load: Load, moment: float) -> bool:
    return any(answer.began > moment and answer.status == 202 for answer in load.answers)


def assert_refused_at_once(trial: Experiment, load: Load) -> None:
    refused = [answer for answer in load.answers if answer.status == 503]
    slowest = max(answer.seconds for answer in refused)
    trial.remark(f"{len(refused)} refused in {slowest:.1f} s at most")
    assert slowest < 2
