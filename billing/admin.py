from django.contrib import admin

from billing.models import RunBudget
from bloxserver.core.admin import HistoryAdmin


@admin.register(RunBudget)
class RunBudgetAdmin(HistoryAdmin):
    """What the free tier has used: read-only, since the count is the truth behind the cap."""

    list_display = ("user", "period_start", "runs")
    list_select_related = ("user",)
    list_filter = ("period_start",)
    search_fields = ("user__email", "=user__id")
    search_help_text = "The user's e-mail or id"
    fields = readonly_fields = ("id", "user", "period_start", "runs")
