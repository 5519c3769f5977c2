"""Checks a listener's config against its block: its Pydantic model, its placeholders, what the block itself says of it."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from pydantic import BaseModel, ValidationError, create_model

from flows.blocks.base import Block, BlockConfig
from flows.organism.checks import Findings, kind_of, nearest
from flows.organism.nodes import Mark, Node, Path
from flows.organism.templates import CompiledConfig, compile_config

Place = Callable[[Path], Path]  # from a path in the config to that in the document


def check_config(findings: Findings, block: Block, node: Node, place: Place, *, missing_at: Mark) -> CompiledConfig:
    """Compile a config and report all that is wrong with it. `missing_at` is where a missing key is reported."""
    raw = node.plain()
    config, problems = compile_config(raw, block)
    for problem in problems:
        scalar, _ = node.descend(problem.path)
        mark = scalar.mark
        if problem.fragment and isinstance(scalar.value, str):
            mark = findings.document.mark_inside(scalar, problem.fragment, problem.offset)
        findings.error(mark, place(problem.path), problem.message)
    _check_model(findings, block, node, raw, place, missing_at)
    _check_remarks(findings, block, node, raw, place)
    return config


def _check_model(
    findings: Findings, block: Block, node: Node, raw: dict[str, Any], place: Place, missing_at: Mark
) -> None:
    try:
        details = _errors(block.Config, raw)
        if any(
            not detail["loc"] for detail in details
        ):  # a rule on the whole was broken before the fields were looked at
            details += _errors(_fields_alone(block.Config), raw)
    except Exception as error:  # a validator of another package's block; it must not take the whole check down
        findings.error(missing_at, place(()), f"{block.name} cannot check this config: {type(error).__name__}.")
        return
    sentences: dict[Path, list[str]] = {}  # a union gives one for each of its kinds
    for detail in details:
        where, known = node.descend(detail["loc"])
        if detail["type"] == "extra_forbidden":
            parent, above = node.descend(detail["loc"][:-1])
            key = str(detail["loc"][-1])
            findings.error(parent.keys.get(key, where.mark), place((*above, key)), _unknown(block, key, above))
        elif _is_templated(block, where, known):
            continue  # what the placeholder will give is not known yet; it is checked when it is
        elif detail["type"] == "missing":
            mark = where.mark if known else missing_at
            key = str(detail["loc"][-1])
            findings.error(mark, place((*known, key)), _missing(block, key))
        else:
            sentences.setdefault(known, []).append(detail["msg"].removeprefix("Value error, ").rstrip("."))
    for known, messages in sentences.items():
        where, _ = node.descend(known)
        findings.error(where.mark if known else missing_at, place(known), _sentence(messages, where if known else None))


def _check_remarks(findings: Findings, block: Block, node: Node, raw: dict[str, Any], place: Place) -> None:
    try:
        remarks = block.remarks(raw)
    except Exception as error:  # another package's block
        findings.error(node.mark, place(()), f"{block.name} cannot check this config: {type(error).__name__}.")
        return
    for remark in remarks:
        where, known = node.descend(remark.path)
        findings.error(where.mark, place(known), remark.message)


def _errors(model: type[BaseModel], raw: dict[str, Any]) -> list[Any]:
    try:
        model.model_validate(raw)
    except ValidationError as error:
        return list(error.errors(include_url=False, include_context=False))
    return []


@lru_cache(maxsize=256)
def _fields_alone(model: type[BaseModel]) -> type[BaseModel]:
    """The model without the rules that look at several fields."""
    fields: dict[str, Any] = {name: (info.annotation, info) for name, info in model.model_fields.items()}
    return create_model(model.__name__, __base__=BlockConfig, **fields)


def _is_templated(block: Block, node: Node, path: Path) -> bool:
    return isinstance(node.value, str) and "{{" in node.value and bool(path) and path[0] not in block.raw_fields


def _missing(block: Block, key: str) -> str:
    fields = {info.alias or name: info for name, info in block.Config.model_fields.items()}
    described = fields[key].description if key in fields else None
    reason = f": {described.rstrip('.')}" if described else ""
    return f'{block.name} needs "{key}"{reason}.'


def _unknown(block: Block, key: str, above: Path) -> str:
    known = (
        _keys(block.Config) if not above else sorted({key for model in _models(block.Config) for key in _keys(model)})
    )
    hint = nearest(key, known) or (f" It takes {', '.join(known)}." if not above and known else "")
    return f'{block.name} has no "{key[:80]}" here.{hint}'


def _keys(model: type[BaseModel]) -> list[str]:
    return [info.alias or name for name, info in model.model_fields.items()]


def _models(model: type[BaseModel]) -> list[type[BaseModel]]:
    """The model and those of its fields, two levels deep: enough for the options of a block."""
    found = [model]
    for info in model.model_fields.values():
        pending = [info.annotation]
        while pending:
            kind = pending.pop()
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                found.append(kind)
            pending.extend(getattr(kind, "__args__", ()))
    return found


def _sentence(messages: list[str], node: Node | None) -> str:
    """Pydantic's messages on one value as a sentence of ours, with what stands there instead."""
    expected = [
        message.removeprefix("Input should be ") for message in messages if message.startswith("Input should be ")
    ]
    if not expected:
        return f"{messages[0][:1].upper()}{messages[0][1:]}."
    wanted = " or ".join(dict.fromkeys(expected))
    return f"This should be {wanted}{f', not {_shown(node.value)}' if node else ''}."


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return f'"{value if len(value) <= 60 else value[:57] + "..."}"'
    if isinstance(value, bool):
        return "true" if value else "false"
    return kind_of(value) if value is None or isinstance(value, dict | list) else str(value)
