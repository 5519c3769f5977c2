"""The operators' view of the ledgers."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from accounts.models import User
from executions.models import Execution
from flows.models import Flow
from flows.services import start_flow, stop_flow
from tests.triggers.conftest import post
from triggers.models import Delivery, Moment, Trigger
from triggers.services import tick

DELIVERIES = "admin:triggers_delivery_changelist"
MOMENTS = "admin:triggers_moment_changelist"


def page(client: Client, name: str, *args: object, **query: str) -> str:
    answer = client.get(reverse(name, args=args), query)
    assert answer.status_code == 200
    return answer.content.decode()


def replay(admin_client: Client, *deliveries: Delivery) -> str:
    data = {"action": "replay", "_selected_action": [str(delivery.pk) for delivery in deliveries]}
    return admin_client.post(reverse(DELIVERIES), data, follow=True).content.decode()


def test_deliveries_are_shown_and_never_changed(admin_client: Client, caller: Client, webhook: Trigger) -> None:
    post(caller, webhook, "1", idempotency_key="key-1")
    row = Delivery.objects.get()
    assert f"{str(row.execution_id)[-8:]}" in page(admin_client, DELIVERIES)
    url = reverse("admin:triggers_delivery_change", args=[row.pk])
    assert "key-1" in admin_client.get(url).content.decode()
    assert admin_client.post(url, {"key": "x"}).status_code == 403
    assert admin_client.get(reverse("admin:triggers_delivery_add")).status_code == 403
    assert admin_client.get(reverse("admin:triggers_delivery_delete", args=[row.pk])).status_code == 403


def test_what_was_refused_is_replayed_and_what_cannot_be_says_why(
    admin_client: Client, caller: Client, flow: Flow, webhook: Trigger, alice: User
) -> None:
    post(caller, webhook, "{")
    stop_flow(flow=flow)
    post(caller, webhook, '{"kept": "<b>"}')
    kept, broken = Delivery.objects.get(verdict="flow_stopped"), Delivery.objects.get(verdict="invalid")
    shown = page(admin_client, "admin:triggers_delivery_change", kept.pk)
    assert "&lt;b&gt;" in shown
    assert 'value="replay"' in shown
    assert 'value="replay"' not in page(admin_client, "admin:triggers_delivery_change", broken.pk)
    assert "start it first" in replay(admin_client, kept)
    start_flow(flow=Flow.objects.get(), by=alice)
    told = replay(admin_client, kept, broken)
    assert "Replayed as execution" in told
    assert "could not be read as a payload" in told
    kept.refresh_from_db()
    assert kept.execution_id == Execution.objects.get().pk


@pytest.mark.parametrize("name", [DELIVERIES, MOMENTS])
def test_the_lists_ask_no_query_a_row(
    admin_client: Client, caller: Client, webhook: Trigger, make_trigger: Callable[..., Trigger], name: str
) -> None:
    schedule = make_trigger("schedule", cron="* * * * *", catchUp="all")

    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            page(admin_client, name)
        return len(captured)

    post(caller, webhook, "{")
    first = schedule.next_fire_at
    assert first is not None
    tick(now=first)
    few = queries()
    for _ in range(4):
        post(caller, webhook, "{")
    tick(now=first + timedelta(minutes=4))
    assert queries() == few


def test_deliveries_are_found_by_what_one_knows_of_them(
    admin_client: Client, caller: Client, flow: Flow, webhook: Trigger
) -> None:
    execution_id = post(caller, webhook, "1", x_github_delivery="d-1").json()["executionId"]
    row = Delivery.objects.get()
    known = ["127.0.0.1", "github:d-1", execution_id, str(row.pk), str(webhook.pk), webhook.name, "alice@shop"]
    for text in known:
        assert "1 delivery" in page(admin_client, DELIVERIES, q=text), text
    assert "0 deliveries" in page(admin_client, DELIVERIES, q="nothing-like-it")
    assert "0 deliveries" in page(admin_client, DELIVERIES, verdict__exact="invalid")


def test_a_triggers_page_leads_to_its_ledger(
    admin_client: Client, caller: Client, webhook: Trigger, make_trigger: Callable[..., Trigger]
) -> None:
    schedule = make_trigger("schedule", cron="@daily")
    for trigger, ledger in ((webhook, "delivery"), (schedule, "moment")):
        shown = page(admin_client, "admin:triggers_trigger_change", trigger.pk)
        assert f"/admin/triggers/{ledger}/?q={trigger.pk}" in shown


def test_moments_are_shown_with_their_reason(admin_client: Client, make_trigger: Callable[..., Trigger]) -> None:
    trigger = make_trigger("schedule", cron="* * * * *")
    Moment.objects.create(
        trigger=trigger, moment=timezone.now(), outcome="missed", reason="It was missed.", lateness=90.0
    )
    assert "It was missed." in page(admin_client, MOMENTS)
    assert "1 moment" in page(admin_client, MOMENTS, q=trigger.name)
    detail = reverse("admin:triggers_moment_change", args=[Moment.objects.get().pk])
    assert admin_client.post(detail, {"outcome": "fired"}).status_code == 403
