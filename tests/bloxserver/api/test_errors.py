"""Every failure is an ApiError, whoever raised it."""

import logging
from typing import Any

import pytest
from django.test import Client
from rest_framework.test import APIClient

from tests.bloxserver.api.urls import SECRET

pytestmark = [pytest.mark.django_db, pytest.mark.urls("tests.bloxserver.api.urls")]

NOT_FOUND = b'{"code":"not_found","message":"Not found.","details":null}'


def error_of(response: Any) -> dict[str, Any]:
    assert response["Content-Type"] == "application/json"
    body: dict[str, Any] = response.json()
    assert set(body) == {"code", "message", "details"}
    return body


def test_a_validation_error_names_each_field_in_camel_case(api: APIClient) -> None:
    response = api.post("/api/v1/test/order", {"lineItems": [{"unitPrice": 1}, {"unitPrice": "x"}, {}]})
    assert response.status_code == 400
    assert error_of(response) == {
        "code": "validation_error",
        "message": "orderName: This field is required. (and 2 more)",
        "details": {
            "orderName": ["This field is required."],
            "lineItems": {
                "1": {"unitPrice": ["A valid number is required."]},
                "2": {"unitPrice": ["This field is required."]},
            },
        },
    }


def test_a_validation_error_leaves_the_users_keys_alone(api: APIClient) -> None:
    response = api.post("/api/v1/test/order", {"orderName": "a", "lineItems": [], "config": {"my_key": "x"}})
    assert error_of(response)["details"] == {"config": {"my_key": ["A valid integer is required."]}}


def test_an_unknown_path_is_the_same_404_as_an_unknown_row(api: APIClient) -> None:
    unknown_row = api.get("/api/v1/access-tokens/0190a000-0000-7000-8000-000000000000")
    unknown_path = api.get("/api/v1/nothing-here")
    no_uuid = api.get("/api/v1/access-tokens/12")
    assert {(r.status_code, r.content, r["Content-Type"]) for r in (unknown_row, unknown_path, no_uuid)} == {
        (404, NOT_FOUND, "application/json")
    }


@pytest.mark.parametrize("path", ["/api/v1/nothing-here", "/nothing-here"])
def test_an_unknown_path_is_json_in_debug_mode_too(anonymous: APIClient, settings: Any, path: str) -> None:
    settings.DEBUG = True
    response = anonymous.get(path)
    assert (response.status_code, response.content) == (404, NOT_FOUND)


def test_the_admin_answers_people(admin_client: Client) -> None:
    response = admin_client.get("/admin/nothing-here/")
    assert (response.status_code, response["Content-Type"].partition(";")[0]) == (404, "text/html")


def test_without_a_token_it_is_401_and_says_how_to_sign_in(anonymous: APIClient) -> None:
    response = anonymous.get("/api/v1/me")
    assert (response.status_code, response["WWW-Authenticate"]) == (401, 'Bearer realm="api"')
    assert error_of(response)["code"] == "not_authenticated"
    assert "Authorization: Bearer" in error_of(response)["message"]


def test_a_wrong_method_is_405_with_the_allowed_ones(api: APIClient) -> None:
    response = api.put("/api/v1/me", {})
    assert (response.status_code, error_of(response)["code"]) == (405, "method_not_allowed")
    assert "PATCH" in response["Allow"]
    assert api.options("/api/v1/me").status_code == 405


@pytest.mark.parametrize("accept", ["text/html", "application/xml", "garbage", ";;;,,,", "image/*"])
def test_an_answer_nobody_can_give_is_406_in_json(api: APIClient, accept: str) -> None:
    response = api.get("/api/v1/me", HTTP_ACCEPT=accept)
    assert (response.status_code, error_of(response)["code"]) == (406, "not_acceptable")


def test_an_unforeseen_failure_is_500_logged_and_tells_nothing(
    api: APIClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        response = api.get("/api/v1/test/broken")
    assert (response.status_code, error_of(response)["code"]) == (500, "internal_error")
    assert SECRET not in response.content.decode()
    assert SECRET in caplog.text


def test_a_failure_outside_rest_framework_is_the_same_500() -> None:
    client = Client(raise_request_exception=False)
    response = client.get("/api/v1/test/plain-broken")
    assert (response.status_code, error_of(response)["code"]) == (500, "internal_error")
    assert SECRET not in response.content.decode()


def test_a_database_that_is_away_is_503_with_retry_after(api: APIClient) -> None:
    response = api.get("/api/v1/test/database-away")
    assert (response.status_code, error_of(response)["code"]) == (503, "database_unavailable")
    assert int(response["Retry-After"]) >= 1


def test_a_database_that_is_away_takes_a_line_of_the_log_a_call(
    api: APIClient, caplog: pytest.LogCaptureFixture
) -> None:
    api.get("/api/v1/test/database-away")
    [record] = [record for record in caplog.records if record.name == "bloxserver.api.errors"]
    assert "The database did not answer: " in record.message
    assert record.exc_info is None


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/access-tokens?page=%00",
        "/api/v1/access-tokens?%00=1",
        "/api/v1/access-tokens?search=%ff",
        "/api/v1/access-tokens?search=%ed%a0%80",
        "/api/v1/access-tokens/%00",
        "/admin/accounts/user/?tier__exact=%00",
        "/static/%00",
    ],
)
def test_a_path_or_query_that_cannot_be_stored_is_400(api: APIClient, path: str) -> None:
    response = api.get(path)
    assert (response.status_code, error_of(response)["code"]) == (400, "bad_request")


@pytest.mark.parametrize("path", ["/api/v1/%ff%fe", "/api/v1/caf%C3%A9", "/api/v1/%E2%82%AC"])
def test_a_path_that_nothing_answers_to_is_404_whatever_its_letters(api: APIClient, path: str) -> None:
    assert (api.get(path).status_code, api.get(path).content) == (404, NOT_FOUND)


@pytest.mark.parametrize("debug", [False, True])
def test_a_host_that_is_not_ours_is_400(anonymous: APIClient, settings: Any, debug: bool) -> None:
    settings.DEBUG, settings.ALLOWED_HOSTS = debug, ["testserver"]
    response = anonymous.get("/api/v1/me", HTTP_HOST="evil.example")
    assert response.status_code == 400
    error_of(response)


def test_a_host_that_is_not_ours_is_a_line_in_the_log_and_no_stack_trace(
    anonymous: APIClient, caplog: pytest.LogCaptureFixture
) -> None:
    anonymous.get("/api/v1/me", HTTP_HOST="evil.example")
    (record,) = [record for record in caplog.records if record.name == "django.security.DisallowedHost"]
    assert "evil.example" in record.getMessage()
    assert "Traceback" not in caplog.text


def test_too_many_form_fields_are_400() -> None:
    response = Client().post("/api/v1/test/plain-form", {f"f{i}": "x" for i in range(1100)})
    assert (response.status_code, error_of(response)["code"]) == (400, "bad_request")


def test_too_many_query_parameters_are_400(api: APIClient) -> None:
    response = api.get("/api/v1/access-tokens?" + "&".join(f"f{i}=x" for i in range(1100)))
    assert (response.status_code, error_of(response)["code"]) == (400, "bad_request")


@pytest.mark.parametrize("boundary", ["", "; boundary=" + "x" * 300, "; boundary=\xff"])
def test_malformed_multipart_is_400(boundary: str) -> None:
    response = Client().generic("POST", "/api/v1/test/plain-form", b"--x\r\n\r\n", f"multipart/form-data{boundary}")
    assert (response.status_code, error_of(response)["code"]) == (400, "bad_request")
