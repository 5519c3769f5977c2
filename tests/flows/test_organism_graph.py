"""Who can still hear of a message."""

import pytest

from flows.organism import load
from flows.organism.graph import closure, reachable_from
from flows.organism.spec import Organism

pytestmark = pytest.mark.once


def organism(graph: str) -> Organism:
    """`a > b c` lines: peers; `a ! b`: on_error; `a * b > c`: for each item b, then c."""
    lines = ["organism: {name: drawn}", "listeners:"]
    for line in graph.strip().splitlines():
        words = line.split()
        name = words[0]
        peers = words[words.index(">") + 1 :] if ">" in words else []
        each = words[words.index("*") + 1] if "*" in words else None
        failure = words[words.index("!") + 1] if "!" in words else None
        config = f"{{items: [1], each: {each}}}" if each else "{value: 1}"
        lines += [
            f"  - name: {name}",
            f"    handler: blox.{'for_each' if each else 'transform'}",
            f"    config: {config}",
        ]
        lines += [f"    peers: [{', '.join([*([each] if each else []), *peers])}]"]
        lines += [f"    on_error: {failure}"] if failure else []
    return load("\n".join(lines))


def test_messages_reach_through_peers_and_error_handlers() -> None:
    drawn = organism("a > b\nb ! e\nc\ne > c")
    assert reachable_from(drawn, "a") == {"b", "e", "c"}
    assert reachable_from(drawn, "e") == {"c"}
    assert reachable_from(drawn, "c") == frozenset()


def test_a_listener_reaches_itself_only_round_a_loop() -> None:
    drawn = organism("a > b\nb > c\nc > b")
    assert "a" not in reachable_from(drawn, "a")
    assert reachable_from(drawn, "b") == {"b", "c"}


def test_what_a_block_only_calls_sends_nothing_on() -> None:
    drawn = organism("a * item > end\nitem > merge\nmerge\nend")
    assert reachable_from(drawn, "a") == {"end"}
    assert reachable_from(drawn, "item") == {"merge"}


def test_the_answer_is_kept_by_the_organism() -> None:
    drawn = organism("a > b\nb")
    assert reachable_from(drawn, "a") is reachable_from(drawn, "a")


def test_a_long_chain_is_no_recursion() -> None:
    assert len(closure("0", {str(n): [str(n + 1)] for n in range(100_000)})) == 100_000
