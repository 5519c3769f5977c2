"""The mails that told users of their runs."""

from django.contrib import admin

from billing.models import RunNotice
from bloxserver.core.admin import HistoryAdmin


@admin.register(RunNotice)
class RunNoticeAdmin(HistoryAdmin):
    """Who was told that 80 or 100 % of a period's runs are used."""

    list_display = ("__str__", "user", "runs", "limit", "attempts", "created_at", "sent_at", "due_at", "error")
    list_select_related = ("user",)
    list_filter = ("percent", "created_at", "sent_at")
    search_fields = ("user__email", "=user__id")
    search_help_text = "The user's e-mail or id"
    fields = readonly_fields = (
        "id",
        "user",
        "percent",
        "period_start",
        "period_end",
        "runs",
        "limit",
        "attempts",
        "created_at",
        "due_at",
        "sent_at",
        "error",
    )
