"""Which executions are asked for, whoever asks: a list, a bulk retry. Without REST framework: workers read it too."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self
from uuid import UUID

from django.db.models import Q

from executions.models import ExecutionStatus
from executions.querysets import ExecutionQuerySet

MAX_SEARCH = 200  # characters


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which executions are asked for. `since` and `until` bound the moment of acceptance, `until` outside."""

    statuses: tuple[str, ...] = ()
    trigger_types: tuple[str, ...] = ()
    since: datetime | None = None
    until: datetime | None = None
    flow_id: UUID | None = None
    search: str = ""

    @classmethod
    def from_valid(cls, data: Mapping[str, Any]) -> Self:
        """From what a serializer has checked, by its names."""
        return cls(
            statuses=tuple(data.get("status", ())),
            trigger_types=tuple(data.get("trigger_type", ())),
            since=data.get("since"),
            until=data.get("until"),
            flow_id=data.get("flow"),
            search=data.get("search", ""),
        )

    def by_index(self, rows: ExecutionQuerySet) -> ExecutionQuerySet:
        """Those of `rows` that the filters leave which an index serves."""
        rows = rows.between(self.since, self.until)
        if self.flow_id is not None:
            rows = rows.filter(flow_id=self.flow_id)
        if self.statuses == (ExecutionStatus.RUNNING,):
            rows = rows.alive()  # the same, by a constraint; it is this that has an index
        if self.statuses:
            rows = rows.filter(status__in=self.statuses)
        return rows

    @property
    def is_scanning(self) -> bool:
        """Whether rows must be read one after the other to find those that match."""
        return bool(self.trigger_types or self.search)

    def by_reading(self, rows: ExecutionQuerySet) -> ExecutionQuerySet:
        """Those that the other filters leave."""
        if self.trigger_types:
            rows = rows.filter(trigger_type__in=self.trigger_types)
        if self.search:
            rows = rows.filter(Q(error_message__icontains=self.search) | Q(payload__input__icontains=self.search))
        return rows
