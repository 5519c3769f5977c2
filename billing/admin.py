from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from billing.models import RunBudget


@admin.register(RunBudget)
class RunBudgetAdmin(admin.ModelAdmin):
    """What the free tier has used: read-only, since the count is the truth behind the cap."""

    list_display = ("user", "period_start", "runs")
    list_select_related = ("user",)
    list_filter = ("period_start",)
    search_fields = ("user__email", "=user__id")
    search_help_text = "The user's e-mail or id"
    fields = readonly_fields = ("id", "user", "period_start", "runs")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False
