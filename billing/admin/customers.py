"""What each user may: the tier, and the limits that an operator has set otherwise."""

from typing import Any, cast

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db.models import Count, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.safestring import SafeString

from accounts.models import Tier, User
from accounts.services import set_tier
from billing.admin.customer_page import lately, stripe_page
from billing.admin.money import OF_STRIPE, MoneyActions
from billing.admin.sections import sections_of
from billing.forms import LimitOverrideForm
from billing.limit_table import limit_table
from billing.models import Customer, LimitOverride, RunBudget
from billing.months import month_of
from billing.notices import note_own_limit
from bloxserver.core.admin import HistoryAdmin, change_link, two_lines


class LimitOverrideInline(admin.TabularInline):
    model = LimitOverride
    form = LimitOverrideForm
    fk_name = "user"
    fields = ("limit", "value", "expires_at", "reason", "set_by")
    readonly_fields = ("set_by",)
    extra = 0
    verbose_name = "limit of this customer's own"
    verbose_name_plural = "limits of this customer's own"

    @admin.display(description="set by")
    def set_by(self, override: LimitOverride) -> SafeString | str:
        """Empty for one that is being added."""
        return "" if override._state.adding else _set_by(override)


@admin.register(Customer)
class CustomerAdmin(MoneyActions):
    """The user's own page is of accounts: here nothing of the user is edited but the tier, by an action that asks."""

    change_form_template = "admin/billing/customer/change_form.html"
    list_display = ("email", "tier", "overrides", "runs", "created_at")
    list_filter = ("tier", "limit_overrides__limit")
    search_fields = ("email", "name", "clerk_subject", "=id")
    search_help_text = "E-mail, name, Clerk id or id"
    actions = ("change_tier", *OF_STRIPE)
    fields = (("email", "name", "id"), ("tier", "runs", "created_at"))
    readonly_fields = ("id", "email", "name", "tier", "runs", "created_at")
    inlines = (LimitOverrideInline,)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Customer]:
        budgets = RunBudget.objects.filter(user=OuterRef("pk"), period_start=month_of(timezone.now()))
        overrides = LimitOverride.objects.filter(user=OuterRef("pk")).order_by().values("user")
        counted = Subquery(overrides.annotate(count=Count("pk")).values("count"))
        return (
            super()
            .get_queryset(request)
            .annotate(own_limits=Coalesce(counted, 0), runs_counted=Subquery(budgets.values("runs")))
        )

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    @admin.display(description="own limits", ordering="own_limits")
    def overrides(self, customer: Any) -> str:
        return str(customer.own_limits or "-")

    @admin.display(description="runs this month", ordering="runs_counted")
    def runs(self, customer: Any) -> str:
        """Of the budget that only tiers which are refused at their cap keep."""
        return "-" if customer.runs_counted is None else f"{customer.runs_counted:,}"

    def buttons(self, obj: Customer) -> list[str]:
        return ["change_tier", *super().buttons(obj)]

    def links(self, customer: Customer) -> dict[str, str]:
        return {
            "User": reverse("admin:accounts_user_change", args=[customer.pk]),
            "Budgets": f"{reverse('admin:billing_budget_changelist')}?user__id__exact={customer.pk}",
            "Model usage": f"{reverse('admin:billing_llmusage_changelist')}?user__id__exact={customer.pk}",
        }

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        if (customer := kwargs.get("obj")) is not None:
            now = timezone.now()
            context["limits"] = limit_table(customer, now=now)
            context["sections"] = sections_of(customer, now=now)
            context |= {**stripe_page(customer), **lately(customer, request)}
        return super().render_change_form(request, context, *args, **kwargs)

    def save_model(self, request: HttpRequest, obj: Customer, form: Any, change: bool) -> None:
        """No field of the user is edited here, so none is written."""

    def save_formset(self, request: HttpRequest, form: Any, formset: Any, change: bool) -> None:
        for override in formset.save(commit=False):
            if override._state.adding:
                override.created_by = cast(User, request.user)
            override.save()
        for override in formset.deleted_objects:
            override.delete()
        changed = [
            *formset.new_objects,
            *(override for override, _ in formset.changed_objects),
            *formset.deleted_objects,
        ]
        if any(override.limit == "flows" for override in changed):
            note_own_limit(user=form.instance, now=timezone.now())

    @admin.action(description="Change the tier", permissions=["change"])
    def change_tier(self, request: HttpRequest, customers: QuerySet[Customer]) -> HttpResponse | None:
        tier = request.POST.get("tier", "")
        if tier not in Tier.values:
            return self._ask_for_tier(request, customers)
        changed = [customer for customer in customers if customer.tier != tier]
        for customer in changed:
            before = Tier(customer.tier).label
            set_tier(user=customer, tier=tier)
            self.log_change(request, customer, f"Changed the tier from {before} to {Tier(tier).label}.")
        who = "1 customer is" if len(changed) == 1 else f"{len(changed)} customers are"
        self.message_user(request, f"{who} now on {Tier(tier).label}.", messages.SUCCESS)
        return None

    def _ask_for_tier(self, request: HttpRequest, customers: QuerySet[Customer]) -> HttpResponse:
        context = {
            **self.admin_site.each_context(request),
            "title": "Change the tier",
            "opts": self.opts,
            "media": self.media,
            "customers": customers,
            "tiers": Tier.choices,
            "checkbox": ACTION_CHECKBOX_NAME,
            "from_page": "_from_page" in request.POST,
        }
        return TemplateResponse(request, "admin/billing/customer/change_tier.html", context)


@admin.register(LimitOverride)
class LimitOverrideAdmin(HistoryAdmin):
    """What is set for whom, across all customers; it is edited on the customer's page."""

    list_display = ("__str__", "customer", "expires_at", "reason", "set_by")
    list_select_related = ("user", "created_by")
    list_filter = ("limit", "expires_at")
    search_fields = ("user__email", "=user__id", "reason")
    search_help_text = "The customer's e-mail or id, or the reason"
    fields = readonly_fields = ("id", "customer", "limit", "value", "expires_at", "reason", "created_by", "created_at")

    @admin.display(description="customer", ordering="user__email")
    def customer(self, override: LimitOverride) -> SafeString | str:
        return change_link("billing_customer", override.user_id, override.user)

    @admin.display(description="set by", ordering="created_at")
    def set_by(self, override: LimitOverride) -> SafeString:
        return _set_by(override)


def _set_by(override: LimitOverride) -> SafeString:
    return two_lines(f"{override.created_at:%Y-%m-%d}", override.created_by or "-")
