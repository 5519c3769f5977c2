"""The operators' pages of flows."""

from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from rest_framework.test import APIClient

from accounts.models import Tier, User
from bloxserver.core.crypto import decrypt
from flows.models import AgentMemory, Flow, FlowStatus, FlowVersion, KeyValue, Secret, Variable
from tests.flows.samples import BROKEN, CHANGED, SOUND, make_flow, start

pytestmark = pytest.mark.once

LIST = "/admin/flows/flow/"


def page_of(flow: dict[str, Any]) -> str:
    return f"{LIST}{flow['id']}/change/"


def act(client: Client, action: str, *flows: dict[str, Any]) -> str:
    answer = client.post(LIST, {"action": action, "_selected_action": [flow["id"] for flow in flows]}, follow=True)
    assert answer.status_code == 200
    return answer.content.decode()


@pytest.mark.parametrize("query", ["orders", "alice@shop", "no such thing"])
def test_the_list_is_searched(admin_client: Client, api: APIClient, query: str) -> None:
    make_flow(api)
    text = admin_client.get(LIST, {"q": query}).content.decode()

    assert (">Orders</a>" in text) is (query != "no such thing")


def test_a_flow_is_found_by_its_id(admin_client: Client, api: APIClient) -> None:
    flow = make_flow(api)
    make_flow(api, name="Other")
    text = admin_client.get(LIST, {"q": flow["id"]}).content.decode()

    assert ">Orders</a>" in text and ">Other</a>" not in text


def test_the_list_is_filtered_by_status_and_tier(admin_client: Client, api: APIClient) -> None:
    start(api, make_flow(api))

    assert (
        ">Orders</a>"
        in admin_client.get(LIST, {"status__exact": "running", "user__tier__exact": "pro"}).content.decode()
    )
    assert ">Orders</a>" not in admin_client.get(LIST, {"user__tier__exact": "free"}).content.decode()


@pytest.mark.parametrize("path", ["flow", "flowversion", "variable", "secret", "keyvalue", "agentmemory"])
def test_no_list_does_a_query_per_row(admin_client: Client, api: APIClient, path: str) -> None:
    def count() -> int:
        with CaptureQueriesContext(connection) as queries:
            assert admin_client.get(f"/admin/flows/{path}/").status_code == 200
        return len(queries)

    def fill(number: int) -> None:
        flow = make_flow(api, name=f"flow {number}")
        start(api, flow)
        api.put(f"/api/v1/variables/v?flow={flow['id']}", {"value": number})
        api.put(f"/api/v1/secrets/s?flow={flow['id']}", {"value": "x"})
        KeyValue.objects.create(flow_id=flow["id"], key="k", value="1")
        AgentMemory.objects.create(flow_id=flow["id"], listener="agent", key="k", messages="[]", size=2)

    fill(0)
    count()
    before = count()
    for number in range(1, 6):
        fill(number)
    assert count() == before


def test_the_page_of_a_flow_tells_what_is_wrong_with_it(admin_client: Client, api: APIClient) -> None:
    text = admin_client.get(page_of(make_flow(api, organismYaml=BROKEN))).content.decode()

    assert "Error</strong>, line 7" in text and "nobody" in text
    assert "Valid." in admin_client.get(page_of(make_flow(api))).content.decode()


def test_a_users_text_is_never_markup(admin_client: Client, api: APIClient) -> None:
    evil = "<script>alert(1)</script>"
    flow = make_flow(api, name=evil, description=evil, organismYaml=f"{evil}: 1")

    for url in (LIST, page_of(flow)):
        assert evil not in admin_client.get(url).content.decode()


def test_start_and_stop_act_on_each_and_say_so(admin_client: Client, api: APIClient) -> None:
    sound, broken = make_flow(api, name="Sound"), make_flow(api, name="Broken", organismYaml=BROKEN)

    text = act(admin_client, "start", sound, broken)

    assert "Sound is running." in text
    assert "Broken: " in text and "nobody" in text
    assert dict(Flow.objects.values_list("name", "status")) == {"Sound": "running", "Broken": "stopped"}
    assert "Sound is stopped." in act(admin_client, "stop", sound)
    act(admin_client, "start", sound)
    assert "Sound is stopped." in act(admin_client, "force_stop", sound)


def test_saving_writes_the_draft_and_nothing_else(admin_client: Client, api: APIClient) -> None:
    flow = start(api, make_flow(api))
    form = {"name": "Renamed", "description": "", "organism_yaml": CHANGED.replace("\n", "\r\n"), "status": "error"}

    assert admin_client.post(page_of(flow), form).status_code == 302

    saved = api.get(f"/api/v1/flows/{flow['id']}").json()
    assert (saved["name"], saved["organismYaml"], saved["status"]) == ("Renamed", CHANGED, "running")
    assert (saved["version"], saved["hasUndeployedChanges"]) == (1, True)


def test_saving_without_an_edit_changes_nothing(admin_client: Client, api: APIClient) -> None:
    flow = make_flow(api)
    form = {"name": "Orders", "description": "", "organism_yaml": SOUND.replace("\n", "\r\n")}

    assert admin_client.post(page_of(flow), form).status_code == 302
    assert api.get(f"/api/v1/flows/{flow['id']}").json() == flow


def test_an_operator_makes_a_flow_for_a_user(admin_client: Client, alice: User) -> None:
    assert "blox.transform" in admin_client.get(f"{LIST}add/").content.decode()
    form = {"user": alice.pk, "name": "Made for her", "description": "", "organism_yaml": SOUND}
    assert admin_client.post(f"{LIST}add/", form).status_code == 302

    flow = Flow.objects.get()
    assert (flow.user, flow.status, flow.organism_yaml) == (alice, FlowStatus.STOPPED, SOUND)


def test_an_operator_adds_no_flow_over_the_limit_of_its_user(admin_client: Client, alice: User) -> None:
    User.objects.filter(pk=alice.pk).update(tier=Tier.FREE)
    Flow.objects.create(user=alice, name="First")
    form = {"user": str(alice.pk), "name": "Second", "organism_yaml": SOUND}
    page = admin_client.post(f"{LIST}add/", form, follow=True).content.decode()

    assert "limit is 1 flow, and you have as many" in page
    assert [flow.name for flow in Flow.objects.all()] == ["First"]


def test_oversized_yaml_is_an_error_of_the_form(admin_client: Client, api: APIClient) -> None:
    flow = make_flow(api)
    answer = admin_client.post(
        page_of(flow), {"name": "Orders", "description": "", "organism_yaml": "x" * (256 * 1024 + 1)}
    )

    assert answer.status_code == 200
    assert "larger than 256 KiB" in answer.content.decode()


def test_an_operator_deletes_a_flow_with_its_history(admin_client: Client, api: APIClient) -> None:
    flow = start(api, make_flow(api))

    assert "with its versions" in admin_client.get(f"{LIST}{flow['id']}/delete/").content.decode()
    assert admin_client.post(f"{LIST}{flow['id']}/delete/", {"post": "yes"}).status_code == 302
    assert (Flow.objects.count(), FlowVersion.objects.count()) == (0, 0)


def test_versions_are_read_only(admin_client: Client, api: APIClient) -> None:
    start(api, make_flow(api))
    version = FlowVersion.objects.get()
    page = f"/admin/flows/flowversion/{version.pk}"

    assert "name: sample" in admin_client.get(f"{page}/change/").content.decode()
    assert admin_client.post(f"{page}/change/", {"number": 9}).status_code == 403
    assert admin_client.post(f"{page}/delete/", {"post": "yes"}).status_code == 403
    assert admin_client.get("/admin/flows/flowversion/add/").status_code == 403


def test_a_secret_goes_in_and_is_never_shown(admin_client: Client, alice: User) -> None:
    form = {"user": alice.pk, "flow": "", "name": "KEY", "value": "canary-9921\r\nline 2"}
    assert admin_client.post("/admin/flows/secret/add/", form).status_code == 302
    secret = Secret.objects.get()
    assert decrypt(secret.encrypted_value) == "canary-9921\nline 2"

    page = f"/admin/flows/secret/{secret.pk}/change/"
    for url in (page, "/admin/flows/secret/"):
        text = admin_client.get(url).content.decode()
        assert "canary" not in text and secret.encrypted_value not in text

    assert admin_client.post(page, {**form, "value": "", "name": "KEY2"}).status_code == 302
    secret.refresh_from_db()
    assert (secret.name, decrypt(secret.encrypted_value)) == ("KEY2", "canary-9921\nline 2")
    refused = admin_client.post(page, {**form, "value": "canary-1", "name": "not a name"}).content.decode()
    assert "canary" not in refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"value": "Paris"}, "double quotes"),
        ({"value": "NaN"}, "is not JSON"),
        ({"name": "a-b"}, "letters, digits and underscores"),
        ({"name": "taken"}, "This name is stored already"),
    ],
)
def test_a_variable_in_the_admin_keeps_the_rules(
    admin_client: Client, alice: User, changes: dict[str, str], message: str
) -> None:
    Variable.objects.create(user=alice, name="taken", value="1")
    form = {"user": alice.pk, "flow": "", "name": "city", "value": '"Paris"', **changes}
    answer = admin_client.post("/admin/flows/variable/add/", form)

    assert answer.status_code == 200
    assert message in answer.content.decode()
    assert Variable.objects.count() == 1


def test_a_variable_of_a_flow_belongs_to_its_user(admin_client: Client, api: APIClient, bob: User) -> None:
    flow = make_flow(api)
    form = {"user": bob.pk, "flow": flow["id"], "name": "city", "value": '"Paris"'}

    assert "belongs to another user" in admin_client.post("/admin/flows/variable/add/", form).content.decode()
    assert Variable.objects.count() == 0


ASKING = "organism: {name: x}\nlisteners:\n  - {name: a, handler: blox.llm, prompt: Sell shoes, model: gpt-5}\n"


def of_a_flow_that_asks(admin_client: Client, api: APIClient) -> str:
    flow = Flow.objects.get(pk=make_flow(api, organismYaml=ASKING)["id"])
    Flow.objects.filter(pk=flow.pk).update(error_message="Paused: I sell no shoes")
    version = FlowVersion.objects.create(flow=flow, number=1, organism_yaml=ASKING, digest="0" * 64)
    kept = KeyValue.objects.create(flow=flow, key="k", value='"We have shoes"')
    paths = (f"flow/{flow.pk}", f"flowversion/{version.pk}", f"keyvalue/{kept.pk}")
    pages = [admin_client.get(f"/admin/flows/{path}/change/") for path in paths]
    assert [page.status_code for page in pages] == [200] * 3
    return "".join(page.content.decode() for page in pages)


def test_an_operator_reads_a_flow_that_asks_models_but_nothing_that_it_says_and_keeps(
    admin_client: Client, api: APIClient
) -> None:
    html = of_a_flow_that_asks(admin_client, api)
    assert "I sell no shoes" not in html and "We have shoes" not in html
    assert html.count("the tenant has not allowed operators to read prompts") == 2
    assert html.count("Sell shoes") == 2
    assert 'name="organism_yaml"' in html


def test_an_operator_reads_a_flow_whose_tenant_shares_prompts(admin_client: Client, api: APIClient) -> None:
    api.patch("/api/v1/me", {"sharePromptsWithOperators": True}, format="json")
    html = of_a_flow_that_asks(admin_client, api)
    for said in ("Sell shoes", "I sell no shoes", "We have shoes"):
        assert said in html
    assert 'name="organism_yaml"' in html
