"""What an agent's model is told of its peers, which are its tools."""

from typing import Any

from flows.blocks.base import PeerTool
from flows.organism.spec import Listener

ANY_OBJECT: dict[str, Any] = {"type": "object"}


def tool_of(listener: Listener) -> PeerTool:
    """A listener as a tool.

    Its name needs no translation: every provider takes small letters, digits, _ and - of up to 64 characters, and a
    file has each name once.
    """
    description = listener.description or listener.block.description
    schema = listener.input or listener.block.tool_schema(listener.config.raw) or _read_by_config(listener)
    if schema.get("type") == "object":
        return PeerTool(listener.name, description, schema)
    return PeerTool(listener.name, description, _wrapped(schema), wraps=True)


def _wrapped(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": {"input": schema}, "required": ["input"], "additionalProperties": False}


def _read_by_config(listener: Listener) -> dict[str, Any]:
    """An object with what the config's placeholders read of the payload: of any type, and none required."""
    names: dict[str, Any] = {
        reference.path[1]: {}
        for _, expression in listener.config.expressions
        for reference in expression.syntax.references
        if reference.path[0] == "payload" and len(reference.path) > 1 and isinstance(reference.path[1], str)
    }
    return {**ANY_OBJECT, "properties": names} if names else ANY_OBJECT
