"""Export, import and duplicate."""

from rest_framework.test import APIClient

from flows.models import Flow
from tests.flows.samples import CANVAS, SOUND, make_flow, start

FLOWS = "/api/v1/flows"


def test_an_export_makes_the_same_flow_again(api: APIClient, bobs_api: APIClient) -> None:
    flow = make_flow(api, description="d", canvasState=CANVAS)
    api.put(f"/api/v1/secrets/token?flow={flow['id']}", {"value": "canary-8173"})
    answer = api.get(f"{FLOWS}/{flow['id']}/export")
    document = answer.json()

    assert set(document) == {"name", "description", "organismYaml", "canvasState", "triggers"}
    assert b"canary-8173" not in answer.content
    again = bobs_api.post(FLOWS, document)
    assert again.status_code == 201, again.content
    assert bobs_api.get(f"{FLOWS}/{again.json()['id']}/export").json() == document
    assert again.json()["canvasState"] == CANVAS


TRIGGERS = [
    {"type": "webhook", "name": "Shop", "config": {"type": "webhook", "methods": ["POST"]}, "enabled": True},
    {"type": "schedule", "name": "Nightly", "config": {"type": "schedule", "cron": "0 3 * * *"}, "enabled": False},
]


def test_an_export_brings_its_triggers_with_new_tokens(api: APIClient, bobs_api: APIClient) -> None:
    flow = make_flow(api, triggers=TRIGGERS)
    (shop, _) = api.get(f"{FLOWS}/{flow['id']}/triggers").json()["items"]
    answer = api.get(f"{FLOWS}/{flow['id']}/export")
    assert [trigger["name"] for trigger in answer.json()["triggers"]] == ["Shop", "Nightly"]
    assert [trigger["enabled"] for trigger in answer.json()["triggers"]] == [True, False]
    assert shop["webhookToken"] not in answer.content.decode()

    again = bobs_api.post(FLOWS, answer.json()).json()
    assert bobs_api.get(f"{FLOWS}/{again['id']}/export").json() == answer.json()
    (copied, _) = bobs_api.get(f"{FLOWS}/{again['id']}/triggers").json()["items"]
    assert copied["webhookToken"] and copied["webhookToken"] != shop["webhookToken"]


def test_an_import_with_a_bad_trigger_stores_nothing(api: APIClient) -> None:
    bad = {"type": "schedule", "name": "Never", "config": {"type": "schedule", "cron": "0 0 30 2 *"}}
    answer = api.post(FLOWS, {"name": "x", "triggers": [*TRIGGERS, bad]})

    assert answer.status_code == 400, answer.content
    assert "triggers" in str(answer.json()["details"]) or "cron" in answer.json()["message"]
    assert Flow.objects.count() == 0


def test_a_duplicate_is_a_stopped_copy_with_a_name_of_its_own(api: APIClient) -> None:
    flow = make_flow(api, name="n" * 100, canvasState=CANVAS, description="d")
    start(api, flow)
    api.put(f"/api/v1/variables/city?flow={flow['id']}", {"value": "Paris"})
    api.put(f"/api/v1/secrets/token?flow={flow['id']}", {"value": "t"})

    first = api.post(f"{FLOWS}/{flow['id']}/duplicate")
    second = api.post(f"{FLOWS}/{flow['id']}/duplicate").json()
    named = api.post(f"{FLOWS}/{flow['id']}/duplicate", {"name": "Mine"}).json()

    assert first.status_code == 201
    copy = first.json()
    assert copy["id"] != flow["id"]
    assert (copy["name"], second["name"], named["name"]) == ("n" * 93 + " (copy)", "n" * 91 + " (copy 2)", "Mine")
    assert (copy["status"], copy["version"], copy["containerId"]) == ("stopped", None, None)
    assert (copy["organismYaml"], copy["canvasState"], copy["description"]) == (SOUND, CANVAS, "d")
    assert api.get(f"/api/v1/variables/city?flow={copy['id']}").json()["value"] == "Paris"
    assert api.get(f"/api/v1/secrets/token?flow={copy['id']}").status_code == 200
