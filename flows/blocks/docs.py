"""The page about the built-in blocks, made from the blocks themselves."""

import json
from collections.abc import Iterator
from typing import Any

from flows.blocks.base import Block

INTRODUCTION = """\
# Blocks

Made by `manage.py block_docs --write` from the blocks' own models: change those, not this page.

Any value of a config may hold placeholders (`{{ payload.id }}`), except where an option is a CEL expression of its own.
`secrets.NAME` may be used in the options marked *secrets*. Every listener may also have `input`, `retry`, `timeout`, `on_error`
and `on_crash`; `GET /api/v1/blocks` gives all of this as JSON Schemas.
"""


def page(blocks: list[Block]) -> str:
    """The page as Markdown."""
    return INTRODUCTION + "".join(f"\n{section}" for block in blocks for section in _block(block))


def _block(block: Block) -> Iterator[str]:
    yield f"## {block.name}\n\n{block.title} ({block.category}). {block.description}\n"
    schema = block.Config.model_json_schema(by_alias=True)
    rows = list(_rows(block, schema))
    yield "| option | type | default | |\n|---|---|---|---|\n" + "".join(rows)
    for name, definition in schema.get("$defs", {}).items():
        rows = list(_rows(block, {**definition, "$defs": schema["$defs"]}))
        yield f"`{name}`:\n\n| option | type | default | |\n|---|---|---|---|\n" + "".join(rows)
    yield f"```yaml\n{block.example.rstrip()}\n```\n"


def _rows(block: Block, schema: dict[str, Any]) -> Iterator[str]:
    required = schema.get("required", [])
    for name, option in schema.get("properties", {}).items():
        default = "required" if name in required else _default(option)
        note = option.get("description", "")
        if name in block.secret_fields and schema.get("title") == block.Config.__name__:
            note = f"{note} *Secrets.*".strip()
        yield f"| `{name}` | {_cell(_type(option))} | {default} | {_cell(note)} |\n"


def _default(option: dict[str, Any]) -> str:
    default = option.get("default")
    return "" if default in (None, "", [], {}) and default is not False else f"`{json.dumps(default)}`"


def _type(option: dict[str, Any]) -> str:
    if "enum" in option:
        return " or ".join(f"`{value}`" for value in option["enum"])
    if "const" in option:
        return f"`{option['const']}`"
    if "$ref" in option:
        return f"`{option['$ref'].rpartition('/')[2]}`"
    for union in ("anyOf", "oneOf"):
        if union in option:
            return " or ".join(dict.fromkeys(_type(part) for part in option[union] if part.get("type") != "null"))
    if option.get("type") == "array":
        return f"list of {_type(option.get('items', {}))}"
    if isinstance(option.get("additionalProperties"), dict):
        return f"object of {_type(option['additionalProperties'])}"
    return str(option.get("type", "any value"))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
