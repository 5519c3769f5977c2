"""Reads one listener of an organism."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast, get_args

from flows.blocks.base import Block
from flows.organism import compatibility
from flows.organism.ai_keys import MODEL_KEYS, OF_MODELS, fold, read_input, static_tokens, texts_below
from flows.organism.checks import Findings, Section, nearest
from flows.organism.config_check import check_config
from flows.organism.nodes import Node, Path, path_text
from flows.organism.spec import Listener, NamedModel, OnCrash, RetryPolicy
from flows.organism.templates import CompiledConfig

KEYS = (
    "name",
    "description",
    "handler",
    "config",
    "retry",
    "timeout",
    "on_error",
    "on_crash",
    "peers",
    "input",
    *OF_MODELS,
    "next",
)
MAX_NAME = 63
MAX_DESCRIPTION = 2_000
MAX_TIMEOUT = 21_600  # seconds: the most that any tier allows an execution
MAX_ATTEMPTS = 20
MAX_BACKOFF = 10
MAX_DELAY = 86_400  # seconds

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")

Reference = tuple[str, Node, Path]  # a listener's name, and where it is written


@dataclass
class Draft:
    """A listener as it was read, with errors or without."""

    section: Section
    name: str | None = None
    handler: str | None = None
    block: Block | None = None
    config: CompiledConfig | None = None
    config_node: Node | None = None
    folded: frozenset[str] = frozenset()  # options of the config that stand on the listener
    input: dict[str, Any] | None = None
    description: str = ""
    peers: list[Reference] = field(default_factory=list)
    next: list[Reference] = field(default_factory=list)
    on_error: Reference | None = None
    on_crash: OnCrash | None = None
    retry: RetryPolicy | None = None
    timeout: float | None = None

    def targets(self) -> list[tuple[str, Reference]]:
        """(kind of edge, reference) for all that this listener leads to."""
        failure = [("on_error", self.on_error)] if self.on_error else []
        kind = "tool" if self.block is not None and self.block.peers_are_tools else "peer"
        return [(kind, peer) for peer in self.peers] + [("next", name) for name in self.next] + failure

    def place(self, path: Path) -> Path:
        """Where in the document an option of the config stands."""
        on_listener = bool(path) and path[0] in self.folded
        return (*self.section.path, *path) if on_listener else (*self.section.path, "config", *path)

    def models(self) -> Iterator[NamedModel]:
        """The models that it names; whether anybody serves them is not the language's to say."""
        if self.block is None or self.config_node is None or "model" not in self.block.listener_keys:
            return
        tokens, needs_price = static_tokens(self.config_node), self.config_node.child("max_cost") is not None
        for path, node in texts_below(self.config_node, MODEL_KEYS):
            if "{{" not in node.value:
                where = path_text(self.place(path)), node.mark.line, node.mark.column
                yield NamedModel(node.value, *where, tokens, needs_price)

    def built(self) -> Listener:
        """The listener. Only of a draft without errors."""
        assert self.name is not None and self.block is not None and self.config is not None
        return Listener(
            name=self.name,
            block=self.block,
            config=self.config,
            description=self.description,
            peers=tuple(name for name, _, _ in self.peers),
            next=tuple(name for name, _, _ in self.next),
            on_error=self.on_error[0] if self.on_error else None,
            on_crash=self.on_crash,
            retry=self.retry or RetryPolicy(max_attempts=self.block.default_attempts),
            timeout=self.timeout or self.block.default_timeout,
            input=self.input,
        )


def read_listener(section: Section, catalogue: Mapping[str, Block]) -> Draft:
    """Read one listener and report what is wrong with it by itself; what it says of others is checked afterwards."""
    draft = Draft(section)
    section.unknown_keys(known_keys(section), "a listener")
    for key in sorted(compatibility.LISTENER_KEYS & section.node.value.keys()):
        if key != "timeout_seconds":
            section.warning(key, f'"{key}" is of xml-pipeline and has no effect here.')
    draft.name = _name(section)
    draft.description = section.text("description", limit=MAX_DESCRIPTION) or ""
    tool = _read_handler(draft, catalogue)
    draft.peers = section.names("peers")
    draft.next = section.names("next")
    draft.on_error = _reference(section, "on_error")
    draft.on_crash = _on_crash(section)
    draft.retry = _retry(section)
    draft.timeout = _timeout(section)
    draft.input = read_input(section)
    _next_of_agents(draft)
    _read_config(draft, tool)
    return draft


def known_keys(section: Section) -> tuple[str, ...]:
    return (*KEYS, *(key for key in compatibility.LISTENER_KEYS if section.has(key)))


def _name(section: Section) -> str | None:
    name = section.text("name", limit=10_000)
    if name is None:
        if section.get("name") is None:
            section.findings.error(section.node.mark, (*section.path, "name"), "This listener needs a name.")
        return None
    if not _NAME.fullmatch(name):
        better = re.sub(r"[^a-z0-9_-]+", "_", name.lower()).lstrip("_-0123456789")[:MAX_NAME]
        hint = f' "{better}" would do.' if better else ""
        rule = f"A name is a small letter, then small letters, digits, _ and -; {MAX_NAME} characters at most."
        section.error("name", rule + hint)
    return name


def _read_handler(draft: Draft, catalogue: Mapping[str, Block]) -> compatibility.Tool | None:
    section = draft.section
    handler = draft.handler = section.text("handler", limit=200)
    if handler is None:
        if section.get("handler") is None:
            message = 'This listener needs a handler: a block, such as "blox.transform".'
            section.findings.error(section.key_mark("handler"), (*section.path, "handler"), message)
        return None
    tool = compatibility.tool(handler)
    name = tool.block if tool else handler
    draft.block = catalogue.get(name)
    if draft.block is None:
        section.error("handler", _unknown_handler(handler, tool, catalogue))
    elif tool:
        section.warning("handler", f'"{handler}" is of xml-pipeline: {name} does it here.')
    return tool


def _unknown_handler(handler: str, tool: compatibility.Tool | None, catalogue: Mapping[str, Block]) -> str:
    if tool:
        return f'"{handler}" would be {tool.block}, which this server does not have.'
    refused = compatibility.refusal(handler)
    if refused:
        return refused
    by_short_name: dict[str, str] = {}
    for name in catalogue:
        by_short_name.setdefault(name.rpartition(".")[2], name)
    short = handler.rpartition(".")[2].lower()
    if short in by_short_name:
        return f'There is no block "{handler}". Did you mean "{by_short_name[short]}"?'
    hint = nearest(handler, catalogue) or f" The blocks are {', '.join(catalogue)}."
    return f'There is no block "{handler}".{hint}'


def _read_config(draft: Draft, tool: compatibility.Tool | None) -> None:
    section = draft.section
    given = section.section("config")
    block = draft.block
    if block is None or (given is None and section.get("config") is not None):
        return
    if given is not None:
        node = given.node
    else:
        defaults = tool.config if tool else {}
        mark = section.mark("handler")
        node = Node({key: Node(value, mark, 0, 0) for key, value in defaults.items()}, mark, 0, 0)
    draft.config_node, draft.folded = fold(section, block, node)
    missing_at = section.key_mark("config") if given is not None else section.mark("handler")
    draft.config = check_config(section.findings, block, draft.config_node, draft.place, missing_at=missing_at)


def _reference(section: Section, key: str) -> Reference | None:
    name = section.text(key, limit=200)
    node = section.get(key)
    return (name, node, (*section.path, key)) if name is not None and node is not None else None


def _on_crash(section: Section) -> OnCrash | None:
    value = section.text("on_crash", limit=200)
    if value is None or value in get_args(OnCrash):
        return cast(OnCrash | None, value)
    section.error("on_crash", f'This should be retry, fail or ask, not "{value}".')
    return None


def _retry(section: Section) -> RetryPolicy | None:
    retry = section.section("retry")
    if retry is None:
        return None
    retry.unknown_keys(("max_attempts", "backoff", "max_delay"), "retry")
    attempts = retry.number("max_attempts", low=1, high=MAX_ATTEMPTS, whole=True)
    if attempts is None and retry.get("max_attempts") is None:
        message = "retry needs max_attempts, the first attempt included."
        retry.findings.error(section.key_mark("retry"), (*retry.path, "max_attempts"), message)
    backoff = retry.number("backoff", low=1, high=MAX_BACKOFF)
    delay = retry.number("max_delay", low=0, high=MAX_DELAY, of="seconds")
    standard = RetryPolicy()
    return RetryPolicy(
        max_attempts=int(attempts or 1),
        backoff=standard.backoff if backoff is None else float(backoff),
        max_delay=standard.max_delay if delay is None else float(delay),
        explicit=True,
    )


def _timeout(section: Section) -> float | None:
    timeout = section.number("timeout", low=0, high=MAX_TIMEOUT, of="seconds", above=True)
    if section.has("timeout_seconds"):
        section.warning("timeout_seconds", '"timeout_seconds" is of xml-pipeline; here it is called "timeout".')
        foreign = section.number("timeout_seconds", low=0, high=MAX_TIMEOUT, of="seconds", above=True)
        timeout = foreign if timeout is None else timeout
    return timeout


def _next_of_agents(draft: Draft) -> None:
    section, block = draft.section, draft.block
    if block is None or block.peers_are_tools:
        section.flag("agent")
        return
    if section.flag("agent"):
        section.error("agent", f"{block.name} is not an agent. Remove this, or choose another handler.")
    if draft.next:
        message = f'"next" is for agents; {block.name} sends its output to "peers".'
        section.findings.error(section.key_mark("next"), (*section.path, "next"), message)
        draft.next = []


def check_references(draft: Draft, names: Mapping[str, Draft], findings: Findings) -> None:
    """Check that all that a listener names is there."""
    for kind, (name, node, path) in draft.targets():
        if name not in names:
            findings.error(node.mark, path, f'There is no listener "{name[:80]}".{nearest(name, names)}')
        elif kind == "on_error" and name == draft.name:
            findings.error(node.mark, path, "A listener cannot handle its own errors. Use retry, or name another one.")
    if draft.block is None or draft.config is None or draft.config_node is None:
        return
    peers = [name for name, _, _ in draft.peers]
    for path, name in draft.block.named_peers(draft.config.raw):
        if name not in peers and "{{" not in name:
            node, known = draft.config_node.descend(tuple(path))
            findings.error(node.mark, draft.place(known), _not_a_peer(name, peers, names))
    _check_steps(draft, names, findings)


def _not_a_peer(name: str, peers: list[str], names: Mapping[str, Draft]) -> str:
    if name not in names:
        return f'There is no listener "{name[:80]}".{nearest(name, peers or names)}'
    return f'"{name}" is not one of this listener\'s peers. Add it to peers.'


def _check_steps(draft: Draft, names: Mapping[str, Draft], findings: Findings) -> None:
    """`steps.NAME` in an expression names a listener."""
    assert draft.config is not None and draft.config_node is not None
    for path, expression in draft.config.expressions:
        for reference in expression.syntax.references:
            step = reference.path[1] if reference.path[0] == "steps" and len(reference.path) > 1 else None
            if isinstance(step, str) and step not in names:
                node, _ = draft.config_node.descend(path)
                offset = str(node.value).find(expression.source) + max(reference.at, 0)
                mark = findings.document.mark_inside(node, str(node.value), offset)
                message = f'steps["{step[:80]}"]: there is no listener "{step[:80]}".{nearest(step, names)}'
                findings.error(mark, draft.place(path), message)
