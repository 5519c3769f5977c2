"""A flow's triggers over the API."""

from collections.abc import Callable
from datetime import datetime
from itertools import pairwise
from typing import Any
from uuid import uuid4

import pytest
from django.test import Client
from rest_framework.test import APIClient

from accounts.models import Tier, User
from executions.models import Execution
from flows.models import Flow
from flows.services import stop_flow
from tests.triggers.conftest import path_of, payload_of
from triggers.models import Trigger

NOT_FOUND = b'{"code":"not_found","message":"Not found.","details":null}'


def triggers_url(flow: Flow, trigger: Trigger | str = "", verb: str = "") -> str:
    parts = ["/api/v1/flows", flow.pk, "triggers", getattr(trigger, "pk", trigger), verb]
    return "/".join(str(part) for part in parts if part)


def create(api: APIClient, flow: Flow, kind: str, **config: Any) -> Any:
    return api.post(triggers_url(flow), {"type": kind, "name": "New", "config": config})


def test_a_webhook_gets_a_url_of_its_own(api: APIClient, flow: Flow, settings: Any, caller: Client) -> None:
    settings.BLOX_PUBLIC_URL = "https://blox.example"
    answer = create(api, flow, "webhook", type="webhook", methods=["POST", "PUT"])
    assert answer.status_code == 201
    trigger = answer.json()
    assert trigger == {
        "id": trigger["id"],
        "flowId": str(flow.pk),
        "type": "webhook",
        "name": "New",
        "config": {"type": "webhook", "methods": ["POST", "PUT"]},
        "enabled": True,
        "webhookToken": trigger["webhookToken"],
        "webhookUrl": f"https://blox.example/webhooks/{trigger['webhookToken']}",
        "nextFireAt": None,
        "nextFirings": None,
        "createdAt": trigger["createdAt"],
    }
    assert len(trigger["webhookToken"]) == 43
    assert caller.post(f"/webhooks/{trigger['webhookToken']}").status_code == 202
    stored = Trigger.objects.get(pk=trigger["id"])
    assert trigger["webhookToken"] not in (stored.token_hash or "") + stored.token_encrypted


def test_a_schedule_shows_its_next_five_firings(api: APIClient, flow: Flow) -> None:
    trigger = create(api, flow, "schedule", cron="0 9 * * *", timezone="Europe/Berlin").json()
    firings = [datetime.fromisoformat(moment) for moment in trigger["nextFirings"]]
    assert len(firings) == 5
    assert trigger["nextFireAt"] == trigger["nextFirings"][0]
    assert {(later - earlier).days for earlier, later in pairwise(firings)} <= {0, 1}


def test_a_schedule_of_a_stopped_flow_is_not_armed_but_previewed(api: APIClient, flow: Flow) -> None:
    stop_flow(flow=flow)
    trigger = create(api, flow, "schedule", cron="0 9 * * *").json()
    assert trigger["nextFireAt"] is None
    assert len(trigger["nextFirings"]) == 5


@pytest.mark.parametrize(
    ("type", "config", "part"),
    [
        ("webhook", {"method": "POST"}, "method: Unknown key. Did you mean methods?"),
        ("webhook", {"signatur": {}}, "signatur: Unknown key. Did you mean signature?"),
        ("webhook", {"signature": {"scheme": "github"}}, "signature.secret: Field required"),
        ("webhook", {"signature": {"scheme": "md5", "secret": "HOOK"}}, "signature.scheme: Input should be 'github'"),
        ("webhook", {"signature": {"scheme": "github", "secret": "whsec_a+b="}}, "the name of a stored secret"),
        (
            "webhook",
            {"signature": {"scheme": "github", "secret": "HOOK", "sceme": 1}},
            "signature.sceme: Unknown key. Did",
        ),
        (
            "webhook",
            {"signature": {"scheme": "github", "secret": "HOOK"}, "methods": ["POST", "GET"]},
            "signature: A signature covers a body, so GET cannot be signed",
        ),
        ("webhook", {"methods": []}, "methods"),
        ("webhook", {"methods": ["TRACE"]}, "methods.0"),
        ("webhook", {"methods": "POST"}, "methods"),
        ("webhook", {"respond": "later"}, "respond"),
        ("webhook", {"wait": 0}, "wait"),
        ("webhook", {"wait": 61}, "wait"),
        ("webhook", {"wait": "5"}, "wait"),
        ("webhook", {"type": "schedule"}, "type"),
        ("schedule", {}, "cron"),
        ("schedule", {"cron": 5}, "cron"),
        ("schedule", {"cron": "0 0 30 2 *"}, "ever fires"),
        ("schedule", {"cron": "* * * * * *"}, "Seconds are not supported"),
        ("schedule", {"cron": "0 9 * * *", "timezone": "Europe/Berln"}, "Did you mean Europe/Berlin?"),
        ("schedule", {"cron": "0 9 * * *", "timezone": None}, "timezone"),
        ("schedule", {"cron": "0 9 * * *", "overlap": "queue "}, "overlap"),
        ("schedule", {"cron": "0 9 * * *", "catch_up": "all"}, "catch_up: Unknown key. Did you mean catchUp?"),
        ("schedule", {"cron": "0 9 * * *", "jitter": 3601}, "jitter"),
        ("schedule", {"cron": "0 9 * * *", "jitter": True}, "jitter"),
        ("manual", {"cron": "0 9 * * *"}, "cron: Unknown key."),
    ],
)
def test_a_config_that_is_not_valid_names_the_key(
    api: APIClient, flow: Flow, type: str, config: dict[str, Any], part: str
) -> None:
    answer = create(api, flow, type, **config)
    assert answer.status_code == 400
    error = answer.json()
    assert error["code"] == "validation_error"
    assert any(part in message for message in error["details"]["config"]), error
    assert not Trigger.objects.exists()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"type": "email"}, "type"),
        ({"type": None}, "type"),
        ({"name": ""}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"name": "a\x00b"}, None),  # no database can store it, so the whole body is refused
        ({"config": []}, "config"),
        ({"config": None}, "config"),
        ({"enabled": "perhaps"}, "enabled"),
    ],
)
def test_a_body_that_is_not_valid_names_the_field(
    api: APIClient, flow: Flow, change: dict[str, Any], field: str | None
) -> None:
    answer = api.post(triggers_url(flow), {"type": "manual", "name": "New", "config": {}, **change})
    assert answer.status_code == 400
    assert field is None or list(answer.json()["details"]) == [field]


def test_a_config_comes_back_key_for_key(api: APIClient, flow: Flow) -> None:
    config = {"catchUp": "all", "cron": "  0 9 * * *", "timezone": "UTC", "jitter": 5}
    created = create(api, flow, "schedule", **config).json()
    assert created["config"] == config
    assert api.get(triggers_url(flow, created["id"])).json()["config"] == config


def test_a_list_is_paged_and_searched(api: APIClient, flow: Flow, make_trigger: Callable[..., Trigger]) -> None:
    webhook, schedule = make_trigger("webhook"), make_trigger("schedule", cron="@daily")
    page = api.get(triggers_url(flow), {"pageSize": 1}).json()
    assert [item["id"] for item in page.pop("items")] == [str(webhook.pk)]
    assert page == {"total": 2, "page": 1, "pageSize": 1, "hasMore": True}
    found = api.get(triggers_url(flow), {"type": "schedule", "search": "SCHED"}).json()
    assert [item["id"] for item in found["items"]] == [str(schedule.pk)]


def test_the_tier_caps_the_triggers_of_a_flow(api: APIClient, flow: Flow, alice: User) -> None:
    User.objects.filter(pk=alice.pk).update(tier=Tier.FREE)
    assert [create(api, flow, "manual").status_code for _ in range(6)] == [201] * 5 + [402]
    error = create(api, flow, "manual").json()
    assert (error["code"], error["details"]) == ("trigger_limit_reached", {"limit": 5, "tier": "free"})
    assert Trigger.objects.count() == 5


def test_a_new_cron_moves_the_next_firing_and_a_new_name_does_not(
    api: APIClient, flow: Flow, make_trigger: Callable[..., Trigger]
) -> None:
    trigger = make_trigger("schedule", cron="0 0 1 1 *")
    Trigger.objects.filter(pk=trigger.pk).update(next_fire_at="2020-01-01T00:00Z", next_moment="2020-01-01T00:00Z")
    url = triggers_url(flow, trigger)
    renamed = api.patch(url, {"name": "Renamed", "config": {**trigger.config, "catchUp": "none"}}).json()
    assert (renamed["name"], renamed["nextFireAt"]) == ("Renamed", "2020-01-01T00:00:00Z")
    moved = api.patch(url, {"config": {"cron": "0 0 1 6 *"}}).json()
    assert moved["nextFireAt"].endswith("-06-01T00:00:00Z")
    assert moved["config"] == {"cron": "0 0 1 6 *"}


def test_a_disabled_schedule_is_not_armed_until_it_is_enabled(
    api: APIClient, flow: Flow, make_trigger: Callable[..., Trigger]
) -> None:
    url = triggers_url(flow, make_trigger("schedule", cron="@hourly"))
    assert api.patch(url, {"enabled": False}).json()["nextFireAt"] is None
    assert api.patch(url, {"enabled": True}).json()["nextFireAt"] is not None


def test_a_type_never_changes(api: APIClient, flow: Flow, webhook: Trigger) -> None:
    assert api.patch(triggers_url(flow, webhook), {"type": "webhook"}).status_code == 200
    answer = api.patch(triggers_url(flow, webhook), {"type": "manual"})
    assert answer.status_code == 400
    assert list(answer.json()["details"]) == ["type"]


def test_a_deleted_trigger_is_gone_and_its_executions_stay(
    api: APIClient, flow: Flow, webhook: Trigger, caller: Client
) -> None:
    execution_id = caller.post(path_of(webhook)).json()["executionId"]
    assert api.delete(triggers_url(flow, webhook)).status_code == 204
    assert api.get(triggers_url(flow, webhook)).status_code == 404
    assert caller.post(path_of(webhook)).status_code == 404
    execution = Execution.objects.get(pk=execution_id)
    assert (execution.trigger_id, execution.trigger_name) == (webhook.pk, webhook.name)


def test_a_new_token_ends_the_old_url(api: APIClient, flow: Flow, webhook: Trigger, caller: Client) -> None:
    old = path_of(webhook)
    answer = api.post(triggers_url(flow, webhook, "regenerate-token"))
    assert answer.status_code == 200
    assert caller.post(old).status_code == 404
    assert caller.post(f"/webhooks/{answer.json()['webhookToken']}").status_code == 202


def test_only_a_webhook_has_a_token_to_regenerate(
    api: APIClient, flow: Flow, make_trigger: Callable[..., Trigger]
) -> None:
    answer = api.post(triggers_url(flow, make_trigger("manual"), "regenerate-token"))
    assert (answer.status_code, answer.json()["code"]) == (409, "not_a_webhook")


@pytest.mark.parametrize("type", ["webhook", "schedule", "manual"])
def test_any_type_can_be_fired_now(api: APIClient, flow: Flow, make_trigger: Callable[..., Trigger], type: str) -> None:
    trigger = make_trigger(type, **({"cron": "@daily"} if type == "schedule" else {}))
    payload = {"userID": 1, "snake_key": None, "__typename": "é"}
    answer = api.post(triggers_url(flow, trigger, "fire"), {"payload": payload})
    assert answer.status_code == 201
    execution = answer.json()
    assert (execution["triggerType"], execution["triggerId"], execution["status"]) == (type, str(trigger.pk), "running")
    assert execution["inputPayload"] == '{"userID":1,"snake_key":null,"__typename":"é"}'


def test_a_schedule_fired_without_a_payload_gives_what_its_moments_give(
    api: APIClient, flow: Flow, make_trigger: Callable[..., Trigger]
) -> None:
    execution = api.post(triggers_url(flow, make_trigger("schedule", cron="@daily"), "fire")).json()
    assert payload_of(execution["id"]).startswith('{"scheduledFor":"20')


def test_what_is_disabled_or_of_a_stopped_flow_does_not_fire(
    api: APIClient, flow: Flow, make_trigger: Callable[..., Trigger]
) -> None:
    trigger = make_trigger("manual")
    api.patch(triggers_url(flow, trigger), {"enabled": False})
    disabled = api.post(triggers_url(flow, trigger, "fire"))
    api.patch(triggers_url(flow, trigger), {"enabled": True})
    stop_flow(flow=flow)
    stopped = api.post(triggers_url(flow, trigger, "fire"))
    assert (disabled.status_code, disabled.json()["code"]) == (409, "trigger_disabled")
    assert (stopped.status_code, stopped.json()["code"]) == (409, "flow_not_running")
    assert not Execution.objects.exists()


@pytest.mark.parametrize(
    ("method", "verb"), [("get", ""), ("patch", ""), ("delete", ""), ("post", "fire"), ("post", "regenerate-token")]
)
def test_a_stranger_is_told_what_is_told_of_an_unknown_id(
    bobs_api: APIClient, api: APIClient, flow: Flow, webhook: Trigger, method: str, verb: str
) -> None:
    hashed = webhook.token_hash
    unknown = getattr(api, method)(triggers_url(flow, str(uuid4()), verb), {})
    strange = getattr(bobs_api, method)(triggers_url(flow, webhook, verb), {})
    assert (unknown.status_code, strange.status_code) == (404, 404)
    assert unknown.content == strange.content == NOT_FOUND
    assert Trigger.objects.get(pk=webhook.pk).token_hash == hashed
    assert not Execution.objects.exists()


def test_a_stranger_neither_lists_nor_makes_triggers(bobs_api: APIClient, flow: Flow, webhook: Trigger) -> None:
    assert bobs_api.get(triggers_url(flow)).content == NOT_FOUND
    assert create(bobs_api, flow, "manual").content == NOT_FOUND
    assert Trigger.objects.count() == 1


def test_a_copy_of_a_flow_has_its_triggers_with_urls_of_their_own(
    api: APIClient, flow: Flow, webhook: Trigger, make_trigger: Callable[..., Trigger]
) -> None:
    make_trigger("schedule", cron="@daily", catchUp="none")
    exported = api.get(f"/api/v1/flows/{flow.pk}/export").json()["triggers"]
    assert exported == [
        {"type": "webhook", "name": "A webhook", "config": {}, "enabled": True},
        {"type": "schedule", "name": "A schedule", "config": {"cron": "@daily", "catchUp": "none"}, "enabled": True},
    ]
    copy = api.post(f"/api/v1/flows/{flow.pk}/duplicate").json()
    copied = api.get(f"/api/v1/flows/{copy['id']}/triggers").json()["items"]
    assert [trigger["config"] for trigger in copied] == [trigger["config"] for trigger in exported]
    assert copied[0]["webhookToken"] != webhook.webhook_token
    assert copied[1]["nextFireAt"] is None


@pytest.mark.parametrize("document", [{"type": "email", "config": {}}, {"type": "schedule", "config": {"cron": "x"}}])
def test_an_import_with_a_bad_trigger_stores_nothing(api: APIClient, alice: User, document: dict[str, Any]) -> None:
    answer = api.post("/api/v1/flows", {"name": "Imported", "triggers": [{"name": "Bad", **document}]})
    assert answer.status_code == 400
    assert not Flow.objects.exists()
