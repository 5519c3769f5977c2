"""What operators do not get to read unless the tenant lets them: what models are told, what they say, what follows from it."""

from collections.abc import Iterable
from typing import NamedTuple
from uuid import UUID

from executions.models import MODEL_BLOCK, Execution, Step
from flows.blocks.registry import get_block

HIDDEN = "hidden: the tenant has not allowed operators to read prompts"
AI = "ai"  # the category of the blocks that ask models


class _Row(NamedTuple):
    key: str
    scope: str
    parents: list[str]
    block: str

    @property
    def caller(self) -> str:
        return self.scope.rpartition(":")[0]


def hidden_steps(execution_id: UUID) -> frozenset[str]:
    """The keys of the steps whose values are hidden: turns of models, blocks of the category `ai` and others that ask
    models, the tools that these call, and what got their output, directly or not. One query."""
    rows = Step.objects.filter(execution_id=execution_id, execution__user__share_prompts_with_operators=False)
    return frozenset(_tainted([_Row(*row) for row in rows.order_by("number").values_list(*_Row._fields)]))


def hides(execution: Execution) -> frozenset[str]:
    """`hidden_steps`, read once for an instance. Where there are any, what came of the execution is hidden, too."""
    known: frozenset[str] | None = vars(execution).get("_hidden_steps")
    if known is None:
        known = vars(execution)["_hidden_steps"] = hidden_steps(execution.pk)
    return known


def _tainted(rows: list[_Row]) -> Iterable[str]:
    found = {row.key for row in rows if _asks_models(row.block)}
    found |= {row.caller for row in rows if row.block == MODEL_BLOCK}
    count = -1
    while found and count != len(found):  # what a step leads to mostly comes after it, so this takes two rounds
        count = len(found)
        found |= {row.key for row in rows if row.caller in found}
        for row in rows:
            if not found.isdisjoint(row.parents):
                found.add(row.key)
    return found


def _asks_models(name: str) -> bool:
    block = get_block(name)
    return name == MODEL_BLOCK or (block is not None and block.category == AI)
