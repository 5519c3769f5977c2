"""Organism files of xml-pipeline: what is accepted, and what never can be."""

import pytest

from flows.organism import load, validate

pytestmark = pytest.mark.once

# The shape of that project's own sample files, with a tool in place of its Python handler.
SAMPLE = """\
organism:
  name: "ResearchSwarm-01"
  identity: "config/identity/private.ed25519"
  port: 8765
  tls: {cert: certs/fullchain.pem, key: certs/privkey.pem}
oob: {enabled: true, bind: "127.0.0.1", port: 8766}
thread_scheduling: "breadth-first"
meta: {enabled: true, allow_schema_requests: "admin"}
max_concurrent_pipelines: 50
max_concurrent_handlers: 20
max_concurrent_per_agent: 5
llm:
  strategy: failover
  backends:
    - {provider: xai, api_key_env: XAI_API_KEY}
llm_backends: []
gateways: []
listeners:
  - name: calculator
    payload_class: xml_pipeline.tools.calculate.Calculate
    handler: xml_pipeline.tools.calculate.handle_calculate
    description: "Evaluates an expression."
    agent: false
    broadcast: false
    tool: true
    allowed_tools: []
    timeout_seconds: 60
    peers: [fetch]
  - {name: fetch, handler: xml_pipeline.tools.fetch.handle_fetch, peers: [get, set]}
  - {name: get, handler: xml_pipeline.tools.keyvalue.key_value_get}
  - {name: set, handler: xml_pipeline.tools.keyvalue.key_value_set}
"""


def no_secrets(name: str) -> str:
    raise KeyError(name)


def test_a_file_of_xml_pipeline_loads_with_warnings() -> None:
    validation = validate(SAMPLE)
    assert validation.errors == []
    warned = {warning.path for warning in validation.warnings}
    assert {"organism.identity", "organism.port", "organism.tls", "oob", "meta", "thread_scheduling", "llm"} <= warned
    assert {"llm_backends", "gateways", "max_concurrent_per_agent", "listeners[0].payload_class"} <= warned
    assert {"listeners[0].broadcast", "listeners[0].tool", "listeners[0].handler"} <= warned


def test_its_tools_are_blocks_that_take_all_from_the_message() -> None:
    organism = load(SAMPLE)
    assert [listener.block.name for listener in organism.listeners.values()] == [
        "blox.calculate",
        "blox.http",
        "blox.key_value",
        "blox.key_value",
    ]
    assert organism.listeners["calculator"].timeout == 60.0
    scope = {"payload": {"url": "https://x.example", "key": "k", "value": [1]}}
    http = organism.listeners["fetch"]
    rendered = http.config.render(scope, no_secrets)
    assert rendered == {"method": "GET", "url": "https://x.example", "headers": {}, "body": ""}
    http.block.Config.model_validate(rendered)
    stored = organism.listeners["set"].config.render(scope, no_secrets)
    assert stored == {"op": "set", "key": "k", "value": [1]}


def refusal(handler: str) -> str:
    errors = validate(f"organism: {{name: x}}\nlisteners:\n  - {{name: a, handler: {handler}}}\n").errors
    assert [error.path for error in errors] == ["listeners[0].handler"]
    return errors[0].message


def test_shell_file_and_python_handlers_are_refused() -> None:
    assert "reaches into the server" in refusal("xml_pipeline.tools.shell.run_command")
    assert "reaches into the server" in refusal("xml_pipeline.tools.files.read_file")
    assert "looks like Python code" in refusal("handlers.hello.handle_greeting")
    assert "looks like Python code" in refusal("xml_pipeline.tools.search.web_search")


def test_a_tool_whose_block_is_not_on_this_server_says_so() -> None:
    assert "would be blox.librarian" in refusal("xml_pipeline.tools.librarian.librarian_query")
