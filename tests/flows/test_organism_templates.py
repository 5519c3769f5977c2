"""Placeholders: found, rendered, and never evaluated twice."""

import base64
from typing import Any, ClassVar
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bloxserver.core.errors import NotFound
from flows.blocks.base import Block, BlockConfig, Context
from flows.organism.expressions import Condition, ExpressionError
from flows.organism.scope import Scope
from flows.organism.templates import CompiledConfig, as_text, compile_config, redact, split

pytestmark = pytest.mark.once

SCOPE = {
    "payload": {"id": 7, "name": "Ada", "list": [1, "two"], "none": None, "yes": True, "half": 1.5, "whole": 3.0}
    | {"braces": "{{ 1 + 1 }}"},
    "steps": {"a-b": {"x": 1}},
    "vars": {},
}  # fmt: skip


class AnyConfig(BlockConfig):
    value: Any = None
    headers: Any = None
    source: Any = None
    cases: Any = None


class AnyBlock(Block):
    name = "test.any"
    title = description = category = example = "any"
    Config = AnyConfig
    secret_fields: ClassVar[frozenset[str]] = frozenset({"headers"})
    raw_fields: ClassVar[frozenset[str]] = frozenset({"source"})
    expression_paths: ClassVar[frozenset[tuple[str, ...]]] = frozenset({("cases", "*", "when")})

    async def run(self, ctx: Context, config: Any, payload: Any) -> Any:
        return config.value


def no_secrets(name: str) -> str:
    raise KeyError(name)


def compiled(**config: Any) -> CompiledConfig:
    done, problems = compile_config(config, AnyBlock())
    assert problems == []
    return done


def rendered(value: Any) -> Any:
    return compiled(value=value).render(SCOPE, no_secrets)["value"]


def problem(**config: Any) -> tuple[tuple[str | int, ...], int, str]:
    _, problems = compile_config(config, AnyBlock())
    assert len(problems) == 1, problems
    return problems[0].path, problems[0].offset, problems[0].message


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{{ payload.id }}", 7),
        ("{{payload.list}}", [1, "two"]),
        ("{{ payload.none }}", None),
        ("{{ payload.yes }}", True),
        ("id {{ payload.id }}", "id 7"),
        (" {{ payload.id }}", " 7"),
        ("{{ payload.id }}{{ payload.id }}", "77"),
        ("{{ payload.none }}!", "!"),
        ("{{ payload.yes }}!", "true!"),
        ("{{ payload.half }}/{{ payload.whole }}", "1.5/3"),
        ("x={{ payload.list }}", 'x=[1,"two"]'),
        ("{{ {'a': {'b': 1}} }}", {"a": {"b": 1}}),
        ("{{ {'a': 1}}}", {"a": 1}),
        ("{{ '}}' }}", "}}"),
        ("{{ \"'}}\" + '\\'}}' }}!", "'}}'}}!"),
        ("{{ r'\\d}}' + '''}}'a''' + \"\"\"{{\"\"\" }}.", "\\d}}}}'a{{."),
        ("{{ '{{' }}", "{{"),
        ("{{ '{{' }} payload.id }}", "{{ payload.id }}"),
        ("{{ payload.id // it's }}", 7),
        ("no placeholder }} here", "no placeholder }} here"),
        ("{ {payload} }", "{ {payload} }"),
        ("{{\n  payload.id\n  + 1\n}}", 8),
    ],
)
def test_a_text_is_rendered(text: str, value: Any) -> None:
    result = rendered(text)
    assert result == value and type(result) is type(value)


def test_data_is_never_evaluated_again() -> None:
    assert rendered("{{ payload.braces }}") == "{{ 1 + 1 }}"
    assert rendered("a {{ payload.braces }}") == "a {{ 1 + 1 }}"


def test_placeholders_are_rendered_at_any_depth_and_the_rest_stays() -> None:
    value = {"a": [1, {"b": "{{ payload.id }}"}, None], "c": "plain", "d": 1.5}
    assert rendered(value) == {"a": [1, {"b": 7}, None], "c": "plain", "d": 1.5}


def test_what_a_block_does_to_its_config_does_not_reach_the_next_delivery() -> None:
    config = compiled(value={"list": [1]})
    config.render(SCOPE, no_secrets)["value"]["list"].append(2)
    assert config.render(SCOPE, no_secrets)["value"] == {"list": [1]}


@pytest.mark.parametrize(
    ("text", "offset", "words"),
    [
        ("ab {{ payload.id", 3, "}} is missing"),
        ("{{ {'a': 1 }}", 0, "}} is missing"),
        ("{{ payload.id }", 0, "}} is missing"),
        ("{{ 'x }}", 3, "quote in this placeholder is not closed"),
        ("a {{ }}", 5, "empty"),
        ("a {{ 1 + nope }}", 9, 'There is no "nope"'),
        ("{{ payload.id }} {{ payload.}}", 28, "cannot be read"),
    ],
)
def test_an_error_in_a_placeholder_has_its_place_in_the_text(text: str, offset: int, words: str) -> None:
    path, found, message = problem(value=[text])
    assert path == ("value", 0)
    assert words in message
    assert found == offset


def test_raw_fields_are_left_alone() -> None:
    assert compiled(source="{{ not cel").render(SCOPE, no_secrets) == {"source": "{{ not cel"}


def test_a_bare_expression_becomes_a_condition_that_the_block_evaluates() -> None:
    config = compiled(cases=[{"when": "payload.id > 5", "to": "x"}, {"when": True}, {"when": "payload.missing"}])
    cases = config.render(SCOPE, no_secrets)["cases"]
    assert isinstance(cases[0]["when"], Condition)
    assert (cases[0]["when"].source, cases[0]["when"].evaluate(), cases[1]["when"].evaluate()) == (
        "payload.id > 5",
        True,
        True,
    )
    with pytest.raises(ExpressionError, match='the payload has no "missing"'):
        cases[2]["when"].evaluate()


@pytest.mark.parametrize("value", [3, None, ["x"], {"a": 1}])
def test_a_condition_must_be_text(value: Any) -> None:
    assert problem(cases=[{"when": value}])[2].startswith("This must be a CEL expression as text")


def test_a_failure_names_the_place_the_expression_and_the_missing_name() -> None:
    config = compiled(headers={"X-Id": "id {{ payload.idd }}"})
    with pytest.raises(ExpressionError) as caught:
        config.render(SCOPE, no_secrets)
    assert caught.value.message == 'headers.X-Id: payload.idd: the payload has no "idd"; did you mean "id"?'


def test_a_scope_says_what_was_replaced_also_by_a_condition() -> None:
    scope = Scope({"payload": {"cut": "a\0", "big": 2**65}})
    config = compiled(value="{{ payload.cut + '!' }}", headers="{{ secrets.K }}", cases=[{"when": "payload.big > 0.0"}])
    result = config.render(scope, {"K": "v"}.__getitem__)
    assert [line.partition(":")[0] for line in scope.replaced] == ["payload.cut"]
    assert result["cases"][0]["when"].evaluate() is True
    assert [line.partition(":")[0] for line in scope.replaced] == ["payload.cut", "payload.big"]


# -- secrets -------------------------------------------------------------------------------------------------------


def test_a_secret_is_rendered_where_the_block_allows_it() -> None:
    config = compiled(headers={"Authorization": "Bearer {{ secrets.API_KEY }}", "n": "{{ payload.id }}"})
    assert config.secret_names == {"API_KEY"}
    assert config.render(SCOPE, {"API_KEY": "s3cret"}.__getitem__)["headers"] == {
        "Authorization": "Bearer s3cret",
        "n": 7,
    }
    assert config.raw["headers"]["Authorization"] == "Bearer {{ secrets.API_KEY }}"


def test_a_secret_elsewhere_is_an_error_that_says_where_it_is_allowed() -> None:
    path, offset, message = problem(value="key {{ secrets.KEY }}")
    assert (path, offset) == (("value",), 7)
    assert message == "Secrets are not allowed here. test.any takes them in: headers."
    assert "not allowed here" in problem(cases=[{"when": "secrets.KEY == 'x'"}])[2]


@pytest.mark.parametrize(
    "text", ["{{ secrets }}", "{{ secrets[payload.name] }}", "{{ secrets.A.b }}", "{{ secrets[0] }}"]
)
def test_secrets_are_read_by_name_only(text: str) -> None:
    assert problem(headers=text)[2] == "A secret is read by its name: secrets.NAME."


@pytest.mark.parametrize("error", [KeyError("x"), NotFound("no")])
def test_a_secret_that_is_not_there_is_an_error_that_names_it(error: Exception) -> None:
    def missing(name: str) -> str:
        raise error

    with pytest.raises(ExpressionError, match='there is no secret "KEY"; add it under secrets'):
        compiled(headers="{{ secrets.KEY }}").render(SCOPE, missing)


def test_no_error_shows_a_secret() -> None:
    config = compiled(headers="{{ payload.name.matches(secrets.KEY) }}")
    with pytest.raises(ExpressionError) as caught:
        config.render(SCOPE, {"KEY": "canary(("}.__getitem__)
    assert "canary" not in caught.value.message
    assert "***" in caught.value.message


def test_secrets_are_hidden_in_every_form_that_they_take() -> None:
    secret = 'pa"ss/w ör\\d'
    forms = [secret, quote(secret), quote(secret, safe=""), base64.b64encode(secret.encode()).decode(), repr(secret)]
    value = {"texts": [f"x {form} y" for form in forms], f"key {secret}": 1, "n": 5}
    hidden = redact(value, [secret, ""])
    assert hidden["texts"][:4] == ["x *** y"] * 4
    assert hidden["key ***"] == 1
    assert "ss/w" not in str(hidden)


def test_the_longer_of_two_secrets_is_hidden_whole_and_a_short_one_only_where_it_is_all() -> None:
    assert redact("token-extended token-", ["token-", "token-extended"]) == "*** ***"
    assert redact(["ab", "abacus"], ["ab"]) == ["***", "abacus"]
    assert redact({"a": 1}, []) == {"a": 1}


# -- whatever comes ------------------------------------------------------------------------------------------------


@settings(max_examples=500, deadline=None)
@given(
    st.lists(
        st.sampled_from(["{{", "}}", "{", "}", "'", '"', "payload.id", "//", "\\", "\n", "r'", '"""', "`", " x "]),
        max_size=20,
    )
)
def test_any_text_is_rendered_or_refused(pieces: list[str]) -> None:
    config, problems = compile_config({"value": "".join(pieces)}, AnyBlock())
    if problems:
        assert all(found.message and 0 <= found.offset <= len("".join(pieces)) for found in problems)
        return
    try:
        config.render(SCOPE, no_secrets)
    except ExpressionError as error:
        assert error.source  # noqa: PT017 - either way is right


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=50))
def test_any_data_comes_through_as_text_unchanged(data: str) -> None:
    scope = {"payload": data}
    assert compiled(value="<{{ payload }}>").render(scope, no_secrets) == {"value": f"<{data}>"}


def test_a_long_text_of_braces_is_split_in_linear_time() -> None:
    assert len(split("{{ 1 }} " * 30_000)) == 60_000
    assert as_text({"a": [1, None, 2.0, "é"]}) == '{"a":[1,null,2.0,"é"]}'
