"""What a list of executions can be filtered by."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self
from uuid import UUID

from django.db.models import Q
from django.http import QueryDict
from drf_spectacular.utils import OpenApiParameter
from rest_framework import serializers

from executions.models import ExecutionStatus, TriggerType
from executions.querysets import ExecutionQuerySet

MAX_SEARCH = 200  # characters


class ExecutionFilters(serializers.Serializer[Any]):
    """Filters from a query string: keys as in the API, a filter of several values repeated or separated by commas."""

    status = serializers.ListField(child=serializers.ChoiceField(choices=ExecutionStatus.choices), required=False)
    triggerType = serializers.ListField(child=serializers.ChoiceField(choices=TriggerType.choices), required=False)
    since = serializers.DateTimeField(required=False)
    until = serializers.DateTimeField(required=False)
    flow = serializers.UUIDField(required=False)
    search = serializers.CharField(required=False, max_length=MAX_SEARCH)


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
    def from_query(cls, query: QueryDict) -> Self:
        """Raises `rest_framework.exceptions.ValidationError` for a value that cannot be."""
        filters = ExecutionFilters(data=_values(query))
        filters.is_valid(raise_exception=True)
        return cls.from_valid(filters.validated_data)

    @classmethod
    def from_valid(cls, data: Mapping[str, Any]) -> Self:
        return cls(
            statuses=tuple(data.get("status", ())),
            trigger_types=tuple(data.get("triggerType", ())),
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


def _values(query: QueryDict) -> dict[str, Any]:
    several = {name: ",".join(query.getlist(name)) for name in ("status", "triggerType")}
    single = {name: query[name] for name in ("since", "until", "flow", "search") if query.get(name)}
    return single | {name: [value.strip() for value in text.split(",")] for name, text in several.items() if text}


def _choices(name: str, choices: list[str], description: str) -> OpenApiParameter:
    return OpenApiParameter(
        name, {"type": "array", "items": {"type": "string", "enum": choices}}, description=description, explode=True
    )


LIST_PARAMETERS = [
    _choices("status", ExecutionStatus.values, "Only these statuses; repeat it, or separate values by commas."),
    _choices("triggerType", TriggerType.values, "Only what these kinds of trigger started."),
    OpenApiParameter(
        "since", {"type": "string", "format": "date-time"}, description="Accepted at this moment or later."
    ),
    OpenApiParameter("until", {"type": "string", "format": "date-time"}, description="Accepted before this moment."),
    OpenApiParameter(
        "search",
        {"type": "string", "maxLength": MAX_SEARCH},
        description=(
            "Only those whose error message, or input as JSON text, contains this, whatever the case. Looks through "
            "some thousands of executions a page: `nextCursor` goes on where it stopped."
        ),
    ),
]
FLOW_PARAMETER = OpenApiParameter("flow", {"type": "string", "format": "uuid"}, description="Only this flow's.")
