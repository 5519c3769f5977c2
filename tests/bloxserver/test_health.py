"""Health and metrics, as a probe or a scraper sees them."""

import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import connection, connections
from django.test import Client
from django.utils import timezone

from accounts.models import User
from bloxserver import health
from bloxserver.celery import app
from executions.models import State
from tests.executions.factories import make_execution, make_flow


@pytest.fixture
def client() -> Client:
    return Client()


@pytest.fixture
def broker_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real client, and no Redis where it looks for one."""

    def connect(**options: Any) -> Any:
        return app.connection("redis://127.0.0.1:9/0", transport="redis", **options)

    monkeypatch.setattr(app, "connection_for_write", connect)


@pytest.fixture
def database_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every new connection is looked for where there is no database; the checks make one each time."""
    monkeypatch.setitem(connections.settings["default"], "PORT", "9")
    if connection.vendor == "sqlite":
        monkeypatch.setitem(connections.settings["default"], "NAME", "/nowhere/at/all.sqlite3")


def parts(answer: Any) -> dict[str, str]:
    return {name: part["status"] for name, part in answer.json()["parts"].items()}


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("path", ["/health", "/health/ready"])
def test_a_server_with_all_its_parts_is_ready_and_names_each(client: Client, path: str) -> None:
    answer = client.get(path)
    assert (answer.status_code, answer.json()["status"]) == (200, "ok")
    assert parts(answer) == {"database": "ok", "migrations": "ok", "broker": "ok"}


@pytest.mark.django_db(transaction=True)
def test_a_broker_that_is_away_degrades_and_no_more(client: Client, broker_away: None) -> None:
    answer = client.get("/health/ready")
    assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
    assert parts(answer) == {"database": "ok", "migrations": "ok", "broker": "down"}


@pytest.mark.django_db(transaction=True)
def test_a_database_that_is_away_is_503(client: Client, database_away: None) -> None:
    answer = client.get("/health/ready")
    assert (answer.status_code, answer.json()["status"]) == (503, "down")
    assert parts(answer) == {"database": "down", "migrations": "down", "broker": "ok"}


@pytest.mark.django_db(transaction=True)
def test_a_migration_that_is_not_applied_is_503_and_says_what_to_run(client: Client) -> None:
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM django_migrations WHERE app = 'sessions'")
    try:
        answer = client.get("/health/ready")
    finally:
        with connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO django_migrations (app, name, applied) VALUES ('sessions', '0001_initial', CURRENT_TIMESTAMP)"
            )
    assert answer.status_code == 503
    assert parts(answer) == {"database": "ok", "migrations": "down", "broker": "ok"}
    assert "manage.py migrate" in answer.json()["parts"]["migrations"]["message"]


@pytest.mark.django_db(transaction=True)
def test_a_part_that_hangs_is_down_after_its_time(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "CHECK_SECONDS", 0.2)
    monkeypatch.setitem(health.CHECKS, "broker", lambda: time.sleep(1))
    answer = client.get("/health/ready")
    assert answer.json()["parts"]["broker"] == {"status": "down", "message": "No answer within 0.2 s."}


def test_being_alive_asks_nothing_of_the_database(client: Client, database_away: None) -> None:
    answer = client.get("/health/live")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


def test_a_probe_may_come_by_address_and_over_plain_http(client: Client, settings: Any) -> None:
    settings.ALLOWED_HOSTS = ["flows.example.com"]
    settings.SECURE_SSL_REDIRECT = True
    assert client.get("/health/live", headers={"host": "10.1.2.3"}).status_code == 200


@pytest.mark.parametrize("path", ["/health", "/health/live", "/metrics"])
def test_a_probe_is_a_get(client: Client, path: str) -> None:
    assert client.post(path).status_code == 405


# Metrics -------------------------------------------------------------------------------------------------------------
def sample(text: str, name: str) -> float:
    return next(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name + " "))


@pytest.mark.django_db
def test_metrics_count_what_waits_what_is_worked_on_and_whose_lease_has_expired(client: Client, alice: User) -> None:
    now = timezone.now()
    flow = make_flow(alice)
    states = {"queued": State.QUEUED, "parked": State.PARKED, "working": State.WORKING}
    for state, seconds in [("queued", -100), ("queued", 100), ("parked", 5), ("working", 15), ("working", -40)]:
        moment = now + timedelta(seconds=seconds)
        times: dict[str, Any] = {"lease_until": moment} if state == "working" else {"due_at": moment}
        make_execution(flow, status="running", state=states[state], **times)
    make_execution(flow, status="success")
    text = client.get("/metrics").content.decode()
    assert sample(text, 'bloxserver_executions{state="queued"}') == 2
    assert sample(text, 'bloxserver_executions{state="working"}') == 2
    assert sample(text, 'bloxserver_executions{state="parked"}') == 1
    assert sample(text, "bloxserver_leases_expired") == 1
    assert 100 <= sample(text, "bloxserver_queue_oldest_seconds") < 130
    assert 40 <= sample(text, "bloxserver_lease_overrun_seconds") < 70


@pytest.mark.django_db
def test_metrics_of_an_empty_server_are_zero(client: Client) -> None:
    text = client.get("/metrics").content.decode()
    assert sample(text, 'bloxserver_executions{state="queued"}') == 0
    assert sample(text, "bloxserver_queue_oldest_seconds") == 0
    assert sample(text, 'bloxserver_flows{status="running"}') == 0


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("address", "headers", "status"),
    [
        ("127.0.0.1", {}, 200),
        ("::1", {}, 200),
        ("10.0.0.5", {}, 401),
        ("127.0.0.1", {"X-Forwarded-For": "10.0.0.5"}, 401),
        ("127.0.0.1", {"Forwarded": "for=10.0.0.5"}, 401),
        ("10.0.0.5", {"X-Forwarded-For": "127.0.0.1"}, 401),
    ],
)
def test_without_a_token_metrics_are_for_this_machine_alone(
    client: Client, address: str, headers: dict[str, str], status: int
) -> None:
    assert client.get("/metrics", REMOTE_ADDR=address, headers=headers).status_code == status


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("authorization", "status"), [("Bearer scrape-me", 200), ("Bearer scrape-mé", 401), ("scrape-me", 401), ("", 401)]
)
def test_with_a_token_metrics_are_for_who_shows_it(
    client: Client, settings: Any, authorization: str, status: int
) -> None:
    settings.BLOX_METRICS_TOKEN = "scrape-me"
    answer = client.get("/metrics", headers={"Authorization": authorization})
    assert answer.status_code == status
    assert (b"bloxserver_executions" in answer.content) is (status == 200)


def test_importing_the_server_asks_nothing_of_the_database() -> None:
    """So that `migrate` and `collectstatic` run before there is one."""
    script = "import django; django.setup(); import bloxserver.health, bloxserver.metrics, bloxserver.urls"
    environment = {
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "BLOX_TEST_DATABASE_URL": "postgres://none@127.0.0.1:9/none",
    }
    subprocess.run([sys.executable, "-c", script], check=True, env=environment, cwd=Path(__file__).parents[2])
