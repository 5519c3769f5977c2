"""The operators' view of triggers."""

from collections.abc import Callable

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from executions.models import Execution
from flows.models import Flow
from flows.services import stop_flow
from tests.triggers.conftest import path_of
from triggers.models import Delivery, Trigger

LIST = "admin:triggers_trigger_changelist"
DETAIL = "admin:triggers_trigger_change"


def act(admin_client: Client, action: str, *triggers: Trigger) -> str:
    data = {"action": action, "_selected_action": [str(trigger.pk) for trigger in triggers]}
    return admin_client.post(reverse(LIST), data, follow=True).content.decode()


def test_the_list_asks_no_query_a_row(admin_client: Client, make_trigger: Callable[..., Trigger]) -> None:
    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            assert admin_client.get(reverse(LIST)).status_code == 200
        return len(captured)

    make_trigger("webhook")
    few = queries()
    for _ in range(5):
        make_trigger("schedule", cron="@daily")
    assert queries() == few


def test_a_search_finds_by_name_flow_and_owner(admin_client: Client, webhook: Trigger, flow: Flow) -> None:
    for text in (webhook.name, flow.name, "alice@shop", str(webhook.pk)):
        assert webhook.name in admin_client.get(reverse(LIST), {"q": text}).content.decode()
    assert "0 triggers" in admin_client.get(reverse(LIST), {"q": "nothing-like-it"}).content.decode()


def test_the_url_is_on_the_triggers_page_only(admin_client: Client, webhook: Trigger) -> None:
    assert webhook.webhook_token
    assert webhook.webhook_token not in admin_client.get(reverse(LIST)).content.decode()
    assert webhook.webhook_token in admin_client.get(reverse(DETAIL, args=[webhook.pk])).content.decode()


def test_firing_makes_an_execution(admin_client: Client, webhook: Trigger) -> None:
    page = act(admin_client, "fire_now", webhook)
    execution = Execution.objects.get()
    assert execution.trigger_id == webhook.pk
    assert f'Fired execution <a href="/admin/executions/execution/{execution.pk}/change/">' in page


def test_what_cannot_be_fired_is_told_by_name(admin_client: Client, webhook: Trigger, flow: Flow) -> None:
    stop_flow(flow=flow)
    page = act(admin_client, "fire_now", webhook)
    assert webhook.name in page
    assert "start it first" in page
    assert not Execution.objects.exists()


def test_disabling_disarms_and_enabling_arms(admin_client: Client, make_trigger: Callable[..., Trigger]) -> None:
    trigger = make_trigger("schedule", cron="@daily")
    act(admin_client, "disable", trigger)
    trigger.refresh_from_db()
    assert (trigger.enabled, trigger.next_fire_at) == (False, None)
    act(admin_client, "enable", trigger)
    trigger.refresh_from_db()
    assert trigger.enabled
    assert trigger.next_fire_at is not None


def test_a_new_token_ends_the_old_url(admin_client: Client, caller: Client, webhook: Trigger) -> None:
    old = path_of(webhook)
    act(admin_client, "regenerate_tokens", webhook)
    assert caller.post(old).status_code == 404


def test_a_changed_config_is_checked_and_moves_the_next_firing(
    admin_client: Client, make_trigger: Callable[..., Trigger]
) -> None:
    trigger = make_trigger("schedule", cron="0 0 1 1 *")
    url, form = reverse(DETAIL, args=[trigger.pk]), {"name": "Renamed", "enabled": "on"}
    page = admin_client.post(url, {**form, "config": '{"cron": "0 0 30 2 *"}'}).content.decode()
    assert "ever fires" in page
    admin_client.post(url, {**form, "config": '{"cron": "0 0 1 6 *"}'})
    trigger.refresh_from_db()
    assert trigger.name == "Renamed"
    assert trigger.next_fire_at is not None
    assert trigger.next_fire_at.month == 6


def test_a_trigger_is_added_as_the_api_adds_it(admin_client: Client, flow: Flow, caller: Client) -> None:
    data = {"flow": str(flow.pk), "type": "webhook", "name": "From admin", "enabled": "on", "config": "{}"}
    answer = admin_client.post(reverse("admin:triggers_trigger_add"), data)
    assert answer.status_code == 302, answer.content
    assert caller.post(path_of(Trigger.objects.get())).status_code == 202


def test_a_trigger_is_deleted_with_its_ledger(admin_client: Client, caller: Client, webhook: Trigger) -> None:
    caller.post(path_of(webhook), headers={"Idempotency-Key": "k"})
    admin_client.post(reverse("admin:triggers_trigger_delete", args=[webhook.pk]), {"post": "yes"})
    assert not Trigger.objects.exists()
    assert not Delivery.objects.exists()
    assert Execution.objects.count() == 1


@pytest.mark.parametrize("page", [LIST, "admin:triggers_delivery_changelist", "admin:triggers_moment_changelist"])
def test_only_an_operator_comes_in(caller: Client, page: str, db: None) -> None:
    assert caller.get(reverse(page)).status_code == 302


@pytest.mark.parametrize("config", ["[]", "7", '"cron"', "{", '{"a": 1}'])
def test_a_config_of_another_form_is_refused_in_the_form(admin_client: Client, webhook: Trigger, config: str) -> None:
    form = {"name": "Renamed", "enabled": "on", "config": config}
    answer = admin_client.post(reverse(DETAIL, args=[webhook.pk]), form)
    assert answer.status_code == 200
    assert "Please correct the error below" in answer.content.decode()
    assert Trigger.objects.get().name == webhook.name
