"""What a list of executions can be filtered by."""

from typing import Any

from django.http import QueryDict
from drf_spectacular.utils import OpenApiParameter
from rest_framework import serializers

from executions.models import ExecutionStatus, TriggerType
from executions.wanted import MAX_SEARCH, Wanted


class ExecutionFilters(serializers.Serializer[Any]):
    """Filters from a query string: keys as in the API, a filter of several values repeated or separated by commas."""

    status = serializers.ListField(child=serializers.ChoiceField(choices=ExecutionStatus.choices), required=False)
    triggerType = serializers.ListField(child=serializers.ChoiceField(choices=TriggerType.choices), required=False)
    since = serializers.DateTimeField(required=False)
    until = serializers.DateTimeField(required=False)
    flow = serializers.UUIDField(required=False)
    search = serializers.CharField(required=False, max_length=MAX_SEARCH)


def read_filters(query: QueryDict) -> Wanted:
    """Raises `rest_framework.exceptions.ValidationError` for a value that cannot be."""
    filters = ExecutionFilters(data=_values(query))
    filters.is_valid(raise_exception=True)
    data = filters.validated_data
    return Wanted.from_valid({**data, "trigger_type": data.get("triggerType", ())})


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
