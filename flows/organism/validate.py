"""The whole check of an organism: everything that is wrong at once, each with its place. Nothing is executed."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, cast, get_args

from bloxserver.core.errors import DomainError
from flows.blocks.base import Block
from flows.organism import compatibility, graph
from flows.organism.checks import Findings, Section, kind_of, nearest
from flows.organism.listeners import MAX_TIMEOUT, Draft, check_references, read_listener
from flows.organism.nodes import Document
from flows.organism.on_failure import read_on_failure
from flows.organism.reader import read
from flows.organism.spec import DEFAULT_MAX_MESSAGES, Concurrency, Listener, Organism, Overlap, Problem, Validation
from flows.organism.tools import tool_of

MAX_LISTENERS = 500
MAX_MESSAGES = 100_000
MAX_CONCURRENCY = 10_000
MAX_NAME = 100
MAX_REPORTED = 500

TOP_LEVEL = ("organism", "listeners")
ORGANISM = ("name", "entry", "timeout", "max_messages", "on_failure", "concurrency")
CONCURRENCY = ("limit", "overlap")
OVERLAPS: tuple[str, ...] = get_args(Overlap)


class OrganismInvalid(DomainError):
    """`details` is {"errors": [{path, line, column, message}]}."""

    code: ClassVar[str] = "invalid_organism"
    status: ClassVar[int] = 400

    @classmethod
    def of(cls, errors: list[Problem]) -> "OrganismInvalid":
        first = errors[0]
        where = f"line {first.line}" + (f", {first.path}" if first.path else "")
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        message = (
            f"The organism has {len(errors)} error{'s' if len(errors) > 1 else ''}: {where}: {first.message}{more}"
        )
        return cls(message, details={"errors": [error.as_dict() for error in errors]})

    @classmethod
    def of_message(cls, message: str) -> "OrganismInvalid":
        """For what is wrong with the organism as a whole."""
        return cls(message, details={"errors": [Problem("", 1, 1, message).as_dict()]})


def load(yaml_text: str, catalogue: Mapping[str, Block] | None = None) -> Organism:
    """The organism, compiled and ready to run. Raises `OrganismInvalid` (400) with every error."""
    validation = validate(yaml_text, catalogue)
    if validation.organism is None:
        raise OrganismInvalid.of(validation.errors)
    return validation.organism


def validate(yaml_text: str, catalogue: Mapping[str, Block] | None = None) -> Validation:
    """Everything that is wrong with an organism's YAML, in the order of the text, and its graph. Never raises.

    `catalogue` maps handlers to blocks; by default it is the server's.
    """
    if catalogue is None:
        from flows.blocks import catalogue as server_catalogue

        catalogue = server_catalogue()
    document = read(yaml_text)
    findings = Findings(document)
    drafts: list[Draft] = []
    organism = _read_organism(document, findings, catalogue, drafts) if document.root else None
    errors, warnings = map(bounded, findings.ordered())
    entry = organism.entry if organism else drafts[0].name if drafts else None
    models = tuple(model for draft in drafts for model in draft.models())
    return Validation(errors, warnings, _graph(drafts, entry), organism if not errors else None, models)


def bounded(problems: list[Problem]) -> list[Problem]:
    """The first `MAX_REPORTED`, and one more that says how many are left out: a hostile text holds tens of thousands."""
    left_out = len(problems) - MAX_REPORTED
    if left_out <= 0:
        return problems
    after = problems[MAX_REPORTED]
    more = Problem("", after.line, after.column, f"{left_out:,} more are not shown; mend these first.")
    return [*problems[:MAX_REPORTED], more]


def _read_organism(
    document: Document, findings: Findings, catalogue: Mapping[str, Block], drafts: list[Draft]
) -> Organism | None:
    root = document.root
    assert root is not None
    if not isinstance(root.value, dict):
        findings.error(
            root.mark, (), f'This must be an object with "organism:" and "listeners:", not {kind_of(root.value)}.'
        )
        return None
    top = Section(findings, root, ())
    _foreign_keys(top, compatibility.TOP_LEVEL_KEYS)
    top.unknown_keys((*TOP_LEVEL, *(compatibility.TOP_LEVEL_KEYS & root.value.keys())), "the file")
    settings = top.section("organism")
    if settings is None and top.get("organism") is None:
        findings.error(top.key_mark("organism"), ("organism",), 'The file needs "organism:" with a "name:".')
    drafts += _read_listeners(top, catalogue)
    names = _names(drafts, findings)
    for draft in drafts:
        check_references(draft, names, findings)
    entry = _entry(settings, drafts, names)
    if entry is not None and not findings.errors:
        _warn_unreachable(entry, drafts, findings)
    return _organism(settings, entry, drafts, findings)


def _foreign_keys(section: Section, foreign: frozenset[str]) -> None:
    for key in sorted(foreign & section.node.value.keys()):
        section.warning(key, f'"{key}" is of xml-pipeline and has no effect here.')


def _read_listeners(top: Section, catalogue: Mapping[str, Block]) -> list[Draft]:
    node = top.get("listeners")
    if node is None or node.value == []:
        top.findings.error(top.key_mark("listeners"), ("listeners",), "The file needs at least one listener.")
        return []
    if not isinstance(node.value, list):
        top.error(
            "listeners", f'This must be a list of listeners, each starting with "- name:", not {kind_of(node.value)}.'
        )
        return []
    if len(node.value) > MAX_LISTENERS:
        too_many = f"There are {len(node.value)} listeners; at most {MAX_LISTENERS} are allowed."
        top.error("listeners", f"{too_many} Split the flow with blox.call_flow.")
        return []
    drafts = []
    for index, item in enumerate(node.value):
        path = ("listeners", index)
        if isinstance(item.value, dict):
            drafts.append(read_listener(Section(top.findings, item, path), catalogue))
        else:
            top.findings.error(
                item.mark, path, f'A listener is an object with "name:" and "handler:", not {kind_of(item.value)}.'
            )
    return drafts


def _names(drafts: list[Draft], findings: Findings) -> dict[str, Draft]:
    names: dict[str, Draft] = {}
    for draft in drafts:
        if draft.name is None:
            continue
        if draft.name in names:
            first = names[draft.name].section.mark("name").line
            draft.section.error(
                "name", f'There is a listener "{draft.name[:80]}" already, on line {first}. Rename one.'
            )
        names.setdefault(draft.name, draft)
    return names


def _entry(settings: Section | None, drafts: list[Draft], names: Mapping[str, Draft]) -> str | None:
    entry = settings.text("entry", limit=200) if settings else None
    if entry is None or settings is None:
        return drafts[0].name if drafts else None
    if entry not in names:
        settings.error("entry", f'There is no listener "{entry[:80]}".{nearest(entry, names)}')
        return None
    return entry


def _warn_unreachable(entry: str, drafts: list[Draft], findings: Findings) -> None:
    targets = {draft.name: [name for _, (name, _, _) in draft.targets()] for draft in drafts if draft.name}
    reached = graph.closure(entry, targets) | {entry}
    for draft in drafts:
        if draft.name and draft.name not in reached:
            message = f'No message can reach "{draft.name}" from "{entry}". Add it to the peers of another listener.'
            findings.warning(draft.section.mark("name"), (*draft.section.path, "name"), message)


def _organism(settings: Section | None, entry: str | None, drafts: list[Draft], findings: Findings) -> Organism | None:
    if settings is None:
        return None
    _foreign_keys(settings, compatibility.ORGANISM_KEYS)
    settings.unknown_keys((*ORGANISM, *(compatibility.ORGANISM_KEYS & settings.node.value.keys())), "organism")
    name = settings.text("name", limit=MAX_NAME)
    if settings.get("name") is None or (name is not None and not name.strip()):
        findings.error(settings.mark("name"), (*settings.path, "name"), "The organism needs a name.")
    timeout = settings.number("timeout", low=0, high=MAX_TIMEOUT, of="seconds", above=True)
    messages = settings.number("max_messages", low=1, high=MAX_MESSAGES, whole=True)
    on_failure = read_on_failure(settings)
    concurrency = _concurrency(settings)
    if findings.errors or name is None or entry is None:
        return None
    return Organism(
        name=name,
        entry=entry,
        listeners=_with_tools({listener.name: listener for listener in (draft.built() for draft in drafts)}),
        timeout=None if timeout is None else float(timeout),
        max_messages=DEFAULT_MAX_MESSAGES if messages is None else int(messages),
        concurrency=concurrency,
        on_failure=on_failure,
    )


def _with_tools(listeners: dict[str, Listener]) -> dict[str, Listener]:
    return {
        name: replace(listener, tools=tuple(tool_of(listeners[peer]) for peer in listener.peers))
        if listener.block.peers_are_tools
        else listener
        for name, listener in listeners.items()
    }


def _concurrency(settings: Section) -> Concurrency | None:
    """{limit: ..., overlap: ...}, or the limit alone."""
    node = settings.get("concurrency")
    if node is None:
        return None
    if not isinstance(node.value, dict):
        limit = settings.number("concurrency", low=1, high=MAX_CONCURRENCY, whole=True)
        return None if limit is None else Concurrency(int(limit))
    section = Section(settings.findings, node, (*settings.path, "concurrency"))
    section.unknown_keys(CONCURRENCY, "concurrency")
    limit = section.number("limit", low=1, high=MAX_CONCURRENCY, whole=True)
    if section.get("limit") is None:
        section.error("limit", "This needs a limit, as in {limit: 1, overlap: skip}.")
    overlap = section.text("overlap", limit=20)
    if overlap is not None and overlap not in OVERLAPS:
        section.error("overlap", f'This must be one of {", ".join(OVERLAPS)}, not "{overlap}".')
        return None
    return None if limit is None else Concurrency(int(limit), cast(Overlap, overlap or "queue"))


def _graph(drafts: list[Draft], entry: str | None) -> dict[str, Any]:
    """What could be read of the nodes and edges, for a canvas."""
    drawn: dict[str, Draft] = {}
    for draft in drafts:
        if draft.name is not None:
            drawn.setdefault(draft.name, draft)
    nodes = [
        graph.node(
            name,
            handler=draft.handler,
            title=draft.block.title if draft.block else "",
            description=draft.description,
            entry=name == entry,
        )
        for name, draft in drawn.items()
    ]
    edges = [
        graph.edge(name, target, kind)
        for name, draft in drawn.items()
        for kind, (target, _, _) in draft.targets()
        if target in drawn
    ]
    return {"nodes": nodes, "edges": edges}
