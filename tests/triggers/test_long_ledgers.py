"""Ledgers that are too long to be deleted, counted or leafed through in one go."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone
from rest_framework.test import APIClient

from bloxserver.api import long_lists
from executions import history
from flows.models import Flow
from tests.triggers.conftest import path_of, post
from triggers.models import Delivery, Moment, Trigger
from triggers.services import ledgers, prune_ledgers

NOON = timezone.now().replace(microsecond=0) - timedelta(days=1)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def schedule(make_trigger: Callable[..., Trigger]) -> Trigger:
    return make_trigger("schedule", cron="0 0 1 1 *")


def fill(trigger: Trigger, *, rows: int) -> None:
    if trigger.type == "schedule":
        Moment.objects.bulk_create(
            Moment(trigger=trigger, moment=NOON + number * MINUTE, outcome="missed", lateness=number)
            for number in range(rows)
        )
    else:  # two come at each moment
        Delivery.objects.bulk_create(
            Delivery(
                trigger=trigger, received_at=NOON + number // 2 * MINUTE, verdict="invalid", method="POST", size=number
            )
            for number in range(rows)
        )


def url_of(trigger: Trigger, ledger: str = "") -> str:
    return f"/api/v1/flows/{trigger.flow_id}/triggers/{trigger.pk}{ledger}"


def test_a_trigger_with_short_ledgers_is_deleted_at_once(api: APIClient, webhook: Trigger) -> None:
    fill(webhook, rows=3)
    assert api.delete(url_of(webhook)).status_code == 204
    assert not Trigger.with_deleted.exists() and not Delivery.objects.exists()


@pytest.mark.parametrize("type", ["webhook", "schedule"])
def test_a_trigger_with_a_long_ledger_is_gone_at_once_and_cleared_away_later(
    api: APIClient,
    caller: Client,
    admin_client: Client,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    type: str,
) -> None:
    monkeypatch.setattr(ledgers, "ERASED_ROWS", 2)
    trigger: Trigger = request.getfixturevalue(type)
    fill(trigger, rows=5)

    assert api.delete(url_of(trigger)).status_code == 204

    assert Delivery.objects.count() + Moment.objects.count() == 3  # a batch went, the rest waits
    for path in ("", "/deliveries", "/moments"):
        assert api.get(url_of(trigger, path)).status_code == 404
    assert api.get(f"/api/v1/flows/{trigger.flow_id}/triggers").json()["total"] == 0
    if type == "webhook":
        assert post(caller, trigger, "{}").status_code == 404
        assert caller.get(path_of(trigger) + "/test").status_code == 404
    for model in ("trigger", "delivery", "moment"):
        assert "/change/" not in admin_client.get(f"/admin/triggers/{model}/?q={trigger.pk}").content.decode()

    for left in (1, 0):
        prune_ledgers(timezone.now())
        assert Delivery.objects.count() + Moment.objects.count() == left
    assert not Trigger.with_deleted.exists()


def test_a_deleted_schedule_never_fires_and_frees_its_place(
    api: APIClient, make_trigger: Callable[..., Trigger], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledgers, "ERASED_ROWS", 1)
    trigger = make_trigger("schedule", cron="* * * * *")
    fill(trigger, rows=3)
    api.delete(url_of(trigger))
    flow = f"/api/v1/flows/{trigger.flow_id}"
    for verb in ("stop", "start"):  # which would arm it again
        assert api.post(f"{flow}/{verb}").status_code == 200
    buried = Trigger.with_deleted.get()
    assert (buried.enabled, buried.next_fire_at, buried.next_moment) == (False, None, None)
    assert api.get(f"{flow}/export").json()["triggers"] == []


def test_a_flow_with_a_long_ledger_is_gone_at_once_and_cleared_away_later(
    api: APIClient, flow: Flow, webhook: Trigger, schedule: Trigger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledgers, "ERASED_ROWS", 2)
    fill(webhook, rows=5)
    fill(schedule, rows=5)

    assert api.delete(f"/api/v1/flows/{flow.pk}").status_code == 204

    assert Delivery.objects.count() + Moment.objects.count() == 8
    assert api.get(f"/api/v1/flows/{flow.pk}").status_code == 404
    assert not Trigger.objects.exists() and not Flow.objects.exists()

    pruned = history.prune_history(now=timezone.now(), seconds=None)

    assert pruned.flows == 1
    for rows in (Flow.with_deleted, Trigger.with_deleted, Delivery.objects, Moment.objects):
        assert not rows.exists()


@pytest.mark.parametrize(("type", "ledger"), [("webhook", "/deliveries"), ("schedule", "/moments")])
def test_a_cursor_goes_through_all_of_a_ledger_once_whatever_comes_meanwhile(
    api: APIClient, request: pytest.FixtureRequest, type: str, ledger: str
) -> None:
    trigger: Trigger = request.getfixturevalue(type)
    fill(trigger, rows=7)
    all_of_it = [row["id"] for row in page(api, trigger, ledger)["items"]]
    seen: list[str] = []
    answer = page(api, trigger, ledger, pageSize=3)
    while True:
        seen += [row["id"] for row in answer["items"]]
        if not answer["hasMore"]:
            break
        add_newer(trigger)
        answer = page(api, trigger, ledger, pageSize=3, cursor=answer["nextCursor"])
    assert answer["nextCursor"] is None
    assert seen == all_of_it
    assert len(seen) == 7


def test_a_cursor_that_is_none_is_refused(api: APIClient, webhook: Trigger) -> None:
    answer = api.get(url_of(webhook, "/deliveries"), {"cursor": "rubbish"})
    assert (answer.status_code, list(answer.json()["details"])) == (400, ["cursor"])


@pytest.mark.parametrize(("type", "ledger"), [("webhook", "/deliveries"), ("schedule", "/moments")])
def test_a_total_is_counted_up_to_a_bound_and_says_so(
    api: APIClient, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, type: str, ledger: str
) -> None:
    monkeypatch.setattr(long_lists, "COUNTED", 4)
    trigger: Trigger = request.getfixturevalue(type)
    fill(trigger, rows=4)
    assert (answer := page(api, trigger, ledger))["total"] == 4 and answer["totalIsExact"]
    add_newer(trigger)
    answer = page(api, trigger, ledger, pageSize=2, page=2)
    assert (answer["total"], answer["totalIsExact"], answer["hasMore"], len(answer["items"])) == (4, False, True, 2)


def page(api: APIClient, trigger: Trigger, ledger: str, **query: Any) -> dict[str, Any]:
    answer = api.get(url_of(trigger, ledger), query)
    assert answer.status_code == 200, answer.content
    body: dict[str, Any] = answer.json()
    return body


def add_newer(trigger: Trigger) -> None:
    now = timezone.now()
    if trigger.type == "schedule":
        Moment.objects.create(trigger=trigger, moment=now, outcome="missed", lateness=0)
    else:
        Delivery.objects.create(trigger=trigger, received_at=now, verdict="invalid", method="POST", size=0)
