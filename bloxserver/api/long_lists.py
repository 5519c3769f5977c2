"""Lists that may be too long to be counted or leafed through: onward by cursor, and totals that stop counting somewhere."""

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol
from uuid import UUID

from django.db.models import Q
from django.utils import timezone
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from bloxserver.api.pagination import PageNumberPagination

COUNTED = 10_000  # rows that are counted one by one at most


@dataclass(frozen=True, slots=True)
class Page:
    items: list[Any]
    has_more: bool
    last: Any  # the page goes as far as this row, which need not be among the items


@dataclass(frozen=True, slots=True)
class Total:
    count: int
    is_exact: bool  # False: there are at least so many


class LongList(Protocol):
    """Rows by a moment of theirs, the latest first, and by id where moments are the same."""

    @property
    def moment(self) -> str:
        """The field's name."""

    def page(self, *, after: Q | None, start: int, size: int) -> Page:
        """`size` rows from the place `start` on, counted from the latest, or from what comes `after`."""

    def total(self) -> Total: ...


@dataclass(frozen=True, slots=True)
class LongTable:
    """A queryset as a `LongList`, where an index serves its filters and this order."""

    rows: Any
    moment: str

    def page(self, *, after: Q | None, start: int, size: int) -> Page:
        rows = self.rows.order_by(f"-{self.moment}", "-id")
        if after is not None:
            rows = rows.filter(after)
        return page_of(rows, start=start, size=size)

    def total(self) -> Total:
        return count_some(self.rows.order_by(f"-{self.moment}", "-id"))


def page_of(rows: Any, *, start: int, size: int) -> Page:
    items = list(rows[start : start + size + 1])
    has_more = len(items) > size
    items = items[:size]
    return Page(items, has_more, items[-1] if items else None)


def count_some(rows: Any) -> Total:
    """In the list's order: without, PostgreSQL may read the table to find so few."""
    count = rows[: COUNTED + 1].count()
    return Total(min(count, COUNTED), count <= COUNTED)


class CursorPagination(PageNumberPagination):
    """Adds `cursor` to the query and `nextCursor` to the answer: newest first, what follows the last item.

    A cursor names a place between two rows, so that those added meanwhile neither repeat nor hide any. `page` counts
    from that place; `total` is still that of the whole list, or at least so many (`totalIsExact`).
    """

    exact_where = "False: there are `total` or more."
    next_cursor_help = "The `cursor` of what follows; null at the end."

    def paginate_queryset(self, queryset: Any, request: Request, view: Any = None) -> list[Any]:
        """The items of a `LongList`."""
        rows: LongList = queryset
        start = self.read_page(request)
        cursor = request.query_params.get("cursor")
        page = rows.page(after=_after(cursor, rows.moment) if cursor else None, start=start, size=self.size)
        total = rows.total()
        self.total, self.is_exact = total.count, total.is_exact
        self.more = page.has_more
        self.next_cursor = cursor_at(page.last, rows.moment) if page.has_more and page.last else None
        return page.items

    def get_paginated_response(self, data: Any) -> Response:
        response = super().get_paginated_response(data)
        response.data |= {"total_is_exact": self.is_exact, "has_more": self.more, "next_cursor": self.next_cursor}
        return response

    def get_paginated_response_schema(self, schema: dict[str, Any]) -> dict[str, Any]:
        answer = super().get_paginated_response_schema(schema)
        answer["required"] += ["totalIsExact", "nextCursor"]
        answer["properties"]["totalIsExact"] = {"type": "boolean", "description": self.exact_where}
        answer["properties"]["nextCursor"] = {"type": ["string", "null"], "description": self.next_cursor_help}
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


def cursor_at(row: Any, moment: str) -> str:
    """The place behind `row` in a list by the field `moment`."""
    return urlsafe_b64encode(f"{getattr(row, moment).isoformat()} {row.pk}".encode()).decode().rstrip("=")


def _after(cursor: str, moment: str) -> Q:
    """Older than the place that `cursor` names. Raises `ValidationError` for what `cursor_at` cannot have made."""
    try:
        text, pk = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode().split(" ")
        at, last_id = datetime.fromisoformat(text), UUID(pk)
        if timezone.is_naive(at):
            raise ValueError(text)
        at = at.astimezone(UTC)  # which the first and last days of all may not survive
    except (ValueError, OverflowError, binascii.Error) as error:
        raise ValidationError({"cursor": ["Not a cursor of this list: take nextCursor of the page before."]}) from error
    # The first condition follows from the second; it is there for the index.
    return Q(**{f"{moment}__lte": at}) & (Q(**{f"{moment}__lt": at}) | Q(**{moment: at, "id__lt": last_id}))
