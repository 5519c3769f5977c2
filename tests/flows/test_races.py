"""What two requests at once must not do. SQLite takes them one by one; PostgreSQL really has both."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
from django.db import connection
from rest_framework.test import APIClient

from accounts.models import Tier, User
from flows.models import Flow, FlowVersion, Variable
from tests.conftest import api_as
from tests.flows.samples import CHANGED, make_flow, start

pytestmark = pytest.mark.django_db(transaction=True)


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """The results of `calls`, each made in a thread of its own, let go together."""
    barrier = Barrier(len(calls))

    def run(call: Callable[[], Any]) -> Any:
        barrier.wait()
        try:
            return call()
        finally:
            connection.close()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def test_the_cap_on_flows_holds_against_creates_at_once(alice: User) -> None:
    User.objects.filter(pk=alice.pk).update(tier=Tier.FREE)

    answers = at_once(*[lambda: api_as(alice).post("/api/v1/flows", {"name": "One"})] * 6)

    assert sorted(answer.status_code for answer in answers) == [201, 402, 402, 402, 402, 402]
    assert Flow.objects.count() == 1


def test_starts_at_once_make_one_version_and_agree(alice: User, api: APIClient) -> None:
    flow = make_flow(api)

    answers = at_once(*[lambda: api_as(alice).post(f"/api/v1/flows/{flow['id']}/start")] * 5)

    assert [answer.status_code for answer in answers] == [200] * 5
    assert list(FlowVersion.objects.values_list("number", flat=True)) == [1]


def test_starts_and_edits_at_once_number_versions_without_a_gap(alice: User, api: APIClient) -> None:
    flow = make_flow(api)
    url = f"/api/v1/flows/{flow['id']}"
    edits = [lambda n=n: api_as(alice).patch(url, {"organismYaml": CHANGED + f"# {n}\n"}) for n in range(4)]
    starts = [lambda: api_as(alice).post(f"{url}/start")] * 4

    answers = at_once(*edits, *starts)

    assert {answer.status_code for answer in answers} == {200}
    numbers = list(FlowVersion.objects.order_by("number").values_list("number", flat=True))
    assert numbers == list(range(1, len(numbers) + 1))


def test_puts_of_one_name_at_once_make_one_variable(alice: User) -> None:
    answers = at_once(*[lambda n=n: api_as(alice).put("/api/v1/variables/city", {"value": n}) for n in range(6)])

    assert sorted(answer.status_code for answer in answers) == [200] * 5 + [201]
    assert Variable.objects.count() == 1


def test_a_variable_is_not_stored_for_a_flow_that_is_being_deleted(alice: User, api: APIClient) -> None:
    flow = make_flow(api)
    start(api, flow)
    store = [lambda n=n: api_as(alice).put(f"/api/v1/variables/v{n}?flow={flow['id']}", {"value": n}) for n in range(4)]

    *stored, deleted = at_once(*store, lambda: api_as(alice).delete(f"/api/v1/flows/{flow['id']}"))

    assert deleted.status_code == 204
    assert {answer.status_code for answer in stored} <= {201, 404}
    assert Variable.objects.count() == 0
