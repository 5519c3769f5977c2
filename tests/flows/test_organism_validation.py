"""An organism is checked whole: every error at once, each with its path, line and column."""

import textwrap
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import Field, model_validator

from flows.blocks import catalogue
from flows.blocks.base import Block, BlockConfig, Context
from flows.organism import OrganismInvalid, load, validate
from flows.organism.spec import Concurrency, Validation

pytestmark = pytest.mark.once

ORDER_ALERT = """\
organism:
  name: order-alert
  entry: fetch_order        # default: the first listener
  timeout: 300
  max_messages: 1000
listeners:
  - name: fetch_order
    description: Reads the order
    handler: blox.http
    config:
      url: "https://shop.example/orders/{{ payload.id }}"
      headers: {Authorization: "Bearer {{ secrets.SHOP_KEY }}"}
    retry: {max_attempts: 4, backoff: 1.5, max_delay: 60}
    timeout: 10
    on_error: tell_ops
    on_crash: fail
    peers: [is_large]
  - name: is_large
    handler: blox.branch
    config:
      cases: [{when: "payload.body.total > 100", to: write_note}]
      otherwise: done
    peers: [write_note, done]
  - name: write_note
    handler: blox.transform
    config: {value: {text: "Order {{ steps.fetch_order.body.id }}"}}
    peers: [done]
  - name: done
    handler: blox.output
  - name: tell_ops
    handler: blox.log
    config: {message: "{{ payload.error }}"}
"""


def listeners(text: str) -> str:
    return "organism: {name: x}\nlisteners:\n" + textwrap.indent(textwrap.dedent(text).strip("\n"), "  ") + "\n"


def found(validation: Validation) -> list[tuple[int, str, str]]:
    return [(error.line, error.path, error.message) for error in validation.errors]


def only_error(text: str) -> tuple[str, int, int, str]:
    errors = validate(text).errors
    assert len(errors) == 1, errors
    return errors[0].path, errors[0].line, errors[0].column, errors[0].message


def test_a_valid_organism_is_ready_to_run() -> None:
    organism = load(ORDER_ALERT)
    assert (organism.name, organism.entry, organism.timeout, organism.max_messages) == (
        "order-alert",
        "fetch_order",
        300.0,
        1000,
    )
    assert list(organism.listeners) == ["fetch_order", "is_large", "write_note", "done", "tell_ops"]
    fetch = organism.listeners["fetch_order"]
    assert (fetch.retry.max_attempts, fetch.retry.backoff, fetch.retry.max_delay, fetch.retry.explicit) == (
        4,
        1.5,
        60.0,
        True,
    )
    assert (fetch.timeout, fetch.on_error, fetch.on_crash, fetch.peers) == (10.0, "tell_ops", "fail", ("is_large",))
    assert fetch.edges == ("is_large", "tell_ops")
    assert fetch.config.secret_names == {"SHOP_KEY"}
    assert validate(ORDER_ALERT).warnings == []


def test_what_is_left_out_takes_the_blocks_defaults() -> None:
    text = listeners("""
        - name: get
          handler: blox.http
          config: {url: "https://x.example"}
        - name: never
          handler: blox.output
          config:
          peers:
    """)
    get = load(text).listeners["get"]
    http = catalogue()["blox.http"]
    assert (get.retry.max_attempts, get.retry.explicit, get.timeout) == (
        http.default_attempts,
        False,
        http.default_timeout,
    )
    assert load(text).entry == "get"


def test_the_graph_has_every_listener_and_every_kind_of_edge() -> None:
    graph = validate(ORDER_ALERT).graph
    assert graph["nodes"][0] == {
        "id": "fetch_order",
        "handler": "blox.http",
        "title": "HTTP request",
        "description": "Reads the order",
        "entry": True,
    }
    assert [(edge["source"], edge["target"], edge["kind"]) for edge in graph["edges"]] == [
        ("fetch_order", "is_large", "peer"),
        ("fetch_order", "tell_ops", "on_error"),
        ("is_large", "write_note", "peer"),
        ("is_large", "done", "peer"),
        ("write_note", "done", "peer"),
    ]


def test_the_graph_of_an_organism_with_errors_shows_what_could_be_read() -> None:
    graph = validate(listeners("- {name: a, handler: nope.x, peers: [b, gone]}\n- {name: b}\n- 3")).graph
    assert [node["id"] for node in graph["nodes"]] == ["a", "b"]
    assert [(edge["source"], edge["target"]) for edge in graph["edges"]] == [("a", "b")]
    assert validate("{{").graph == {"nodes": [], "edges": []}


def test_every_error_is_found_at_once_with_its_place() -> None:
    text = """\
organism:
  name: broken
  entri: a
  timeout: "soon"
listeners:
  - name: fetch
    handler: blox.htp
    peers: [fetch, feth]
  - name: call
    handler: blox.http
    config:
      urll: x
      method: GOT
      headers:
        a: "{{ nope }}"
      body: |
        first
        then {{ payload..x }}
    timeout: 99999
    on_error: nobody
  - name: choose
    handler: blox.branch
    config:
      cases:
        - {when: "payload.x >", to: done}
      otherwise: 7
    peers: [fetch]
"""
    assert [(error.line, error.column, error.path) for error in validate(text).errors] == [
        (3, 3, "organism.entri"),
        (4, 12, "organism.timeout"),
        (7, 14, "listeners[0].handler"),
        (8, 20, "listeners[0].peers[1]"),
        (11, 5, "listeners[1].config.url"),
        (12, 7, "listeners[1].config.urll"),
        (13, 15, "listeners[1].config.method"),
        (15, 16, "listeners[1].config.headers.a"),
        (18, 25, "listeners[1].config.body"),
        (19, 14, "listeners[1].timeout"),
        (20, 15, "listeners[1].on_error"),
        (25, 30, "listeners[2].config.cases[0].when"),
        (25, 37, "listeners[2].config.cases[0].to"),
        (26, 18, "listeners[2].config.otherwise"),
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a", 'an object with "organism:" and "listeners:"'),
        ("- a", "not a list"),
        ("organism: {name: x}", "at least one listener"),
        ("organism: {name: x}\nlisteners: []", "at least one listener"),
        ("organism: {name: x}\nlisteners: {a: {handler: blox.output}}", "a list of listeners"),
        ("organism: {name: x}\nlisteners: [3]", "A listener is an object"),
        ("listeners:\n  - {name: a, handler: blox.output}", 'needs "organism:"'),
        ("organism: x\nlisteners:\n  - {name: a, handler: blox.output}", "must be an object"),
        ("organism: {}\nlisteners:\n  - {name: a, handler: blox.output}", "needs a name"),
        ("organism: {name: 3}\nlisteners:\n  - {name: a, handler: blox.output}", "write it in quotes, '3'"),
        ("organism: {name: x, entry: b}\nlisteners:\n  - {name: a, handler: blox.output}", 'no listener "b"'),
        ("organism: {name: x, timeout: 0}\nlisteners:\n  - {name: a, handler: blox.output}", "more than 0"),
        (
            "organism: {name: x, max_messages: 100001}\nlisteners:\n  - {name: a, handler: blox.output}",
            "from 1 to 100,000",
        ),
        (
            "organism: {name: x, max_messages: true}\nlisteners:\n  - {name: a, handler: blox.output}",
            "not true or false",
        ),
        (
            "organism: {name: x, on_failure: {}}\nlisteners:\n  - {name: a, handler: blox.output}",
            "one of email, flow and url",
        ),
        ("organism: {name: x, on_failure: ops}\nlisteners:\n  - {name: a, handler: blox.output}", "must be an object"),
        (
            "organism: {name: x, timeout: '{{ vars.t }}'}\nlisteners:\n  - {name: a, handler: blox.output}",
            "in config only",
        ),
        (
            "organism: {name: x}\nlistners: 3\nlisteners:\n  - {name: a, handler: blox.output}",
            'Did you mean "listeners"?',
        ),
    ],
)
def test_the_frame_is_checked(text: str, words: str) -> None:
    assert words in only_error(text)[3]


@pytest.mark.parametrize(
    ("listener", "words"),
    [
        ("{handler: blox.output}", "needs a name"),
        ("{name: a}", "needs a handler"),
        ("{name: Calc.Add, handler: blox.output}", '"calc_add" would do'),
        ("{name: 9a, handler: blox.output}", "small letter"),
        (f"{{name: {'a' * 64}, handler: blox.output}}", "63 characters"),
        ("{name: a, handler: blox.http_request}", 'Did you mean "blox.http"?'),
        ("{name: a, handler: transform}", 'Did you mean "blox.transform"?'),
        ("{name: a, handler: os.system.x}", "looks like Python code"),
        ("{name: a, handler: zzz}", "The blocks are blox."),
        ("{name: a, handler: blox.output, peer: [a]}", 'Did you mean "peers"?'),
        ("{name: a, handler: blox.output, peers: a}", "a list of listeners: [a]"),
        ("{name: a, handler: blox.output, peers: [1]}", "the name of a listener, not a number"),
        ("{name: a, handler: blox.output, peers: [b]}", 'no listener "b"'),
        ("{name: a, handler: blox.output, on_error: a}", "cannot handle its own errors"),
        ("{name: a, handler: blox.output, on_crash: maybe}", "retry, fail or ask"),
        ("{name: a, handler: blox.output, timeout: -1}", "seconds, more than 0"),
        ("{name: a, handler: blox.output, retry: 3}", "must be an object"),
        ("{name: a, handler: blox.output, retry: {backoff: 2}}", "retry needs max_attempts"),
        ("{name: a, handler: blox.output, retry: {max_attempts: 21}}", "from 1 to 20"),
        ("{name: a, handler: blox.output, retry: {max_attempts: 1.5}}", "whole number"),
        ("{name: a, handler: blox.output, retry: {max_attempts: 2, backoff: 0.5}}", "from 1 to 10"),
        ("{name: a, handler: blox.output, retry: {max_attempts: 2, delay: 1}}", 'Did you mean "max_delay"?'),
        ("{name: a, handler: blox.output, next: [a]}", '"next" is for agents'),
        ("{name: a, handler: blox.output, agent: true}", "is not an agent"),
        ("{name: a, handler: blox.output, agent: maybe}", "true or false"),
        ("{name: a, handler: blox.output, description: [x]}", "must be a text"),
        ("{name: a, handler: blox.output, config: [x]}", "must be an object"),
        ("{name: a, handler: blox.output, config: {valu: 1}}", 'Did you mean "value"?'),
        ("{name: a, handler: blox.transform, config: {value: '{{ steps.b.x }}'}}", 'no listener "b"'),
        ("{name: a, handler: blox.transform, config: {value: '{{ secrets.K }}'}}", "Secrets are not allowed here"),
    ],
)
def test_a_listener_is_checked(listener: str, words: str) -> None:
    assert words in only_error(listeners(f"- {listener}"))[3]


def test_two_listeners_of_one_name_are_an_error_at_the_second() -> None:
    path, line, _, message = only_error(
        listeners("- {name: a, handler: blox.output}\n- {name: a, handler: blox.output}")
    )
    assert (path, line) == ("listeners[1].name", 4)
    assert "already, on line 3" in message


def test_one_value_has_one_error() -> None:
    assert "leading zeros" in only_error(listeners("- {name: a, handler: blox.output, timeout: 010}"))[3].lower()


def test_500_listeners_are_the_most() -> None:
    def many(count: int) -> str:
        return listeners("\n".join(f"- {{name: n{i}, handler: blox.output}}" for i in range(count)))

    assert validate(many(500)).errors == []
    assert "at most 500" in only_error(many(501))[3]


def test_a_peer_that_a_block_names_must_be_its_peer() -> None:
    text = """
        - name: a
          handler: blox.for_each
          config: {items: "{{ payload }}", each: b}
          peers: [c]
        - {name: b, handler: blox.output}
        - {name: c, handler: blox.output}
    """
    path, _, _, message = only_error(listeners(text))
    assert (path, message) == ("listeners[0].config.each", '"b" is not one of this listener\'s peers. Add it to peers.')


def test_listeners_that_no_message_can_reach_are_a_warning() -> None:
    validation = validate(listeners("- {name: a, handler: blox.output}\n- {name: b, handler: blox.output, peers: [a]}"))
    assert validation.valid
    assert [(warning.path, warning.line) for warning in validation.warnings] == [("listeners[1].name", 4)]


def with_concurrency(value: str) -> str:
    return listeners("- {name: a, handler: blox.output}").replace("{name: x}", f"{{name: x, concurrency: {value}}}")


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("2", Concurrency(2, "queue")),
        ("{limit: 3}", Concurrency(3, "queue")),
        ("{limit: 1, overlap: skip}", Concurrency(1, "skip")),
        ("{limit: 1, overlap: cancel}", Concurrency(1, "cancel")),
    ],
)
def test_concurrency_is_a_limit_or_a_limit_with_what_overlaps(written: str, read: Concurrency) -> None:
    validation = validate(with_concurrency(written))
    assert validation.organism is not None and validation.organism.concurrency == read
    assert validation.warnings == []


@pytest.mark.parametrize(
    ("written", "path", "says"),
    [
        ("0", "organism.concurrency", "from 1 to 10,000"),
        ("yes", "organism.concurrency", "a whole number"),
        ("{overlap: skip}", "organism.concurrency.limit", "needs a limit"),
        ("{limit: 0}", "organism.concurrency.limit", "from 1 to 10,000"),
        ("{limit: 1, overlap: replace}", "organism.concurrency.overlap", "one of queue, skip, cancel"),
        ("{limit: 1, overlaps: skip}", "organism.concurrency.overlaps", "overlap"),
    ],
)
def test_a_concurrency_that_cannot_be_read_is_an_error_with_its_place(written: str, path: str, says: str) -> None:
    [error] = validate(with_concurrency(written)).errors
    assert error.path == path and says in error.message


def test_load_refuses_with_every_error() -> None:
    with pytest.raises(OrganismInvalid) as caught:
        load(listeners("- {name: a, handler: nope}\n- {name: b, handler: nope}"))
    error = caught.value
    assert (error.code, error.status) == ("invalid_organism", 400)
    assert error.message.startswith("The organism has 2 errors: line 3, listeners[0].handler: There is no block")
    assert error.details is not None
    assert [set(found) for found in error.details["errors"]] == [{"path", "line", "column", "message"}] * 2


# -- config --------------------------------------------------------------------------------------------------------


class Part(BlockConfig):
    weight: float = Field(gt=0)


class StrictConfig(BlockConfig):
    count: int = Field(description="How many.")
    parts: list[Part] = []
    mode: str | None = None
    raw: Any = None

    @model_validator(mode="before")
    @classmethod
    def _not_both(cls, data: Any) -> Any:
        if isinstance(data, dict) and "mode" in data and "raw" in data:
            raise ValueError("give mode or raw, not both")
        return data


class Strict(Block):
    name = "test.strict"
    title = description = category = example = "strict"
    Config = StrictConfig
    raw_fields: ClassVar[frozenset[str]] = frozenset({"raw"})

    async def run(self, ctx: Context, config: Any, payload: Any) -> Any:
        return None


class Broken(Strict):
    name = "test.broken"

    class Config(BlockConfig):
        @model_validator(mode="before")
        @classmethod
        def _fail(cls, data: Any) -> Any:
            raise RuntimeError("a bug of another package")


def check_config(config: str, handler: str = "test.strict") -> list[tuple[int, str, str]]:
    blocks = {block.name: block for block in (Strict(), Broken())}
    return found(
        validate(listeners(f"- name: a\n  handler: {handler}\n  config:\n{textwrap.indent(config, '    ')}"), blocks)
    )


def test_a_placeholder_may_stand_for_any_value() -> None:
    assert check_config('count: "{{ payload.n }}"\nparts: "{{ payload.parts }}"') == []
    assert check_config('count: 1\nparts: [{weight: "{{ payload.w }}"}]') == []


def test_beside_a_placeholder_everything_else_is_still_checked() -> None:
    assert check_config('count: "{{ payload.n }}"\nparts: [{weigth: "{{ payload.w }}"}]') == [
        (7, "listeners[0].config.parts[0].weight", 'test.strict needs "weight".'),
        (7, "listeners[0].config.parts[0].weigth", 'test.strict has no "weigth" here. Did you mean "weight"?'),
    ]


def test_a_raw_field_is_not_a_placeholder() -> None:
    assert check_config('count: 1\nraw: "{{ not cel"') == []


def test_a_rule_on_the_whole_does_not_hide_what_is_wrong_with_the_fields() -> None:
    assert check_config("mode: 1\nraw: 2\nextra: 3") == [
        (5, "listeners[0].config.count", 'test.strict needs "count": How many.'),
        (5, "listeners[0].config", "Give mode or raw, not both."),
        (6, "listeners[0].config.mode", "This should be a valid string, not 1."),
        (8, "listeners[0].config.extra", 'test.strict has no "extra" here. It takes count, parts, mode, raw.'),
    ]


def test_a_missing_config_is_reported_where_the_block_is_named() -> None:
    blocks = {"test.strict": Strict()}
    validation = validate(listeners("- name: a\n  handler: test.strict"), blocks)
    assert found(validation) == [(4, "listeners[0].config.count", 'test.strict needs "count": How many.')]


def test_a_validator_that_crashes_is_an_error_of_that_config() -> None:
    assert check_config("x: 1", "test.broken") == [
        (5, "listeners[0].config", "test.broken cannot check this config: RuntimeError.")
    ]


@pytest.mark.parametrize("name", sorted(catalogue()))
def test_the_example_of_every_block_is_valid_but_for_the_listeners_it_leaves_out(name: str) -> None:
    errors = validate(listeners(catalogue()[name].example)).errors
    assert [error for error in errors if "There is no listener" not in error.message] == []


def test_the_example_of_the_language_page_is_valid() -> None:
    page = (Path(__file__).parents[2] / "docs" / "language.md").read_text()
    example = page.split("```yaml\n")[1].split("```")[0]
    validation = validate(example)
    assert (validation.errors, validation.warnings) == ([], [])


LETTERS = str.maketrans("0123456789", "abcdefghij")


def test_a_thousand_long_unknown_names_are_each_answered_with_the_nearest() -> None:
    """With difflib this one request kept a processor busy for 100 seconds."""
    known = [f"{number:03}".translate(LETTERS) * 20 for number in range(400)]
    unknown = [f"{name[:-1]}_{number}" for number, name in enumerate(known * 2)]
    listeners = "".join(f"- {{name: {name}, handler: blox.output}}\n" for name in known)
    last = f"- {{name: last, handler: blox.output, peers: [{', '.join(unknown)}]}}\n"
    found = validate(f"organism: {{name: x}}\nlisteners:\n{listeners}{last}")
    assert all("Did you mean" in problem.message for problem in found.errors[:-1])
    assert "300 more" in found.errors[-1].message


def test_of_very_many_errors_the_first_are_shown_and_the_rest_counted() -> None:
    text = "organism: {name: x}\nlisteners:\n" + "".join(f"  - {{name: a{n}, nope: 1, no: 2}}\n" for n in range(400))
    errors = validate(text).errors
    assert len(errors) == 501
    assert "more are not shown" in errors[-1].message
