"""What organism files of xml-pipeline (https://github.com/dullfig/xml-pipeline) have that ours do not need.

Its keys are accepted with a warning, and its tools are names for blocks. Its own Python handlers cannot be: a flow never
names code to import.
"""

from dataclasses import dataclass, field
from typing import Any

TOP_LEVEL_KEYS = frozenset(
    {
        "oob",
        "meta",
        "thread_scheduling",
        "max_concurrent_pipelines",
        "max_concurrent_handlers",
        "max_concurrent_per_agent",
        "llm",
        "llm_backends",
        "gateways",
    }
)
ORGANISM_KEYS = frozenset({"identity", "port", "tls"}) | TOP_LEVEL_KEYS
LISTENER_KEYS = frozenset({"payload_class", "identity", "broadcast", "tool", "allowed_tools", "timeout_seconds"})

_PREFIX = "xml_pipeline.tools."
_REQUEST = {
    "method": "{{ has(payload.method) ? payload.method : 'GET' }}",
    "url": "{{ payload.url }}",
    "headers": "{{ has(payload.headers) ? payload.headers : {} }}",
    "body": "{{ has(payload.body) ? payload.body : '' }}",
}
_OPERATIONS: dict[str, dict[str, Any]] = {
    "get": {"op": "get", "key": "{{ payload.key }}"},
    "set": {"op": "set", "key": "{{ payload.key }}", "value": "{{ payload.value }}"},
    "delete": {"op": "delete", "key": "{{ payload.key }}"},
}


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool of xml-pipeline as a block. `config` is for a listener that has none: the tool took all from its message."""

    block: str
    config: dict[str, Any] = field(default_factory=dict)


def tool(handler: str) -> Tool | None:
    """The block that a handler of xml-pipeline's tools stands for."""
    if not handler.startswith(_PREFIX):
        return None
    module, _, function = handler.removeprefix(_PREFIX).partition(".")
    match module:
        case "calculate":
            return Tool("blox.calculate")
        case "fetch":
            return Tool("blox.http", _REQUEST)
        case "keyvalue":
            return Tool("blox.key_value", _OPERATIONS.get(function.rpartition("_")[2], {}))
        case "librarian":
            return Tool("blox.librarian")
    return None


def refusal(handler: str) -> str | None:
    """Why a handler of xml-pipeline can never be one here; None for a handler that does not look like one."""
    if handler.startswith((f"{_PREFIX}shell", f"{_PREFIX}files")):
        return (
            f'"{handler}" reaches into the server, which no flow may do. Use blox.http to call a service that does it.'
        )
    if handler.count(".") >= 2 or handler.startswith("handlers."):
        return f'"{handler}" looks like Python code, which a flow cannot name. Use a block, such as blox.transform.'
    return None
