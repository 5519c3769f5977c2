import pytest
from rest_framework.test import APIClient

pytestmark = [pytest.mark.django_db, pytest.mark.urls("tests.bloxserver.api.urls")]

NUMBERS = "/api/v1/test/numbers"  # 1 to 45


def test_the_first_page_has_twenty_items_and_says_that_there_is_more(api: APIClient) -> None:
    assert api.get(NUMBERS).json() == {
        "items": list(range(1, 21)),
        "total": 45,
        "page": 1,
        "pageSize": 20,
        "hasMore": True,
    }


def test_the_last_page_has_the_rest(api: APIClient) -> None:
    page = api.get(NUMBERS, {"page": 3}).json()
    assert (page["items"], page["hasMore"]) == ([41, 42, 43, 44, 45], False)


@pytest.mark.parametrize("number", ["4", "1000000", str(2**31 - 1)])
def test_past_the_end_there_are_no_items(api: APIClient, number: str) -> None:
    response = api.get(NUMBERS, {"page": number, "pageSize": "100"})
    assert (response.status_code, response.json()["items"], response.json()["hasMore"]) == (200, [], False)


@pytest.mark.parametrize("name", ["pageSize", "page_size"])
def test_the_size_goes_by_either_name(api: APIClient, name: str) -> None:
    page = api.get(NUMBERS, {name: 45}).json()
    assert (len(page["items"]), page["pageSize"], page["hasMore"]) == (45, 45, False)


def test_executions_come_by_fifty(api: APIClient) -> None:
    page = api.get("/api/v1/test/execution-numbers").json()
    assert (len(page["items"]), page["pageSize"]) == (45, 50)


@pytest.mark.parametrize("value", ["0", "-1", "abc", "", "1.5", "1e1", " 1", "+1", "١", "1" + "0" * 30, str(2**31)])
def test_a_page_that_is_no_page_is_400(api: APIClient, value: str) -> None:
    response = api.get(NUMBERS, {"page": value})
    assert response.status_code == 400
    assert response.json()["details"] == {"page": ["Must be a whole number from 1 to 2147483647."]}


@pytest.mark.parametrize("value", ["0", "101", "-5", "all", "1" + "0" * 30])
@pytest.mark.parametrize("name", ["pageSize", "page_size"])
def test_a_size_out_of_range_is_400(api: APIClient, name: str, value: str) -> None:
    response = api.get(NUMBERS, {name: value})
    assert response.status_code == 400
    assert response.json()["details"] == {"pageSize": ["Must be a whole number from 1 to 100."]}
