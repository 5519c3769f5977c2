"""Operations on many executions, and what has become of each execution."""

from django.contrib import admin
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from executions.admin.base import LargeTableAdmin, OfExecutionAdmin
from executions.admin.texts import execution_link
from executions.bulk.models import BulkItem, BulkOperation, ItemStatus

FAILURES_SHOWN = 200


@admin.register(BulkOperation)
class BulkOperationAdmin(LargeTableAdmin):
    list_display = ("verb", "user", "status", "total", "done", "failed", "created_at", "completed_at")
    list_select_related = ("user",)
    list_filter = ("verb", "status")
    search_fields = ("user__email",)
    search_help_text = "A user's e-mail address."
    ordering = ("-id",)
    fields = (
        ("verb", "from_failed", "user"),
        ("status", "total", "done", "failed"),
        "asked",
        ("created_at", "completed_at"),
        "failures",
    )
    readonly_fields = ("created_at", "failures")

    @admin.display(description="what failed")
    def failures(self, operation: BulkOperation) -> SafeString | str:
        failed = operation.items.filter(status=ItemStatus.FAILED).order_by("id")[:FAILURES_SHOWN]
        rows = [(execution_link(item.execution_id), item.code, item.message) for item in failed]
        return format_html("<ul>{}</ul>", format_html_join("", "<li>{}: {} {}</li>", rows)) if rows else "-"


@admin.register(BulkItem)
class BulkItemAdmin(OfExecutionAdmin):
    list_display = ("of_execution_short", "operation", "status", "retried_as", "code", "message")
    list_display_links = ("status",)
    list_select_related = ("operation",)
    list_filter = ("status",)
    ordering = ("-id",)
    fields = ("of_execution", "operation", "status", "retried_as", "code", "message")
    readonly_fields = ("of_execution", "retried_as")

    @admin.display(description="retried as")
    def retried_as(self, item: BulkItem) -> SafeString | str:
        return execution_link(item.result_id) if item.result_id else "-"
