"""What users may spend on models, and what is spent of it."""

from typing import Any

from django.contrib import admin
from django.forms import ModelForm
from django.http import HttpRequest
from django.utils import timezone

from billing.forms import BudgetForm
from billing.metering.budgets import count_from_usage, delete_budget, update_budget
from billing.models import Budget, BudgetNotice, BudgetPeriod, BudgetReservation
from bloxserver.core.admin import HistoryAdmin

SPENT = (
    "spent_cost",
    "spent_tokens",
    "reserved_cost",
    "reserved_tokens",
    "unpriced_calls",
    "warned_at_80",
    "stopped_at_100",
)


@admin.register(BudgetPeriod)
class BudgetPeriodAdmin(HistoryAdmin):
    """What was spent of each budget in each month."""

    list_display = ("__str__", "user", "budget", *SPENT)
    list_select_related = ("budget__user",)
    list_filter = ("period_start",)
    search_fields = ("budget__user__email", "=budget__user__id", "=budget__id", "=budget__flow_id")
    search_help_text = "The user's e-mail or id, or the budget's or flow's id"
    fields = readonly_fields = ("id", "user", "budget", "period_start", *SPENT)

    @admin.display(description="user", ordering="budget__user__email")
    def user(self, period: BudgetPeriod) -> str:
        return str(period.budget.user)


@admin.register(BudgetReservation)
class BudgetReservationAdmin(HistoryAdmin):
    """Calls under way, and those of which nobody said what came of them (lapsed)."""

    list_display = ("call_id", "user", "cost", "tokens", "expires_at", "lapsed")
    list_select_related = ("period__budget__user",)
    list_filter = ("lapsed", "expires_at")
    search_fields = ("=call_id", "period__budget__user__email", "=period__budget__id")
    search_help_text = "The call's id, the user's e-mail, or the budget's id"
    fields = readonly_fields = ("id", "call_id", "user", "period", "cost", "tokens", "expires_at", "lapsed")

    @admin.display(description="user")
    def user(self, reservation: BudgetReservation) -> str:
        return str(reservation.period.budget.user)


class BudgetPeriodInline(admin.TabularInline):
    model = BudgetPeriod
    fields = readonly_fields = ("period_start", *SPENT)
    extra = 0
    can_delete = False

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(Budget)
class BudgetAdmin(admin.ModelAdmin):
    """The limits can be edited, what is spent cannot: the count is the truth behind the limit."""

    form = BudgetForm
    list_display = ("user", "of", "monthly_cost", "monthly_tokens", "updated_at")
    list_display_links = ("user", "of")
    list_select_related = ("user",)
    list_filter = ("updated_at",)
    search_fields = ("user__email", "=user__id", "=flow_id", "flow_name")
    search_help_text = "The user's e-mail or id, or the flow's name or id"
    autocomplete_fields = ("user",)
    fields = ("user", "of", "monthly_cost", "monthly_tokens", ("created_at", "updated_at"))
    inlines = (BudgetPeriodInline,)

    def get_readonly_fields(self, request: HttpRequest, obj: Budget | None = None) -> list[str]:
        return ["of", "created_at", "updated_at", *(["user"] if obj else [])]

    @admin.display(description="budget", ordering="flow_name")
    def of(self, budget: Budget) -> str:
        return str(budget)

    def save_model(self, request: HttpRequest, obj: Budget, form: ModelForm, change: bool) -> None:
        """Write only what was edited, and count a new one from what the month has used."""
        now = timezone.now()
        if change:
            update_budget(budget=obj, changes={name: getattr(obj, name) for name in form.changed_data}, now=now)
        else:
            super().save_model(request, obj, form, change)
            count_from_usage(obj, now=now)

    def delete_model(self, request: HttpRequest, obj: Budget) -> None:
        delete_budget(budget=obj)

    def delete_queryset(self, request: HttpRequest, queryset: Any) -> None:
        for budget in queryset:
            delete_budget(budget=budget)

    def get_deleted_objects(
        self, objs: Any, request: HttpRequest
    ) -> tuple[list[Any], dict[str, int], set[str], list[str]]:
        """A budget takes its months with it, which nobody may delete alone."""
        budgets = [f"The budget {budget} of {budget.user}, with its months" for budget in objs]
        return budgets, {str(Budget._meta.verbose_name_plural): len(budgets)}, set(), []


@admin.register(BudgetNotice)
class BudgetNoticeAdmin(HistoryAdmin):
    """The mails that told owners of their budgets."""

    list_display = ("__str__", "user", "attempts", "created_at", "sent_at", "due_at", "error")
    list_select_related = ("period__budget__user",)
    list_filter = ("percent", "created_at", "sent_at")
    search_fields = ("period__budget__user__email", "=period__budget__user__id")
    search_help_text = "The user's e-mail or id"
    fields = readonly_fields = (
        "id",
        "period",
        "user",
        "percent",
        "attempts",
        "created_at",
        "due_at",
        "sent_at",
        "error",
    )

    @admin.display(description="user")
    def user(self, notice: BudgetNotice) -> str:
        return str(notice.period.budget.user)
