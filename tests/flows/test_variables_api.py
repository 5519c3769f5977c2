"""/variables and /secrets: a tenant's, and a flow's own."""

from typing import Any
from uuid import uuid4

import pytest
from cryptography.fernet import Fernet
from rest_framework.test import APIClient

from accounts.models import User
from bloxserver.core.crypto import decrypt
from flows.errors import FlowNameAmbiguous, FlowNotFound, SecretUnavailable
from flows.models import Flow, Secret, Variable
from flows.services import flow_by_reference, secret_value, variables_of
from tests.flows.samples import USERS_KEYS, make_flow

VARIABLES, SECRETS = "/api/v1/variables", "/api/v1/secrets"
NOT_FOUND = b'{"code":"not_found","message":"Not found.","details":null}'


@pytest.mark.parametrize("value", [None, True, 0, -1.5, "", "text", [], {}, USERS_KEYS, [USERS_KEYS], 2**80])
def test_a_variable_holds_any_json_untouched(api: APIClient, value: object) -> None:
    made = api.put(f"{VARIABLES}/city", {"value": value})

    assert made.status_code == 201, made.content
    assert (made.json()["name"], made.json()["value"], made.json()["flowId"]) == ("city", value, None)
    assert api.get(f"{VARIABLES}/city").json() == made.json()
    assert api.get(VARIABLES).json()["items"] == [made.json()]


def test_a_put_replaces_and_a_delete_removes(api: APIClient) -> None:
    api.put(f"{VARIABLES}/city", {"value": "Paris"})
    second = api.put(f"{VARIABLES}/city", {"value": "Rome"})
    assert (second.status_code, second.json()["value"]) == (200, "Rome")

    assert api.delete(f"{VARIABLES}/city").status_code == 204
    assert api.get(f"{VARIABLES}/city").content == NOT_FOUND
    assert api.delete(f"{VARIABLES}/city").status_code == 404


def in_scope(flow: dict[str, Any]) -> dict[str, Any]:
    row = Flow.objects.get(pk=flow["id"])
    return variables_of([row])[row.pk]


def test_a_flows_own_value_goes_before_the_tenants(api: APIClient, alice: User, bobs_api: APIClient) -> None:
    flow, other = make_flow(api), make_flow(api, name="Other")
    api.put(f"{VARIABLES}/city", {"value": "Paris"})
    api.put(f"{VARIABLES}/country", {"value": "France"})
    own = api.put(f"{VARIABLES}/city?flow={flow['id']}", {"value": "Rome"}).json()
    bobs_api.put(f"{VARIABLES}/city", {"value": "Bonn"})

    assert own["flowId"] == flow["id"]
    assert [row["value"] for row in api.get(VARIABLES).json()["items"]] == ["Paris", "France"]
    assert [row["value"] for row in api.get(f"{VARIABLES}?flow={flow['id']}").json()["items"]] == ["Rome"]
    assert in_scope(flow) == {"city": "Rome", "country": "France"}
    assert in_scope(other) == {"city": "Paris", "country": "France"}


@pytest.mark.parametrize("store", [VARIABLES, SECRETS])
@pytest.mark.parametrize("name", ["1a", "a-b", "a.b", "a%20b", "a" * 65, "é", "a%0A"])
def test_a_name_is_what_an_expression_can_say(api: APIClient, store: str, name: str) -> None:
    answer = api.put(f"{store}/{name}", {"value": "x"})

    assert answer.status_code == 400
    assert "letters, digits and underscores" in answer.json()["details"]["name"][0]
    assert api.get(f"{store}/{name}").status_code == 404
    assert api.delete(f"{store}/{name}").status_code == 404


def test_64_characters_are_a_name(api: APIClient) -> None:
    assert api.put(f"{VARIABLES}/_{'a1' * 31}A", {"value": 1}).status_code == 201


@pytest.mark.parametrize(
    ("url", "body"),
    [
        (f"{VARIABLES}/big", {"value": "x" * 65_536}),
        (f"{VARIABLES}/none", {}),
        (f"{SECRETS}/empty", {"value": ""}),
        (f"{SECRETS}/none", {}),
        (f"{SECRETS}/null", {"value": None}),
        (f"{SECRETS}/object", {"value": {"a": 1}}),
        (f"{SECRETS}/big", {"value": "é" * 40_000}),
    ],
)
def test_a_value_out_of_bounds_is_refused(api: APIClient, url: str, body: object) -> None:
    answer = api.put(url, body)

    assert answer.status_code == 400
    assert list(answer.json()["details"]) == ["value"]
    assert (Variable.objects.count(), Secret.objects.count()) == (0, 0)


@pytest.mark.parametrize("store", [VARIABLES, SECRETS])
def test_another_tenants_flow_is_unknown(api: APIClient, bobs_api: APIClient, store: str) -> None:
    flow = make_flow(api)
    api.put(f"{store}/name?flow={flow['id']}", {"value": "x"})

    for flow_id in (flow["id"], uuid4()):
        for answer in (
            bobs_api.get(f"{store}?flow={flow_id}"),
            bobs_api.get(f"{store}/name?flow={flow_id}"),
            bobs_api.put(f"{store}/name?flow={flow_id}", {"value": "y"}),
            bobs_api.delete(f"{store}/name?flow={flow_id}"),
        ):
            assert (answer.status_code, answer.content) == (404, NOT_FOUND)
    assert bobs_api.get(f"{store}/name").status_code == 404
    assert api.get(f"{store}?flow={flow['id']}").json()["total"] == 1


@pytest.mark.parametrize("store", [VARIABLES, SECRETS])
def test_a_flow_parameter_that_is_no_id_is_refused(api: APIClient, store: str) -> None:
    answer = api.get(f"{store}?flow=mine")

    assert (answer.status_code, list(answer.json()["details"])) == (400, ["flow"])


@pytest.mark.parametrize("store", [VARIABLES, SECRETS])
def test_one_place_holds_500_names(api: APIClient, alice: User, store: str) -> None:
    model: Any = Variable if store == VARIABLES else Secret
    model.objects.bulk_create(model(user=alice, name=f"n{number}") for number in range(500))

    full = api.put(f"{store}/one_more", {"value": "x"})
    assert (full.status_code, full.json()["code"]) == (409, "limit_reached")
    assert api.put(f"{store}/n7", {"value": "x"}).status_code == 200
    assert api.put(f"{store}/own?flow={make_flow(api)['id']}", {"value": "x"}).status_code == 201


# Secrets. --------------------------------------------------------------------------------------------------------
def test_a_secret_never_comes_back(api: APIClient, alice: User) -> None:
    made = api.put(f"{SECRETS}/API_KEY", {"value": " canary-5512 "})
    assert made.status_code == 201
    assert set(made.json()) == {"name", "updatedAt", "flowId"}

    for answer in (made, api.get(SECRETS), api.get(f"{SECRETS}/API_KEY")):
        assert b"canary" not in answer.content
    stored = Secret.objects.get().encrypted_value
    assert "canary" not in stored
    assert decrypt(stored) == " canary-5512 "


def test_a_step_gets_the_flows_own_secret_else_the_tenants(api: APIClient, alice: User, bob: User) -> None:
    flow = Flow.objects.get(pk=make_flow(api)["id"])
    api.put(f"{SECRETS}/KEY", {"value": "tenant"})
    assert secret_value(flow_id=flow.pk, user_id=alice.pk, name="KEY") == "tenant"

    api.put(f"{SECRETS}/KEY?flow={flow.pk}", {"value": "own"})
    assert secret_value(flow_id=flow.pk, user_id=alice.pk, name="KEY") == "own"
    assert secret_value(flow_id=uuid4(), user_id=alice.pk, name="KEY") == "tenant"
    with pytest.raises(SecretUnavailable, match='no secret "KEY"'):
        secret_value(flow_id=flow.pk, user_id=bob.pk, name="KEY")


def test_a_secret_of_a_lost_key_says_to_store_it_again(api: APIClient, alice: User, settings: Any) -> None:
    api.put(f"{SECRETS}/KEY", {"value": "x"})
    settings.BLOX_ENCRYPTION_KEYS = [Fernet.generate_key().decode()]

    with pytest.raises(SecretUnavailable, match="store it again"):
        secret_value(flow_id=uuid4(), user_id=alice.pk, name="KEY")


# References. -----------------------------------------------------------------------------------------------------
def test_a_flow_is_found_by_id_and_by_name_among_its_owners(api: APIClient, alice: User, bob: User) -> None:
    flow = make_flow(api, name="Invoice")

    assert str(flow_by_reference(user=alice, reference="Invoice").pk) == flow["id"]
    assert str(flow_by_reference(user=alice, reference=flow["id"]).pk) == flow["id"]
    for reference in ("Invoice", flow["id"]):
        with pytest.raises(FlowNotFound):
            flow_by_reference(user=bob, reference=reference)
    make_flow(api, name="Invoice")
    with pytest.raises(FlowNameAmbiguous):
        flow_by_reference(user=alice, reference="Invoice")
