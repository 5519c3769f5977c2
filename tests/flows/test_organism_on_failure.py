"""`organism.on_failure`: what is taken, and what is refused before a flow can start."""

import pytest

from flows.organism import load, validate
from flows.organism.spec import OnFailure, OnFailureKind

pytestmark = pytest.mark.once


def organism(on_failure: str) -> str:
    return f"organism: {{name: x, on_failure: {on_failure}}}\nlisteners:\n  - {{name: a, handler: blox.output}}\n"


@pytest.mark.parametrize(
    ("on_failure", "kind", "target"),
    [
        ("{email: ops@shop.example}", "email", "ops@shop.example"),
        ("{email: 'ops@shop.example, Eve <eve@shop.example>'}", "email", "ops@shop.example, Eve <eve@shop.example>"),
        ("{email: root@localhost}", "email", "root@localhost"),
        ("{flow: Rescue the order}", "flow", "Rescue the order"),
        ("{url: 'https://shop.example:8443/failed?key=1'}", "url", "https://shop.example:8443/failed?key=1"),
        ("{url: 'http://[::1]/'}", "url", "http://[::1]/"),
    ],
)
def test_one_of_three_is_taken_without_a_warning(on_failure: str, kind: OnFailureKind, target: str) -> None:
    assert validate(organism(on_failure)).warnings == []
    assert load(organism(on_failure)).on_failure == OnFailure(kind, target)


def test_without_it_nobody_is_told() -> None:
    assert load(organism("null")).on_failure is None


@pytest.mark.parametrize(
    ("on_failure", "path", "message"),
    [
        ("{}", "", "one of email, flow and url"),
        ("{email: a@b.example, flow: x}", "", "one of email, flow and url"),
        ("ops@shop.example", "", "must be an object"),
        ("{mail: a@b.example, email: a@b.example}", ".mail", 'Did you mean "email"?'),
        ("{email: ops}", ".email", "must be an e-mail address"),
        ("{email: 'ops@shop.example, '}", ".email", "must be an e-mail address"),
        ("{email: 'a@b.example c@d.example'}", ".email", "must be an e-mail address"),
        ('{email: "a@b.example\\nBcc: c@d.example"}', ".email", "must be an e-mail address"),
        ("{email: '" + ", ".join(["a@b.example"] * 11) + "'}", ".email", "names 11 addresses; 1 to 10"),
        ("{email: [a@b.example]}", ".email", "must be a text"),
        ("{flow: ' '}", ".flow", "name or the id of a flow"),
        ("{flow: " + "x" * 101 + "}", ".flow", "at most 100"),
        ("{url: ftp://shop.example/}", ".url", "must be a whole URL"),
        ("{url: /failed}", ".url", "must be a whole URL"),
        ("{url: 'https://shop.example/a b'}", ".url", "must be a whole URL"),
        ("{url: 'https://shop.example:99999/'}", ".url", "not a URL"),
        ("{url: 'https://me:secret@shop.example/'}", ".url", "must not hold a user name"),
        ("{url: 'https://{{ vars.host }}/'}", ".url", "evaluated in config only"),
        ("{email: '{{ vars.ops }}'}", ".email", "evaluated in config only"),
    ],
)
def test_anything_else_is_an_error_at_its_place(on_failure: str, path: str, message: str) -> None:
    [error] = validate(organism(on_failure)).errors
    assert (error.path, error.line) == (f"organism.on_failure{path}", 1)
    assert message in error.message
