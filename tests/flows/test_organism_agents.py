"""What the flow language says of agents: their options, their tools, and where their answer goes."""

import textwrap
from pathlib import Path
from typing import Any

import pytest

from executions.engine.planner import Plan
from flows.organism import load, validate
from flows.organism.graph import reachable_from
from flows.organism.spec import Listener, Problem

pytestmark = pytest.mark.once

AGENT = "name: agent, handler: blox.agent, model: anthropic:claude-sonnet-4-5"


def listeners(text: str) -> str:
    return "organism: {name: x}\nlisteners:\n" + textwrap.indent(textwrap.dedent(text).strip("\n"), "  ") + "\n"


def agent(options: str = "", more: str = "- {name: done, handler: blox.output}") -> str:
    return listeners(f"- {{{AGENT}{', ' if options else ''}{options}}}\n{more}")


def loaded(text: str, name: str = "agent") -> Listener:
    return load(text).listeners[name]


def only_error(text: str) -> tuple[str, str]:
    errors = validate(text).errors
    assert len(errors) == 1, errors
    return errors[0].path, errors[0].message


def tools(text: str) -> dict[str, Any]:
    return {tool.name: tool.input_schema for tool in loaded(text).tools}


# Options on the listener. ----------------------------------------------------------------------------------------
def test_options_on_the_listener_are_the_blocks() -> None:
    text = listeners("""
        - name: agent
          handler: blox.agent
          agent: true
          model: openai:gpt-5
          fallback: [anthropic:claude-sonnet-4-5]
          prompt: "You serve {{ vars.shop }}."
          cache: {mode: semantic, threshold: 0.9}
          memory: {kind: flow, key: "{{ payload.customer }}"}
          config: {max_turns: 3}
    """)
    config = loaded(text).config.render({"vars": {"shop": "Acme"}, "payload": {"customer": 7}}, str)
    assert config == {
        "max_turns": 3,
        "model": "openai:gpt-5",
        "fallback": ["anthropic:claude-sonnet-4-5"],
        "prompt": "You serve Acme.",
        "cache": {"mode": "semantic", "threshold": 0.9},
        "memory": {"kind": "flow", "key": 7},
    }


@pytest.mark.parametrize(
    ("options", "path", "part"),
    [
        ("prompt: '{{ payload.x + }}'", "listeners[0].prompt", "not a CEL expression"),
        ("prompt: '{{ secrets.KEY }}'", "listeners[0].prompt", "Secrets are not allowed here"),
        ("prompt: '{{ steps.gone.x }}'", "listeners[0].prompt", 'there is no listener "gone"'),
        ("prompt: 3", "listeners[0].prompt", "must be a text"),
        ("prompt: a, config: {prompt: b}", "listeners[0].prompt", "stands in config as well"),
        ("fallback: openai:gpt-5", "listeners[0].fallback", "valid list"),
        ("fallback: ['a b']", "listeners[0].fallback[0]", "'a b' is no model"),
        ("cache: sometimes", "listeners[0].cache", "'exact', 'semantic' or 'off'"),
        ("memory: forever", "listeners[0].memory", "'execution' or 'flow'"),
        ("memory: {kind: flow, size: 3}", "listeners[0].memory.size", 'no "size"'),
        ("config: {approve: [done]}", "listeners[0].config.approve[0]", "not one of this listener's peers"),
        ("config: {max_cost: 0}", "listeners[0].config.max_cost", "greater than 0"),
        ("config: {schema: {type: objct}}", "listeners[0].config.schema.type", "This is no JSON Schema"),
        ("config: {schema: {type: array}}", "listeners[0].config.schema", "type: object"),
        ("peers: [gone]", "listeners[0].peers[0]", 'no listener "gone"'),
        ("next: [gone]", "listeners[0].next[0]", 'no listener "gone"'),
    ],
)
def test_a_wrong_option_is_an_error_where_it_stands(options: str, path: str, part: str) -> None:
    found, message = only_error(agent(options, "- {name: done, handler: blox.output}"))
    assert found == path
    assert part in message


def test_a_model_is_needed() -> None:
    path, message = only_error(listeners("- {name: a, handler: blox.agent}"))
    assert path == "listeners[0].config.model"
    assert "needs" in message


@pytest.mark.parametrize(
    ("listener", "path", "part"),
    [
        ("{name: a, handler: blox.output, memory: flow}", "listeners[0].memory", 'blox.output takes no "memory"'),
        ("{name: a, handler: blox.llm, model: m, memory: flow}", "listeners[0].memory", 'blox.llm takes no "memory"'),
        ("{name: a, handler: blox.llm, model: m, next: [a]}", "listeners[0].next", '"next" is for agents'),
        ("{name: a, handler: blox.llm, model: m, agent: true}", "listeners[0].agent", "is not an agent"),
    ],
)
def test_what_is_of_agents_is_an_error_elsewhere(listener: str, path: str, part: str) -> None:
    found, message = only_error(listeners(f"- {listener}"))
    assert found == path
    assert part in message


def test_model_and_prompt_of_other_files_are_only_warned_of() -> None:
    validation = validate(listeners("- {name: a, handler: blox.output, model: x, prompt: y}"))
    assert validation.errors == []
    assert [warning.path for warning in validation.warnings] == ["listeners[0].model", "listeners[0].prompt"]


# Tools. ----------------------------------------------------------------------------------------------------------
PEERS = """
- {name: add, handler: blox.calculate}
- {name: double, handler: blox.calculate, config: {expression: "2 * {{ payload.n }}"}}
- {name: web, handler: blox.http, description: Looks up, config: {url: "https://x.example/{{ payload.q }}"}}
- {name: keep, handler: blox.key_value, config: {op: set, key: k, value: 1}}
- {name: helper, handler: blox.agent, model: openai:gpt-5}
- name: search
  handler: blox.transform
  config: {value: 1}
  input: {type: object, properties: {text: {type: string}}, required: [text]}
"""


def test_a_tool_is_described_by_its_input_its_block_or_what_its_config_reads() -> None:
    text = agent("peers: [add, double, web, keep, helper, search]", PEERS)
    found = tools(text)
    assert found["add"]["required"] == ["expression"]
    assert found["double"] == {"type": "object", "properties": {"n": {}}}
    assert found["web"] == {"type": "object", "properties": {"q": {}}}
    assert found["keep"] == {"type": "object"}
    assert found["helper"]["required"] == ["prompt"]
    assert found["search"] == {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
    descriptions = {tool.name: tool.description for tool in loaded(text).tools}
    assert descriptions["web"] == "Looks up"
    assert descriptions["keep"].startswith("Keeps values")


def test_listeners_that_are_no_agents_have_no_tools() -> None:
    assert loaded(agent("next: [done]"), "done").tools == ()


@pytest.mark.parametrize(
    ("schema", "path", "part"),
    [
        ("{type: object, properties: {n: {type: numbr}}}", "listeners[0].input.properties.n.type", "no JSON Schema"),
        ("{type: string}", "listeners[0].input.type", "describes an object"),
        ("{properties: {}}", "listeners[0].input.type", "describes an object"),
        ("text", "listeners[0].input", "must be an object"),
        ("{type: object, $ref: 'https://x.example'}", 'listeners[0].input["$ref"]', "another document"),
    ],
)
def test_an_input_that_is_no_schema_of_an_object_is_an_error_where_it_stands(schema: str, path: str, part: str) -> None:
    found, message = only_error(listeners(f"- {{name: a, handler: blox.output, input: {schema}}}"))
    assert found == path
    assert part in message


# The graph. ------------------------------------------------------------------------------------------------------
GRAPH = agent(
    "peers: [add, web], next: [join]",
    """
- {name: add, handler: blox.calculate, peers: [web]}
- {name: web, handler: blox.transform, config: {value: 1}, peers: [join]}
- {name: join, handler: blox.merge, config: {as: list}}
""",
)


def test_the_canvas_draws_tools_apart_from_where_the_answer_goes() -> None:
    edges = [(edge["source"], edge["target"], edge["kind"]) for edge in validate(GRAPH).graph["edges"]]
    assert edges[:3] == [("agent", "add", "tool"), ("agent", "web", "tool"), ("agent", "join", "next")]


def test_tools_are_reached_and_send_nothing_on() -> None:
    assert [problem for problem in validate(GRAPH).warnings if isinstance(problem, Problem)] == []
    organism = load(GRAPH)
    assert reachable_from(organism, "agent") == {"join"}
    assert organism.listeners["agent"].onward == ("join",)


def test_a_merge_fires_without_waiting_for_tools() -> None:
    plan = Plan(load(GRAPH))
    [first] = plan.start("agent", "go")
    [merge] = plan.finished(first, "answer", ("join",))
    assert (merge.listener, [arrival.payload for arrival in merge.payload]) == ("join", ["answer"])


def test_the_answer_of_an_agent_without_next_is_the_result() -> None:
    plan = Plan(load(agent("peers: [add]", "- {name: add, handler: blox.calculate}")))
    [first] = plan.start("agent", "go")
    assert plan.finished(first, "answer", ()) == []
    assert plan.result == "answer"


def test_the_example_of_the_page_about_agents_is_valid() -> None:
    page = (Path(__file__).parents[2] / "docs" / "agents.md").read_text()
    example = page.partition("```yaml\n")[2].partition("```")[0]
    validation = validate(example)
    assert (validation.errors, validation.warnings) == ([], [])
