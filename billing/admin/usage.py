"""What users have used: read-only."""

from typing import Any

from django.contrib import admin
from django.db.models import Sum
from django.http import HttpRequest, HttpResponse

from billing.metering.settling import ADDED
from billing.models import DeletedRuns, LlmUsage, RunBudget, SettledCall
from billing.models.usage import NO_FLOW
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


@admin.register(DeletedRuns)
class DeletedRunsAdmin(HistoryAdmin):
    """The runs of each day whose executions are deleted: they go on counting."""

    list_display = ("user", "starts_at", "runs")
    list_select_related = ("user",)
    list_filter = ("starts_at",)
    search_fields = ("user__email", "=user__id")
    search_help_text = "The user's e-mail or id"
    fields = readonly_fields = ("id", "user", "starts_at", "runs")


@admin.register(LlmUsage)
class LlmUsageAdmin(HistoryAdmin):
    """What calls of models came to, with the sums of what the list shows above it."""

    list_display = ("day", "user", "model", "provider", "flow", *ADDED, "own_key")
    list_select_related = ("user",)
    list_filter = ("day", "own_key", "provider", "model")
    date_hierarchy = "day"
    search_fields = ("user__email", "=user__id", "=flow_id", "model")
    search_help_text = "The user's e-mail or id, the flow's id, or the model"
    fields = readonly_fields = ("id", "user", "day", "flow", "model", "provider", "own_key", *ADDED)

    @admin.display(description="flow", ordering="flow_id")
    def flow(self, row: LlmUsage) -> str:
        return "-" if row.flow_id == NO_FLOW else str(row.flow_id)

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        response = super().changelist_view(request, extra_context)
        changes = getattr(response, "context_data", {}).get("cl")
        if changes is not None:
            sums = changes.queryset.order_by().aggregate(**{name: Sum(name, default=0) for name in ADDED})
            response.context_data["subtitle"] = _in_words(sums)  # type: ignore[attr-defined]
        return response


def _in_words(sums: dict[str, Any]) -> str:
    text = (
        f"{sums['calls']:,} calls ({sums['cached_calls']:,} from the cache), {sums['tokens_in']:,} tokens in, "
        f"{sums['tokens_out']:,} out, ${sums['cost']:,.4f}"
    )
    return f"{text} and {sums['unpriced_calls']:,} calls at unknown prices" if sums["unpriced_calls"] else text


@admin.register(SettledCall)
class SettledCallAdmin(HistoryAdmin):
    """The calls of the last days that have been counted."""

    list_display = fields = readonly_fields = ("call_id", "settled_at")
    list_filter = ("settled_at",)
    search_fields = ("=call_id",)
    search_help_text = "The call's id"
