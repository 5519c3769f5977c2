"""The rules of delivery, each drawn as a small graph."""

from typing import Any

import pytest

from executions.engine.planner import Delivery, Plan
from flows.organism import load
from flows.organism.spec import Organism

pytestmark = pytest.mark.once


def organism(graph: str, merges: str = "", outputs: str = "") -> Organism:
    """`a: b c` lines to listeners; names in `merges` are merges, in `outputs` outputs, the rest transforms."""
    lines = ["organism: {name: drawn}", "listeners:"]
    for line in graph.strip().splitlines():
        name, _, peers = line.strip().partition(":")
        block = "merge" if name in merges.split() else "output" if name in outputs.split() else "transform"
        config = {"merge": "{as: list}", "output": "{}", "transform": "{value: x}"}[block]
        lines += [f"  - name: {name}", f"    handler: blox.{block}", f"    config: {config}"]
        lines += [f"    peers: [{', '.join(peers.split())}]"]
    return load("\n".join(lines))


class Drive:
    """Plays the engine: finishes deliveries by name, and knows what is ready."""

    def __init__(self, plan: Plan, entry: str = "a") -> None:
        self.plan = plan
        self.ready = plan.start(entry, "start")

    def names(self) -> list[str]:
        return [delivery.listener for delivery in self.ready]

    def finish(self, name: str, value: Any = None, to: tuple[str, ...] | None = None) -> "Drive":
        delivery = next(delivery for delivery in self.ready if delivery.listener == name)
        self.ready.remove(delivery)
        onward = self.plan.organism.listeners[name].onward
        self.ready += self.plan.finished(delivery, name if value is None else value, onward if to is None else to)
        return self

    def get(self, name: str) -> Delivery:
        return next(delivery for delivery in self.ready if delivery.listener == name)


def test_an_output_goes_to_every_peer() -> None:
    drive = Drive(Plan(organism("a: b c\nb:\nc:")))
    assert drive.finish("a").names() == ["b", "c"]


def test_a_block_that_chooses_reaches_only_those_it_chose() -> None:
    drive = Drive(Plan(organism("a: b c\nb:\nc:")))
    assert drive.finish("a", to=("c",)).names() == ["c"]


def test_a_merge_waits_for_all_that_can_still_reach_it() -> None:
    drive = Drive(Plan(organism("a: b c\nb: m\nc: d\nd: m\nm:", merges="m")))
    drive.finish("a").finish("b")
    assert drive.names() == ["c"]
    drive.finish("c")
    assert drive.names() == ["d"]
    drive.finish("d")
    assert drive.names() == ["m"]
    assert [arrival.sender for arrival in drive.get("m").payload] == ["b", "d"]


def test_a_merge_does_not_wait_for_a_branch_that_was_not_taken() -> None:
    drive = Drive(Plan(organism("a: b c\nb: m\nc: m\nm:", merges="m")))
    drive.finish("a", to=("b",)).finish("b")
    assert drive.names() == ["m"]


def test_a_merge_in_a_loop_fires_once_a_round() -> None:
    drive = Drive(Plan(organism("a: b c\nb: m\nc: m\nm: a d\nd:", merges="m")))
    drive.finish("a").finish("b").finish("c")
    first = drive.get("m").key
    drive.finish("m", to=("a",)).finish("a").finish("b").finish("c")
    assert drive.names() == ["m"]
    assert drive.get("m").key != first


def test_when_only_merges_wait_the_first_in_the_file_fires() -> None:
    drive = Drive(Plan(organism("a: m n\nm: n\nn: m", merges="m n")))
    assert drive.finish("a").names() == ["m"]


def test_a_merge_behind_a_waiting_merge_waits_for_it() -> None:
    drive = Drive(Plan(organism("a: n m\nm: n\nn:", merges="m n")))
    assert drive.finish("a").names() == ["m"]
    assert drive.finish("m").names() == ["n"]


def test_keys_are_the_same_whatever_the_order_in_which_steps_end() -> None:
    graph = organism("a: b c\nb: m\nc: m\nm: d\nd:", merges="m")
    one = Drive(Plan(graph)).finish("a").finish("b").finish("c").finish("m").get("d")
    other = Drive(Plan(graph)).finish("a").finish("c").finish("b").finish("m").get("d")
    assert one.key == other.key


def test_one_result_is_the_output_as_it_is() -> None:
    drive = Drive(Plan(organism("a: b\nb:"))).finish("a").finish("b", value=7)
    assert drive.plan.result == 7


def test_several_results_are_an_object_by_listener_with_lists_where_one_gave_several() -> None:
    drive = (
        Drive(Plan(organism("a: b c d\nb: d\nc:\nd:")))
        .finish("a")
        .finish("c", 1)
        .finish("d", 2)
        .finish("b")
        .finish("d", 3)
    )
    assert drive.plan.result == {"c": 1, "d": [2, 3]}


def test_where_there_is_an_output_listener_only_outputs_are_results() -> None:
    drive = Drive(Plan(organism("a: b o\nb:\no:", outputs="o"))).finish("a").finish("b", 1).finish("o", 2)
    assert drive.plan.result == 2


@pytest.mark.parametrize("scope", ["", "abc:1"])
def test_a_called_scope_gives_what_its_leaves_give_though_the_organism_has_outputs(scope: str) -> None:
    drive = Drive(Plan(organism("a:\no:", outputs="o"), scope=scope)).finish("a", 5)
    assert drive.plan.result == (5 if scope else None)


def test_a_branch_that_matches_nothing_gives_no_result() -> None:
    drive = Drive(Plan(organism("a: b\nb:"))).finish("a", to=())
    assert drive.plan.result is None
    assert not drive.plan.in_flight


def test_a_handled_failure_goes_to_on_error_alone() -> None:
    graph = organism("a: b\nb:\ne:")
    drive = Drive(Plan(graph))
    following = drive.plan.failed(drive.get("a"), {"error": "boom"}, "e")
    assert [(delivery.listener, delivery.payload) for delivery in following] == [("e", {"error": "boom"})]
