"""What a process does that meets another schema than its own."""

import subprocess
import sys
from uuid import uuid4

import pytest
from django.db import connection
from django.db.migrations.recorder import MigrationRecorder
from rest_framework.test import APIClient

from bloxserver.core.database import missing_migrations
from tests.up_server import REPOSITORY, UpServer


@pytest.mark.django_db
def test_what_the_database_has_not_had_is_named() -> None:
    MigrationRecorder(connection).record_unapplied("sessions", "0001_initial")
    assert missing_migrations() == ["sessions.0001_initial"]


@pytest.mark.django_db
def test_what_the_database_has_had_of_a_later_release_does_not_count() -> None:
    MigrationRecorder(connection).record_applied("sessions", "9999_later")
    assert missing_migrations() == []


@pytest.mark.django_db
def test_a_call_that_needs_a_column_to_come_is_told_to_come_back_later(api: APIClient) -> None:
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE flows_flow RENAME COLUMN name TO not_yet")
    answer = api.get(f"/api/v1/flows/{uuid4()}")
    assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
    assert int(answer["Retry-After"]) > 0


@pytest.mark.once
@pytest.mark.processes
@pytest.mark.parametrize("name", ["worker", "clock"])
def test_a_worker_or_clock_waits_for_the_migrations_and_then_begins(new_server: UpServer, name: str) -> None:
    new_server.start(sys.executable, "manage.py", "start", name)
    new_server.wait_for(lambda: "The database lacks" in new_server.output)
    assert "sessions.0001_initial" in new_server.output
    assert len(new_server.pids()) == 1  # no pool, no beat
    migrate = [sys.executable, "manage.py", "migrate", "--verbosity=0"]
    subprocess.run(migrate, cwd=REPOSITORY, env=new_server.environment, check=True)
    new_server.wait_for(lambda: len(new_server.pids()) == 2)
    assert "Traceback" not in new_server.output


@pytest.mark.once
@pytest.mark.processes
def test_a_worker_waits_for_a_database_that_does_not_answer(new_server: UpServer) -> None:
    new_server.environment["DATABASE_URL"] = "postgres://blox@127.0.0.1:9/blox"
    new_server.start(sys.executable, "manage.py", "start", "worker")
    new_server.wait_for(lambda: "The database does not answer" in new_server.output)
    assert len(new_server.pids()) == 1
    assert "Traceback" not in new_server.output
