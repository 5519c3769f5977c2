"""Pages of executions: by number like every list, or onward by cursor, which costs the same however far it goes."""

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from django.db.models import Q
from django.utils import timezone
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from bloxserver.api.pagination import ExecutionPagination
from executions.listing import History
from executions.models import Execution


class ExecutionHistoryPagination(ExecutionPagination):
    """Adds `cursor` to the query and `nextCursor` to the answer: newest first, what follows the last item.

    A cursor names a place between two executions, so that those accepted meanwhile neither repeat nor hide any.
    `page` counts from that place; `total` is still that of the whole list, or at least so many (`totalIsExact`).
    """

    def paginate_queryset(self, queryset: Any, request: Request, view: Any = None) -> list[Any]:
        """The items of a `History`."""
        history: History = queryset
        start = self.read_page(request)
        cursor = request.query_params.get("cursor")
        page = history.page(after=_after(cursor) if cursor else None, start=start, size=self.size)
        total = history.total()
        self.total, self.is_exact = total.count, total.is_exact
        self.more = page.has_more
        self.next_cursor = _cursor_at(page.last) if page.has_more and page.last else None
        return page.items

    def get_paginated_response(self, data: Any) -> Response:
        response = super().get_paginated_response(data)
        response.data |= {"total_is_exact": self.is_exact, "has_more": self.more, "next_cursor": self.next_cursor}
        return response

    def get_paginated_response_schema(self, schema: dict[str, Any]) -> dict[str, Any]:
        answer = super().get_paginated_response_schema(schema)
        answer["required"] += ["totalIsExact", "nextCursor"]
        answer["properties"]["totalIsExact"] = {
            "type": "boolean",
            "description": "False: there are `total` or more. Exact always where only flow and status are filtered by.",
        }
        answer["properties"]["nextCursor"] = {
            "type": ["string", "null"],
            "description": (
                "The `cursor` of what follows; null at the end. A page that was filtered by `triggerType` or `search` may "
                "have few items or none, and still more behind it."
            ),
        }
        return answer

    def get_schema_operation_parameters(self, view: Any) -> list[dict[str, Any]]:
        description = "A `nextCursor` of this list with the same filters: what follows there, instead of a page."
        cursor = {
            "name": "cursor",
            "in": "query",
            "required": False,
            "description": description,
            "schema": {"type": "string"},
        }
        return [*super().get_schema_operation_parameters(view), cursor]


def _cursor_at(execution: Execution) -> str:
    return urlsafe_b64encode(f"{execution.started_at.isoformat()} {execution.pk}".encode()).decode().rstrip("=")


def _after(cursor: str) -> Q:
    """Older than the place that `cursor` names. Raises `ValidationError` for what `_cursor_at` cannot have made."""
    try:
        moment, pk = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode().split(" ")
        started_at, last_id = datetime.fromisoformat(moment), UUID(pk)
        if timezone.is_naive(started_at):
            raise ValueError(moment)
        started_at = started_at.astimezone(UTC)  # which the first and last days of all may not survive
    except (ValueError, OverflowError, binascii.Error) as error:
        raise ValidationError({"cursor": ["Not a cursor of this list: take nextCursor of the page before."]}) from error
    # The first condition follows from the second; it is there for the index.
    return Q(started_at__lte=started_at) & (Q(started_at__lt=started_at) | Q(started_at=started_at, id__lt=last_id))
