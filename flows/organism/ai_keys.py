"""The keys of a listener that are about models: options of its block that may stand beside `config`, and its `input`."""

from collections.abc import Iterable, Iterator
from typing import Any

from flows.blocks.base import Block
from flows.json_schemas import schema_problem
from flows.organism.checks import Section
from flows.organism.expressions import CompileError
from flows.organism.nodes import Node, Path
from flows.organism.templates import split
from llm.catalogue import estimate_text

OPTIONS = ("model", "prompt", "fallback", "cache", "memory")
OF_MODELS = ("agent", *OPTIONS)
OF_OTHER_FILES = ("model", "prompt")  # which xml-pipeline's files have anywhere
MODEL_KEYS = ("model", "fallback")  # options that name models
PROMPTS = ("prompt", "system")
MAX_MODEL = 200
MAX_PROMPT = 100_000


def fold(section: Section, block: Block, config: Node) -> tuple[Node, frozenset[str]]:
    """The config with the options that stand on the listener, and which those are."""
    section.text("model", limit=MAX_MODEL)
    section.text("prompt", limit=MAX_PROMPT)
    folded: dict[str, Node] = {}
    for key in OPTIONS:
        node = section.get(key)
        if node is None:
            continue
        if key in block.listener_keys:
            folded[key] = node
            _refuse_twice(section, key, config)
        elif key in OF_OTHER_FILES:
            section.warning(key, f'"{key}" has no effect on {block.name}.')
        else:
            section.findings.error(section.key_mark(key), (*section.path, key), f'{block.name} takes no "{key}".')
    if not folded:
        return config, frozenset()
    merged = Node({**config.value, **folded}, config.mark, config.start, config.end, config.keys)
    return merged, frozenset(folded)


def texts_below(config: Node, keys: Iterable[str]) -> Iterator[tuple[Path, Node]]:
    """Each text that these options are, or have in a list, with its path."""
    for key in keys:
        node = config.child(key)
        children: list[tuple[Path, Node]] = [] if node is None else [((key,), node)]
        if node is not None and isinstance(node.value, list):
            children = [((key, index), item) for index, item in enumerate(node.value)]
        yield from ((path, child) for path, child in children if isinstance(child.value, str))


def static_tokens(config: Node) -> int:
    """An estimate, rather too high, of what a model is told each time: the instructions without their placeholders."""
    texts = [node.value for _, node in texts_below(config, PROMPTS)]
    return sum(estimate_text(part) for text in texts for part in _plain_parts(text))


def _plain_parts(text: str) -> list[str]:
    try:
        return [part for part, _, is_placeholder in split(text) if not is_placeholder]
    except CompileError:  # reported already
        return []


def _refuse_twice(section: Section, key: str, config: Node) -> None:
    if key in config.value:
        section.error(key, f'"{key}" stands in config as well. Remove one of them.')


def read_input(section: Section) -> dict[str, Any] | None:
    """The JSON Schema of a listener's payload, which must be that of an object."""
    given = section.section("input")
    if given is None:
        return None
    schema: dict[str, Any] = given.node.plain()
    problem = schema_problem(schema)
    if problem is not None:
        where, known = given.node.descend(problem[0])
        section.findings.error(where.mark, (*given.path, *known), problem[1])
    elif schema.get("type") != "object":
        message = 'This describes an object: it needs "type: object" and its "properties".'
        section.findings.error(given.mark("type"), (*given.path, "type"), message)
    else:
        return schema
    return None
