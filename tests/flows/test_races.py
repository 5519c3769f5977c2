"""What a request must not do while another's transaction is under way.

Each test opens that transaction, lets a second request in before it commits, and looks at what both leave behind.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import pytest
from django.db import connection, transaction
from rest_framework.test import APIClient

from accounts.models import Tier, User
from flows.models import Flow, FlowVersion, Variable
from flows.services import create_flow, delete_flow, set_variable, start_flow, update_flow
from tests.flows.samples import CHANGED, make_flow

pytestmark = pytest.mark.django_db(transaction=True)

HEAD_START = 0.5  # seconds for the second request to do what it would do without a lock


def while_uncommitted(first: Callable[[], Any], second: Callable[[], Any]) -> Any:
    """What `second` gives when it comes after `first` has written and before that is committed."""

    def run() -> Any:
        try:
            return second()
        finally:
            connection.close()

    with ThreadPoolExecutor(1) as pool:
        with transaction.atomic():
            first()
            future: Future[Any] = pool.submit(run)
            wait([future], timeout=HEAD_START)
            assert not future.done(), "the second did not wait for the first"
        return future.result(timeout=20)


def test_the_cap_on_flows_counts_a_flow_that_is_being_made(api: APIClient, alice: User) -> None:
    User.objects.filter(pk=alice.pk).update(tier=Tier.FREE)

    answer = while_uncommitted(
        lambda: create_flow(owner=alice, name="First"), lambda: api.post("/api/v1/flows", {"name": "Second"})
    )

    assert (answer.status_code, answer.json()["code"]) == (402, "flow_limit_reached")
    assert [flow.name for flow in Flow.objects.all()] == ["First"]


def test_a_start_waits_for_a_start_and_takes_the_next_number(api: APIClient, alice: User) -> None:
    flow = Flow.objects.get(pk=make_flow(api)["id"])

    def start_and_edit() -> None:
        start_flow(flow=flow, by=alice)
        update_flow(flow=flow, changes={"organism_yaml": CHANGED})

    answer = while_uncommitted(start_and_edit, lambda: api.post(f"/api/v1/flows/{flow.pk}/start"))

    assert (answer.status_code, answer.json()["version"]) == (200, 2)
    assert answer.json()["organismYaml"] == CHANGED
    numbered = FlowVersion.objects.order_by("number").values_list("number", "organism_yaml")
    assert [(number, yaml == CHANGED) for number, yaml in numbered] == [(1, False), (2, True)]


def test_a_start_after_a_start_agrees_on_the_version(api: APIClient, alice: User) -> None:
    flow = Flow.objects.get(pk=make_flow(api)["id"])

    answer = while_uncommitted(
        lambda: start_flow(flow=flow, by=alice), lambda: api.post(f"/api/v1/flows/{flow.pk}/start")
    )

    assert (answer.status_code, answer.json()["version"]) == (200, 1)
    assert answer.json()["containerId"] == Flow.objects.get().container_id


def test_a_put_waits_for_a_put_of_the_same_name(api: APIClient, alice: User) -> None:
    answer = while_uncommitted(
        lambda: set_variable(owner=alice, flow=None, name="city", value="Paris"),
        lambda: api.put("/api/v1/variables/city", {"value": "Rome"}),
    )

    assert answer.status_code == 200
    assert [row.value for row in Variable.objects.all()] == ['"Rome"']


@pytest.mark.parametrize("path", ["variables/city?flow={}", "secrets/city?flow={}"])
def test_nothing_is_stored_for_a_flow_that_is_being_deleted(api: APIClient, path: str) -> None:
    flow = Flow.objects.get(pk=make_flow(api)["id"])

    answer = while_uncommitted(
        lambda: delete_flow(flow=flow), lambda: api.put(f"/api/v1/{path.format(flow.pk)}", {"value": "Rome"})
    )

    assert answer.status_code == 404
    assert Variable.objects.count() == 0


@pytest.mark.parametrize(
    ("method", "path"), [("post", "/start"), ("post", "/stop"), ("post", "/versions/1/restore"), ("patch", "")]
)
def test_a_flow_that_is_being_deleted_is_gone_for_whoever_comes_next(
    api: APIClient, alice: User, method: str, path: str
) -> None:
    flow = start_flow(flow=Flow.objects.get(pk=make_flow(api)["id"]), by=alice)

    answer = while_uncommitted(
        lambda: delete_flow(flow=flow),
        lambda: getattr(api, method)(f"/api/v1/flows/{flow.pk}{path}", {"name": "New", "force": True}),
    )

    assert answer.status_code == 404
    assert Flow.objects.count() == 0
