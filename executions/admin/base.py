"""What the admins of history have in common."""

from typing import Any, ClassVar

from django.contrib import admin
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.functional import cached_property
from django.utils.safestring import SafeString

from bloxserver.core.admin import HistoryAdmin, short_id
from executions.admin.texts import as_uuid, execution_link

COUNTED_ROWS = 10_000


class CappedPaginator(Paginator):
    """Counts up to `COUNTED_ROWS`: nobody pages further, and counting ten million rows takes seconds."""

    @cached_property
    def count(self) -> int:
        rows: Any = self.object_list
        return rows[:COUNTED_ROWS].count()


class LargeTableAdmin(HistoryAdmin):
    """Rows that the engine wrote: looked at, never edited. Newest first by primary key, which is ordered by time."""

    show_full_result_count = False
    paginator: ClassVar[type[Paginator]] = CappedPaginator
    list_per_page = 25  # Django renders a row in half a millisecond


class OfExecutionAdmin(LargeTableAdmin):
    """What belongs to one execution, found by that execution's id."""

    search_fields = ("execution_id",)
    search_help_text = "The id of an execution."

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        if not search_term.strip():
            return queryset, False
        return queryset.filter(execution_id=as_uuid(search_term)), False

    @admin.display(description="execution")
    def of_execution(self, row: Any) -> SafeString | str:
        return execution_link(row.execution_id)

    @admin.display(description="execution")
    def of_execution_short(self, row: Any) -> SafeString | str:
        return execution_link(row.execution_id, short_id(row.execution_id))
