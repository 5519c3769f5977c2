"""`manage.py demo`."""

import json
import re
import stat
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import Client

from accounts.models import AccessToken, User
from executions.models import Execution
from flows.models import Flow
from flows.services import stop_flow
from triggers.models import Trigger

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _own_folder(settings: Any, tmp_path: Path) -> None:
    settings.VAR_DIR = tmp_path
    settings.PORT = 8123


def demo(*options: str) -> str:
    out = StringIO()
    call_command("demo", *options, stdout=out)
    return out.getvalue()


def found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    assert match, text
    return match.group(1)


def test_what_it_prints_works(client: Client, drain: Any) -> None:
    text = demo()
    assert "http://127.0.0.1:8123/admin/" in text
    path, body = found(r"8123(/webhooks/[^']+)'", text), found(r"-d '([^']+)'", text)
    assert client.post(path, body, content_type="application/json").status_code == 202
    drain()
    executions = found(r"8123(/api/v1/flows/[^/]+/executions)/", text)
    token = found(r"token +(\S+)", text)
    bearer = {"Authorization": f"Bearer {token}"}
    [latest] = client.get(executions, {"pageSize": 1}, headers=bearer).json()["items"]
    execution = client.get(f"{executions}/{latest['id']}", headers=bearer).json()
    assert (execution["status"], json.loads(execution["outputPayload"])) == (
        "success",
        {"action": "call", "message": "Call Ada: the order is over 100."},
    )
    assert len(client.get(f"{executions}/{latest['id']}/steps", headers=bearer).json()["items"]) == 3


def test_its_operator_can_sign_in_to_the_admin(client: Client) -> None:
    password = found(r"password +(\S+)", demo())
    form = {"username": "demo@bloxserver.local", "password": password}
    assert client.post("/admin/login/?next=/admin/", form).status_code == 302
    assert client.get("/admin/").status_code == 200


def test_a_second_run_prints_the_same_and_is_quick(django_assert_max_num_queries: Any, tmp_path: Path) -> None:
    first = demo()
    with django_assert_max_num_queries(3):
        assert demo() == first
    assert (User.objects.count(), Flow.objects.count(), Trigger.objects.count(), AccessToken.objects.count()) == (
        1,
        1,
        1,
        1,
    )
    assert stat.S_IMODE((tmp_path / "demo.json").stat().st_mode) == 0o600


def test_what_is_gone_is_made_again() -> None:
    demo("--quiet")
    AccessToken.objects.all().delete()
    Trigger.objects.all().delete()
    stop_flow(flow=Flow.objects.get())
    text = demo()
    assert AccessToken.objects.count() == 1
    assert Flow.objects.get().status == "running"
    assert found(r"/webhooks/([^']+)'", text) == Trigger.objects.get().webhook_token


def test_quiet_prints_nothing() -> None:
    assert demo("--quiet") == ""
    assert not Execution.objects.exists()


def test_it_makes_no_operator_on_a_server_that_others_reach(settings: Any) -> None:
    settings.BLOX_PUBLIC_URL = "https://flows.example.com"
    with pytest.raises(CommandError, match=r"flows\.example\.com"):
        demo()
    assert not User.objects.exists()
