"""`PaginatedResponse {items, total, page, pageSize, hasMore}`."""

import re
from typing import Any

from django.db.models import QuerySet
from rest_framework.exceptions import ValidationError
from rest_framework.pagination import BasePagination
from rest_framework.request import Request
from rest_framework.response import Response

MAX_PAGE = 2**31 - 1  # an offset of MAX_PAGE * max_page_size still fits a bigint
_WHOLE_NUMBER = re.compile(r"[0-9]{1,10}")


class PageNumberPagination(BasePagination):
    """`?page=` from 1 and `?pageSize=` (or `page_size`) from 1 to 100. A page past the end has no items."""

    page_size = 20
    max_page_size = 100

    def paginate_queryset(self, queryset: Any, request: Request, view: Any = None) -> list[Any]:
        """The items of the page asked for. Raises `ValidationError` when `page` or `pageSize` is not in range."""
        start = self.read_page(request)
        self.total = queryset.count() if isinstance(queryset, QuerySet) else len(queryset)
        return list(queryset[start : start + self.size]) if start < self.total else []

    def read_page(self, request: Request) -> int:
        """Set `page` and `size` to what is asked for; the place of the page's first item, from 0."""
        size_name = "page_size" if "page_size" in request.query_params else "pageSize"
        self.size = _number(request, size_name, default=self.page_size, maximum=self.max_page_size)
        self.page = _number(request, "page", default=1, maximum=MAX_PAGE)
        return (self.page - 1) * self.size

    def get_paginated_response(self, data: Any) -> Response:
        return Response(
            {
                "items": data,
                "total": self.total,
                "page": self.page,
                "page_size": self.size,
                "has_more": self.page * self.size < self.total,
            }
        )

    def get_paginated_response_schema(self, schema: dict[str, Any]) -> dict[str, Any]:
        return {
            "type": "object",
            "required": ["items", "total", "page", "pageSize", "hasMore"],
            "properties": {
                "items": schema,
                "total": {"type": "integer", "minimum": 0, "description": "How many there are on all pages."},
                "page": {"type": "integer", "minimum": 1},
                "pageSize": {"type": "integer", "minimum": 1, "maximum": self.max_page_size},
                "hasMore": {"type": "boolean"},
            },
        }

    def get_schema_operation_parameters(self, view: Any) -> list[dict[str, Any]]:
        return [
            _parameter("page", 1, MAX_PAGE, "The page, from 1. Past the end there are no items."),
            _parameter("pageSize", self.page_size, self.max_page_size, "How many items a page has; also `page_size`."),
        ]


class ExecutionPagination(PageNumberPagination):
    page_size = 50


def _number(request: Request, name: str, *, default: int, maximum: int) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    if not _WHOLE_NUMBER.fullmatch(text) or not 1 <= int(text) <= maximum:
        raise ValidationError({name: [f"Must be a whole number from 1 to {maximum}."]})
    return int(text)


def _parameter(name: str, default: int, maximum: int, description: str) -> dict[str, Any]:
    schema = {"type": "integer", "minimum": 1, "maximum": maximum, "default": default}
    return {"name": name, "in": "query", "required": False, "description": description, "schema": schema}
