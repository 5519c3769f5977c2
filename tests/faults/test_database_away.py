"""The database goes away for a few seconds in the middle of the work: it goes on from where it was."""

import time
from collections.abc import Callable
from threading import Thread

import psycopg
import pytest
from django.db import connection
from rest_framework.test import APIClient

from tests.executions.flows import result, run, start
from tests.waiting import wait_until
from tests.witness import Witness

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.faults]
AWAY_SECONDS = 4.0


def go_away() -> None:
    """As a restart of PostgreSQL looks to its clients: connections break, and new ones are refused for a while."""
    settings = connection.settings_dict
    name = settings["NAME"]
    connection.close()
    parameters = {"host": settings["HOST"], "port": settings["PORT"] or 5432, "user": settings["USER"]}
    with psycopg.connect(
        dbname="postgres", password=settings["PASSWORD"], autocommit=True, **parameters
    ) as maintenance:
        maintenance.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        try:
            maintenance.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
            time.sleep(AWAY_SECONDS)
        finally:
            maintenance.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')


@pytest.mark.skipif("connection.vendor != 'postgresql'", reason="needs PostgreSQL")
def test_executions_go_on_after_the_database_was_away(
    api: APIClient, drain: Callable[[], None], world: Witness
) -> None:
    api.put("/api/v1/secrets/TOKEN", {"value": "hunter2-canary"}, format="json")
    child = start(api, f'  - {{name: fetch, handler: blox.http, config: {{url: "{world.url}/slow?s=2"}}}}\n')
    calls = start(api, f"  - {{name: call, handler: blox.call_flow, config: {{flow: {child}}}}}\n")
    posts = start(
        api,
        f"""\
  - {{name: pay, handler: blox.http, config: {{method: POST, url: "{world.url}/slow?s=2"}}, peers: [count]}}
  - {{name: count, handler: blox.key_value, config: {{op: increment, key: n}}, peers: [tell]}}
  - name: tell
    handler: blox.http
    config: {{method: POST, url: "{world.url}/echo", headers: {{X-Token: "{{{{ secrets.TOKEN }}}}"}}}}
    peers: [done]
  - {{name: done, handler: blox.transform, config: {{value: "{{{{ steps.count }}}}"}}}}
""",
    )
    callers = [run(api, calls) for _ in range(5)]
    payers = [run(api, posts) for _ in range(5)]
    worker = Thread(target=drain)
    worker.start()
    wait_until(lambda: len(world.calls) >= 5)
    go_away()
    worker.join()
    drain()
    assert sorted(result(payer)[1] for payer in payers) == [1, 2, 3, 4, 5]
    assert [result(caller)[0] for caller in callers] == ["success"] * 5
    assert max(world.by_key().values()) == 1
