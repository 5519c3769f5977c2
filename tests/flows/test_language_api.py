"""/flows/validate and /blocks: what the language takes, told to an editor."""

import pytest
from rest_framework.test import APIClient

from flows.models import Flow
from tests.flows.samples import BROKEN, SOUND, make_flow

FLOWS = "/api/v1/flows"


def test_validate_tells_all_errors_with_their_places(api: APIClient) -> None:
    good = api.post(f"{FLOWS}/validate", {"organismYaml": SOUND})
    assert good.status_code == 200
    assert (good.json()["valid"], good.json()["errors"]) == (True, [])
    assert len(good.json()["graph"]["nodes"]) == 2

    bad = api.post(f"{FLOWS}/validate", {"organismYaml": BROKEN.replace("blox.output", "blox.outptu")}).json()
    assert bad["valid"] is False
    assert [set(problem) for problem in bad["errors"]] == [{"path", "line", "column", "message"}] * 2
    assert Flow.objects.count() == 0


@pytest.mark.parametrize("body", [{}, {"organismYaml": None}, {"organismYaml": 1.5}, {"organismYaml": "x" * 400_000}])
def test_validate_wants_text_of_at_most_256_kib(api: APIClient, body: object) -> None:
    answer = api.post(f"{FLOWS}/validate", body)

    assert answer.status_code == 400
    assert list(answer.json()["details"]) == ["organismYaml"]


@pytest.mark.parametrize(
    "yaml",
    [
        "",
        "a: [",
        "a: &x [*x]",
        "x: !!python/object/apply:os.system [ls]",
        "a: 1\na: 2",
        "[" * 5000,
        "\t",
        "- 1",
        "\ufeff",
        "\x85\u2028",
    ],
)
def test_hostile_yaml_is_an_answer_not_a_failure(api: APIClient, yaml: str) -> None:
    assert api.post(f"{FLOWS}/validate", {"organismYaml": yaml}).json()["valid"] is False
    flow = make_flow(api, organismYaml=yaml)
    assert flow["organismYaml"] == yaml
    assert api.post(f"{FLOWS}/{flow['id']}/start").json()["code"] == "invalid_organism"


def test_the_catalogue_says_what_each_block_takes(api: APIClient) -> None:
    catalogue = api.get("/api/v1/blocks").json()

    blocks = {block["name"]: block for block in catalogue["items"]}
    assert catalogue["hasMore"] is False
    assert {"blox.transform", "blox.branch", "blox.http", "blox.output"} <= set(blocks)
    http = blocks["blox.http"]
    assert http["configSchema"]["properties"]["follow_redirects"]["type"] == "boolean"
    assert http["title"] and http["description"] and http["category"]
    assert "headers" in http["secretFields"]


def test_every_example_in_the_catalogue_is_sound(api: APIClient) -> None:
    for block in api.get("/api/v1/blocks").json()["items"]:
        assert block["example"].lstrip().startswith("- name:"), block["name"]
