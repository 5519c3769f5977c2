"""Operations on many executions."""

from django.contrib import admin
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from executions.admin.base import LargeTableAdmin
from executions.admin.texts import execution_link
from executions.bulk.models import BulkOperation, ItemStatus

ITEMS_SHOWN = 200


@admin.register(BulkOperation)
class BulkOperationAdmin(LargeTableAdmin):
    list_display = ("verb", "user", "status", "total", "done", "failed", "created_at", "completed_at")
    list_select_related = ("user",)
    list_filter = ("verb", "status")
    search_fields = ("user__email",)
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
        failed = operation.items.filter(status=ItemStatus.FAILED).order_by("id")[:ITEMS_SHOWN]
        rows = [(execution_link(item.execution_id), item.code, item.message) for item in failed]
        return format_html("<ul>{}</ul>", format_html_join("", "<li>{}: {} {}</li>", rows)) if rows else "-"
