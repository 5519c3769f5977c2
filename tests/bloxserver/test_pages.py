"""The pages for people: landing, API page and admin, under the content security policy."""

import re
from typing import Any

import pytest
from django.test import Client


@pytest.fixture
def client() -> Client:
    return Client()


def text(answer: Any) -> str:
    return b"".join(answer).decode() if answer.streaming else answer.content.decode()


@pytest.mark.django_db
def test_every_link_of_the_landing_page_leads_somewhere(client: Client) -> None:
    page = client.get("/")
    assert page.status_code == 200
    links = re.findall(r'href="([^"]+)"', text(page))
    assert len(links) == 5  # the icon is one
    assert {link: client.get(link).status_code for link in links} == {
        link: 302 if link == "/admin/" else 200 for link in links
    }


def test_the_api_page_and_all_it_loads_come_from_here_and_need_no_inline_script(client: Client) -> None:
    page = client.get("/api/docs")
    assert "script-src 'self'" in page["Content-Security-Policy"]
    scripts = re.findall(r"<script([^>]*)>([^<]*)</script>", text(page))
    assert [body.strip() for _, body in scripts] == ["", "", ""]
    sources = re.findall(r'(?:src|href)="([^"]+)"', text(page))
    assert len(sources) >= 4
    for source in sources:
        assert source.startswith("/"), source
        answer = client.get(source)
        assert (answer.status_code, bool(text(answer)) if "png" not in source else True) == (200, True)


def test_the_script_of_the_api_page_reads_the_schema(client: Client) -> None:
    script = client.get("/api/docs?script=")
    assert script["Content-Type"].startswith("application/javascript")
    assert '"/api/schema"' in text(script)


def test_the_schema_is_openapi_3_1(client: Client) -> None:
    answer = client.get("/api/schema?format=json")
    assert answer.json()["openapi"].startswith("3.1.")
    assert "/api/v1/flows" in answer.json()["paths"]


@pytest.mark.parametrize("path", ["/nothing", "/api/nothing", "/api/v1/nothing", "/api/v1/flows/"])
def test_an_unknown_path_is_an_api_error(client: Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert answer.content == b'{"code":"not_found","message":"Not found.","details":null}'


def test_an_unknown_host_is_an_api_error_and_not_an_answer(client: Client) -> None:
    answer = client.get("/api/v1/flows", headers={"host": "evil.example"})
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")
