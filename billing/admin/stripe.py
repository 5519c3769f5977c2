"""The admin's pages of what Stripe has told and been told: read-only, since Stripe is the truth."""

from typing import Any, ClassVar

from django.contrib import admin

from billing.models import (
    FlowCapReview,
    OverageReport,
    StripeCustomer,
    StripeEvent,
    Subscription,
    SubscriptionPeriod,
)
from bloxserver.core.admin import HistoryAdmin


class OfUserAdmin(HistoryAdmin):
    """Every field is shown, and rows are found by their user."""

    list_select_related: ClassVar[Any] = ("user",)
    search_fields: ClassVar[Any] = ("user__email", "=user__id")
    search_help_text = "The user's e-mail or id"

    def get_fields(self, request: Any, obj: Any = None) -> Any:
        return [field.name for field in self.opts.fields]

    def get_readonly_fields(self, request: Any, obj: Any = None) -> Any:
        return self.get_fields(request, obj)


@admin.register(StripeCustomer)
class StripeCustomerAdmin(OfUserAdmin):
    list_display = ("stripe_id", "user", "email", "synced_at", "close_due_at")
    list_filter = ("created_at", "close_due_at")
    search_fields = ("user__email", "=user__id", "=stripe_id", "email")
    search_help_text = "The user's e-mail or id, or Stripe's id of the customer"


@admin.register(Subscription)
class SubscriptionAdmin(OfUserAdmin):
    list_display = ("stripe_id", "user", "tier", "status", "period_end", "cancel_at", "failed_payments", "synced_at")
    list_filter = ("status", "tier", "period_end")
    search_fields = ("user__email", "=user__id", "=stripe_id")
    search_help_text = "The user's e-mail or id, or Stripe's id of the subscription"


@admin.register(SubscriptionPeriod)
class SubscriptionPeriodAdmin(OfUserAdmin):
    list_display = ("user", "starts_at", "ends_at", "tier", "trial", "count_due_at")
    list_filter = ("tier", "trial", "starts_at")


@admin.register(StripeEvent)
class StripeEventAdmin(OfUserAdmin):
    """What came, and what became of it."""

    list_display = ("id", "type", "created", "received_at", "handled_at", "flag", "attempts", "due_at", "error")
    list_filter = ("flag", "type", "received_at", "handled_at")
    list_select_related = ()
    search_fields = ("=id", "type", "payload")
    search_help_text = "Stripe's id of the event, its type, or anything in it"


@admin.register(OverageReport)
class OverageReportAdmin(OfUserAdmin):
    list_display = ("user", "period_start", "sequence", "value", "used_at", "sent_at", "attempts", "due_at", "error")
    list_filter = ("period_start", "sent_at")
    search_fields = ("user__email", "=user__id", "=identifier")
    search_help_text = "The user's e-mail or id, or the identifier that Stripe has"


@admin.register(FlowCapReview)
class FlowCapReviewAdmin(OfUserAdmin):
    """After a downgrade: which flows were stopped."""

    list_display = ("user", "created_at", "done_at", "attempts", "due_at", "error")
    list_filter = ("created_at", "done_at")
