"""What operators do not get to read unless the tenant lets them: all that an execution was given, did, gave and said, if it,
or one that called it or that it called, asks models.

It is all or nothing, since what models are told and what they say goes anywhere: an agent's prompt is the payload, its answer
is in the result of whoever called it, in the arguments of its tools, in an error's text.
"""

from collections.abc import Collection, Iterable
from typing import Any
from uuid import UUID

from django.db.models import QuerySet
from django.http import HttpRequest

from bloxserver.core import json_text
from executions.models import MODEL_BLOCK, START_FLOW, Execution, JournalEntry, Step
from flows.models import FlowVersion
from flows.prompts import HIDDEN, ai_blocks, asking

MOST_RELATED = (
    1_000  # executions that are looked at; whether one of more asks models nobody finds out, and all are hidden
)

__all__ = ["HIDDEN", "PrivateRows", "hides", "shown_error"]


class PrivateRows:
    """Of a list in admin: `hides` is known of all its rows, by a handful of queries."""

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        changelist = super().get_changelist_instance(request)  # type: ignore[misc]
        _find_out(changelist.result_list)
        return changelist


def hides(row: Any) -> bool:
    """Whether an execution is hidden, or what belongs to it; read once for an instance."""
    if "_hides" not in vars(row):
        _find_out([row])
    is_hidden: bool = vars(row)["_hides"]
    return is_hidden


def shown_error(row: Any, text: str | None, code: str) -> str:
    """An error's text, or where that is hidden its code alone."""
    return code if text and hides(row) else text or ""


def _find_out(rows: Iterable[Any]) -> None:
    executions = [(row, _execution_of(row)) for row in rows]
    hidden = hidden_of({execution_id for _, execution_id in executions})
    for row, execution_id in executions:
        vars(row)["_hides"] = execution_id in hidden


def _execution_of(row: Any) -> UUID:
    execution_id: UUID = row.pk if isinstance(row, Execution) else getattr(row, "step", row).execution_id
    return execution_id


def hidden_of(ids: Collection[UUID]) -> frozenset[UUID]:
    """Those of the executions that are hidden. Four queries where none has called another, two more for each level of calls."""
    family = _Family(ids)
    asked = {MODEL_BLOCK, *ai_blocks()}
    steps = Step.objects.filter(execution_id__in=family.versions, block__in=asked)
    versions = FlowVersion.objects.filter(asking("organism_yaml"), pk__in=set(family.versions.values()))
    asking_versions = set(versions.values_list("pk", flat=True))
    found = set(steps.values_list("execution_id", flat=True).distinct())
    found |= {pk for pk, version in family.versions.items() if version in asking_versions}
    hidden = {family.head(pk) for pk in found | family.unknown}
    return frozenset(pk for pk in ids if pk in family.versions and family.head(pk) in hidden)


class _Family:
    """Executions whose tenants share nothing, those that called them, and all that these called, far as they are kept.

    Who belongs together has the same `head`. One may have two callers: a retry keeps the calls of what it retries, and
    the two are then hidden alike.
    """

    def __init__(self, ids: Collection[UUID]) -> None:
        self.versions: dict[UUID, UUID] = {}  # of each execution's flow
        self.unknown: set[UUID] = set()  # not all that belongs to these was found
        self._above: dict[UUID, UUID] = {}
        self._climb(set(ids))
        self._descend(set(self.versions))

    def head(self, pk: UUID) -> UUID:
        """One of those that it belongs to, the same for all of them; itself where it is alone."""
        while pk in self._above:
            pk = self._above[pk]
        return pk

    def _join(self, called: UUID, caller: UUID) -> None:
        below, above = self.head(called), self.head(caller)
        if below != above:
            self._above[below] = above

    def _climb(self, todo: set[UUID]) -> None:
        while todo:
            parents = {pk: parent for pk, parent in self._read(todo) if parent is not None}
            # A caller that is gone may have asked models: nobody can tell.
            self.unknown |= todo - self.versions.keys()
            for pk, parent in parents.items():
                self._join(pk, parent)
            todo = set(parents.values()) - self.versions.keys()

    def _descend(self, todo: set[UUID]) -> None:
        while todo:
            calls = JournalEntry.objects.filter(execution_id__in=todo, kind=START_FLOW)
            rows = calls.values_list("value", "execution_id")[: MOST_RELATED + 1]
            called = [(UUID(json_text.loads(value)), caller) for value, caller in rows]
            new = {pk for pk, _ in called} - self.versions.keys()
            if len(called) > MOST_RELATED or len(self.versions) + len(new) > MOST_RELATED:
                self.unknown |= set(calls.values_list("execution_id", flat=True).distinct())
                return
            for pk, caller in called:
                self._join(pk, caller)
            self._read(new)
            todo = new

    def _read(self, ids: set[UUID]) -> list[tuple[UUID, UUID | None]]:
        """Note their versions; each with its caller."""
        rows: QuerySet[Execution] = Execution.objects.filter(pk__in=ids, user__share_prompts_with_operators=False)
        found = list(rows.values_list("pk", "parent_id", "version_id"))
        self.versions |= {pk: version for pk, _, version in found}
        return [(pk, parent) for pk, parent, _ in found]
