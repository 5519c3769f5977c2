"""What a list of executions can be filtered by."""

from collections.abc import Mapping
from typing import Any

from django.http import QueryDict
from drf_spectacular.utils import OpenApiParameter
from rest_framework import serializers

from executions.models import ExecutionStatus, TriggerType
from executions.querysets import ExecutionQuerySet


class ExecutionFilters(serializers.Serializer[Any]):
    """Filters from a query string: keys as in the API, a filter of several values repeated or separated by commas."""

    status = serializers.ListField(child=serializers.ChoiceField(choices=ExecutionStatus.choices), required=False)
    triggerType = serializers.ListField(child=serializers.ChoiceField(choices=TriggerType.choices), required=False)
    since = serializers.DateTimeField(required=False)
    until = serializers.DateTimeField(required=False)
    flow = serializers.UUIDField(required=False)

    @classmethod
    def apply(cls, rows: ExecutionQuerySet, query: QueryDict) -> ExecutionQuerySet:
        """The rows that match. Raises `rest_framework.exceptions.ValidationError` for a value that cannot be."""
        filters = cls(data=_values(query))
        filters.is_valid(raise_exception=True)
        return _filtered(rows, filters.validated_data)


def _values(query: QueryDict) -> dict[str, Any]:
    several = {name: ",".join(query.getlist(name)) for name in ("status", "triggerType")}
    single = {name: query[name] for name in ("since", "until", "flow") if query.get(name)}
    return single | {name: [value.strip() for value in text.split(",")] for name, text in several.items() if text}


def _filtered(rows: ExecutionQuerySet, wanted: Mapping[str, Any]) -> ExecutionQuerySet:
    rows = rows.between(wanted.get("since"), wanted.get("until"))
    if "status" in wanted:
        rows = rows.filter(status__in=wanted["status"])
    if "triggerType" in wanted:
        rows = rows.filter(trigger_type__in=wanted["triggerType"])
    if "flow" in wanted:
        rows = rows.filter(flow_id=wanted["flow"])
    return rows


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
]
FLOW_PARAMETER = OpenApiParameter("flow", {"type": "string", "format": "uuid"}, description="Only this flow's.")
