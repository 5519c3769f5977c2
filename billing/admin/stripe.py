"""The admin's pages of what Stripe has told and been told: read-only, since Stripe is the truth."""

import time
from typing import Any, ClassVar

from django.contrib import admin, messages
from django.contrib.admin.utils import flatten
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import Truncator

from billing.admin.customer_page import subscription_pill
from billing.models import (
    FlowCapReview,
    OverageReport,
    StripeCustomer,
    StripeEvent,
    Subscription,
    SubscriptionPeriod,
)
from billing.stripe.services import replay_event
from bloxserver.core.admin import ButtonsAdmin, HistoryAdmin, status_pill, tell, two_lines
from bloxserver.core.errors import DomainError

SECONDS = 20.0  # of one replay of many, for which a person waits
ERROR_SHOWN = 120  # characters, in the list


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
    list_display = ("stripe_id", "user", "email", "synced_at", "missing_since", "close_due_at")
    list_filter = ("created_at", "missing_since", "close_due_at")
    search_fields = ("user__email", "=user__id", "=stripe_id", "email")
    search_help_text = "The user's e-mail or id, or Stripe's id of the customer"


@admin.register(Subscription)
class SubscriptionAdmin(OfUserAdmin):
    list_display = ("stripe_id", "user", "tier", "pill", "period_end", "cancel_at", "failed_payments", "synced_at")
    list_filter = ("status", "tier", "price_unknown", "period_end")
    search_fields = ("user__email", "=user__id", "=stripe_id")
    search_help_text = "The user's e-mail or id, or Stripe's id of the subscription"

    @admin.display(description="status", ordering="status")
    def pill(self, subscription: Subscription) -> str:
        return subscription_pill(subscription.status)


@admin.register(SubscriptionPeriod)
class SubscriptionPeriodAdmin(OfUserAdmin):
    list_display = ("user", "starts_at", "ends_at", "tier", "trial", "count_due_at")
    list_filter = ("tier", "trial", "starts_at")


class EventState(admin.SimpleListFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("done", "done"), ("due", "due"), ("failing", "failing, due again"), ("given_up", "given up")]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        match self.value():
            case "done":
                return queryset.filter(handled_at__isnull=False)
            case "due":
                return queryset.filter(due_at__isnull=False)
            case "failing":
                return queryset.filter(due_at__isnull=False).exclude(error="")
            case "given_up":
                return queryset.given_up()
        return queryset


@admin.register(StripeEvent)
class StripeEventAdmin(ButtonsAdmin, OfUserAdmin):
    """What came, and what became of it. Handling one again is safe, whatever became of it."""

    list_display = ("type_and_id", "pill", "attempts", "received_at", "short_error")
    list_filter = (EventState, "flag", "type", "received_at")
    list_select_related = ()
    search_fields = ("=id", "type", "=customer", "payload")
    search_help_text = "Stripe's id of the event or of the customer, its type, or anything in it"
    actions = ("replay",)
    page = (
        ("pill", "attempts", "flag"),
        ("type", "id", "customer"),
        ("created", "received_at", "handled_at", "due_at"),
        "error",
        "body",
    )

    def get_fields(self, request: Any, obj: Any = None) -> Any:
        return self.page

    def get_readonly_fields(self, request: Any, obj: Any = None) -> Any:
        return flatten(self.page)

    def get_queryset(self, request: HttpRequest) -> QuerySet[StripeEvent]:
        """Without what is long: the page of one event reads its own payload."""
        return super().get_queryset(request).defer("payload")

    @admin.display(description="event", ordering="type")
    def type_and_id(self, event: StripeEvent) -> SafeString:
        return two_lines(event.type, event.pk)

    @admin.display(description="state", ordering="handled_at")
    def pill(self, event: StripeEvent) -> SafeString:
        return status_pill(event.state)

    @admin.display(description="payload")
    def body(self, event: StripeEvent) -> SafeString:
        return format_html('<pre class="blox-json">{}</pre>', event.payload)

    @admin.display(description="error")
    def short_error(self, event: StripeEvent) -> SafeString:
        return format_html('<span class="blox-text">{}</span>', Truncator(event.error).chars(ERROR_SHOWN))

    def buttons(self, obj: StripeEvent) -> list[str]:
        return ["replay"]

    def links(self, obj: StripeEvent) -> dict[str, str]:
        user = StripeCustomer.objects.filter(stripe_id=obj.customer).values_list("user", flat=True).first()
        return {"Customer": reverse("admin:billing_customer_change", args=[user])} if user else {}

    def has_operate_permission(self, request: HttpRequest) -> bool:
        """What came cannot be edited; who may change events may have them handled again."""
        return request.user.has_perm("billing.change_stripeevent")

    @admin.action(description="Replay", permissions=["operate"])
    def replay(self, request: HttpRequest, events: QuerySet[StripeEvent]) -> None:
        """The oldest first, for as long as a person waits."""
        stop_at = time.monotonic() + SECONDS
        said, waiting = [], list(events.order_by("received_at", "pk"))
        while waiting and time.monotonic() < stop_at:
            said.append(self._replay(request, waiting.pop(0)))
        if waiting:
            said.append((messages.WARNING, f"{len(waiting)} more have not been replayed: select them again."))
        tell(request, said)

    def _replay(self, request: HttpRequest, event: StripeEvent) -> tuple[int, str]:
        try:
            after = replay_event(event.pk, now=timezone.now())
        except DomainError as error:
            return messages.ERROR, f"The event {event}: {error.message}"
        text = f"Replayed: {f'it failed. {after.error}' if after.error else after.state}"
        self.log_change(request, event, text)
        return messages.ERROR if after.error else messages.SUCCESS, f"The event {event}: {text}"


@admin.register(OverageReport)
class OverageReportAdmin(OfUserAdmin):
    list_display = ("user", "period_start", "sequence", "value", "used_at", "sent_at", "attempts", "due_at", "error")
    list_filter = ("period_start", "sent_at")
    search_fields = ("user__email", "=user__id", "=identifier")
    search_help_text = "The user's e-mail or id, or the identifier that Stripe has"


@admin.register(FlowCapReview)
class FlowCapReviewAdmin(OfUserAdmin):
    """After a downgrade: which flows were stopped."""

    list_display = ("user", "from_tier", "created_at", "done_at", "attempts", "due_at", "error")
    list_filter = ("from_tier", "created_at", "done_at")
