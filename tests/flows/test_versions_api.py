"""Start, stop and versions: what is deployed, and what it was before."""

from typing import Any

import pytest
from rest_framework.test import APIClient

from accounts.models import User
from flows.models import Flow, FlowStatus, FlowVersion
from flows.organism import OrganismInvalid
from flows.services import draft_version, fail_flow, finish_stop, load_organism
from flows.signals import flow_started, flow_stopped
from tests.flows.samples import BROKEN, CANVAS, CHANGED, SOUND, make_flow, start

FLOWS = "/api/v1/flows"


def test_start_freezes_the_yaml_as_the_next_version(api: APIClient, alice: User) -> None:
    flow = make_flow(api, canvasState=CANVAS)

    running = start(api, flow)

    assert (running["status"], running["version"], running["hasUndeployedChanges"]) == ("running", 1, False)
    assert running["containerId"]
    api.patch(f"{FLOWS}/{flow['id']}", {"organismYaml": CHANGED, "canvasState": None})
    version = api.get(f"{FLOWS}/{flow['id']}/versions/1").json()
    assert (version["organismYaml"], version["canvasState"]) == (SOUND, CANVAS)
    assert (version["number"], version["deployed"], version["createdBy"]) == (1, True, str(alice.pk))


def test_start_of_a_running_flow_redeploys_it(api: APIClient) -> None:
    flow = make_flow(api)
    first = start(api, flow)
    edited = api.patch(f"{FLOWS}/{flow['id']}", {"organismYaml": CHANGED}).json()
    assert (edited["status"], edited["version"], edited["hasUndeployedChanges"]) == ("running", 1, True)

    second = start(api, flow)

    assert (second["status"], second["version"], second["hasUndeployedChanges"]) == ("running", 2, False)
    assert second["containerId"] != first["containerId"]


def test_start_without_changes_deploys_the_same_version_anew(api: APIClient) -> None:
    flow = make_flow(api)
    first, second = start(api, flow), start(api, flow)

    assert (first["version"], second["version"]) == (1, 1)
    assert first["containerId"] != second["containerId"]
    assert FlowVersion.objects.count() == 1


def test_a_moved_canvas_makes_a_version_but_is_no_undeployed_change(api: APIClient) -> None:
    flow = make_flow(api)
    start(api, flow)
    moved = api.patch(f"{FLOWS}/{flow['id']}", {"canvasState": CANVAS}).json()
    assert moved["hasUndeployedChanges"] is False

    assert start(api, flow)["version"] == 2
    assert api.get(f"{FLOWS}/{flow['id']}/versions/2").json()["canvasState"] == CANVAS


def test_versions_are_listed_newest_first_without_their_bodies(api: APIClient) -> None:
    flow = make_flow(api)
    start(api, flow)
    draft_version(Flow.objects.get())  # a test run's copy is not one of them
    api.patch(f"{FLOWS}/{flow['id']}", {"organismYaml": CHANGED})
    start(api, flow)

    page = api.get(f"{FLOWS}/{flow['id']}/versions").json()

    assert page["total"] == 2
    assert [(version["number"], version["deployed"]) for version in page["items"]] == [(2, True), (1, False)]
    assert set(page["items"][0]) == {"number", "createdAt", "createdBy", "deployed"}


def test_restore_copies_a_version_into_the_draft_and_deploys_nothing(api: APIClient) -> None:
    flow = make_flow(api, canvasState=CANVAS)
    start(api, flow)
    api.patch(f"{FLOWS}/{flow['id']}", {"organismYaml": CHANGED, "canvasState": None})
    second = start(api, flow)

    restored = api.post(f"{FLOWS}/{flow['id']}/versions/1/restore")

    assert restored.status_code == 200
    draft = restored.json()
    assert (draft["organismYaml"], draft["canvasState"]) == (SOUND, CANVAS)
    assert (draft["version"], draft["containerId"], draft["hasUndeployedChanges"]) == (2, second["containerId"], True)
    assert start(api, flow)["version"] == 3


@pytest.mark.parametrize("number", ["0", "2", "99999999999999999999", "-1", "x"])
def test_an_unknown_version_is_not_found(api: APIClient, number: str) -> None:
    flow = make_flow(api)
    start(api, flow)

    assert api.get(f"{FLOWS}/{flow['id']}/versions/{number}").status_code == 404
    assert api.post(f"{FLOWS}/{flow['id']}/versions/{number}/restore").status_code == 404


def test_an_idle_flow_stops_at_once(api: APIClient) -> None:
    flow = make_flow(api)
    start(api, flow)

    stopped = api.post(f"{FLOWS}/{flow['id']}/stop").json()

    assert (stopped["status"], stopped["containerId"], stopped["version"]) == ("stopped", None, 1)
    again = api.post(f"{FLOWS}/{flow['id']}/stop", {"force": True})
    assert (again.status_code, again.json()["status"]) == (200, "stopped")


def test_a_flow_stops_when_its_executions_have_ended(api: APIClient) -> None:
    flow = make_flow(api)
    url = f"{FLOWS}/{flow['id']}"
    start(api, flow)
    run = api.post(f"{url}/executions/run", {"draft": False})
    assert run.status_code == 201, run.content

    stopping = api.post(f"{url}/stop").json()
    assert (stopping["status"], stopping["version"]) == ("stopping", 1)
    assert api.post(f"{url}/executions/run", {"draft": False}).json()["code"] == "flow_not_running"

    stopped = api.post(f"{url}/stop", {"force": True}).json()
    assert (stopped["status"], stopped["containerId"]) == ("stopped", None)
    ended = api.get(f"{url}/executions/{run.json()['id']}").json()
    assert ended["status"] == "error" and ended["errorMessage"].startswith("Canceled by")


def test_a_flow_that_has_run_can_be_deleted(api: APIClient) -> None:
    flow = make_flow(api)
    start(api, flow)
    api.post(f"{FLOWS}/{flow['id']}/executions/run", {"draft": False})
    api.post(f"{FLOWS}/{flow['id']}/executions/run", {"draft": True})

    assert api.delete(f"{FLOWS}/{flow['id']}").status_code == 204
    assert FlowVersion.objects.count() == 0


@pytest.mark.parametrize("body", [{"force": "perhaps"}, {"force": None}, {"force": []}])
def test_a_bad_force_stops_nothing(api: APIClient, body: object) -> None:
    flow = make_flow(api)
    start(api, flow)

    assert api.post(f"{FLOWS}/{flow['id']}/stop", body).status_code == 400
    assert Flow.objects.get().status == FlowStatus.RUNNING


def test_what_stands_above_hears_of_start_and_stop(api: APIClient) -> None:
    heard: list[Any] = []

    def hear_start(flow: Flow, **_: object) -> None:
        heard.append(("start", flow.status))

    def hear_stop(flow: Flow, force: bool, **_: object) -> None:
        heard.append(("stop", flow.status, force))

    flow_started.connect(hear_start)
    flow_stopped.connect(hear_stop)
    try:
        flow = make_flow(api)
        start(api, flow)
        api.post(f"{FLOWS}/{flow['id']}/stop", {"force": True})
        start(api, flow)
        api.delete(f"{FLOWS}/{flow['id']}")
    finally:
        flow_started.disconnect(hear_start)
        flow_stopped.disconnect(hear_stop)

    assert [event[0] for event in heard] == ["start", "stop", "start", "stop"]
    assert heard[1][2] is True and heard[3][2] is True


def test_a_stop_is_finished_only_while_it_lasts(api: APIClient, alice: User) -> None:
    flow = Flow.objects.get(pk=make_flow(api)["id"])
    start(api, {"id": flow.pk})
    assert finish_stop(flow=flow) is False
    assert Flow.objects.get().status == FlowStatus.RUNNING

    Flow.objects.update(status=FlowStatus.STOPPING)
    assert finish_stop(flow=flow) is True
    stopped = Flow.objects.get()
    assert (stopped.status, stopped.container_id) == (FlowStatus.STOPPED, None)


def test_a_failed_flow_says_why_and_can_be_started_again(api: APIClient) -> None:
    running = start(api, make_flow(api))
    assert fail_flow(flow=Flow.objects.get(), message="Ten failures in a row.") is True

    failed = api.get(f"{FLOWS}/{running['id']}").json()
    assert (failed["status"], failed["errorMessage"], failed["containerId"]) == (
        "error",
        "Ten failures in a row.",
        None,
    )

    again = start(api, running)
    assert (again["status"], again["errorMessage"]) == ("running", None)


def test_a_deployment_that_is_gone_cannot_fail_its_flow(api: APIClient) -> None:
    flow = make_flow(api)
    start(api, flow)
    seen = Flow.objects.get()
    start(api, flow)

    assert fail_flow(flow=seen, message="Old news.") is False
    assert Flow.objects.get().status == FlowStatus.RUNNING


def test_a_version_is_compiled_once(api: APIClient, django_assert_num_queries: Any) -> None:
    start(api, make_flow(api))
    version = FlowVersion.objects.get()

    organism = load_organism(version.pk)
    assert list(organism.listeners) == ["note", "done"]
    with django_assert_num_queries(0):
        assert load_organism(version.pk) is organism


def test_a_draft_is_copied_once_for_its_test_runs(api: APIClient) -> None:
    flow = Flow.objects.get(pk=make_flow(api)["id"])
    first, second = draft_version(flow), draft_version(flow)
    assert (first.pk, first.number) == (second.pk, None)

    flow.organism_yaml = BROKEN
    with pytest.raises(OrganismInvalid):
        draft_version(flow)
    assert FlowVersion.objects.count() == 1
