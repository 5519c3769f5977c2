"""The operators' view of the ledgers: what became of every call of a webhook and of every moment of a schedule."""

from typing import Any, ClassVar
from uuid import UUID

from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.core.validators import validate_ipv46_address
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.html import format_html, strip_tags
from django.utils.safestring import SafeString

from bloxserver.core.admin import ButtonsAdmin, short_id, status_pill, tell, two_lines
from bloxserver.core.errors import DomainError
from executions.admin.base import LargeTableAdmin
from executions.admin.texts import as_uuid, execution_link, json_field, short
from triggers import services
from triggers.models import Delivery, Moment, Outcome, Trigger, Verdict

FOUND_TRIGGERS = 500  # that a search may match before it is too vague to be quick


class LedgerAdmin(LargeTableAdmin):
    """Rows that the triggers write of themselves. Newest first by primary key, which is ordered by time."""

    ordering = ("-id",)
    search_fields = ("trigger__name",)  # shows the box; what it finds, get_search_results says
    list_select_related = ("trigger__flow",)
    readonly_fields: ClassVar[tuple[str, ...]] = ("flow", "execution")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        bodies = ("trigger__flow__organism_yaml", "trigger__flow__canvas_state")
        rows = super().get_queryset(request).filter(trigger__deleted_at=None)
        return rows.select_related("trigger__flow").defer(*bodies)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """A name is looked up first, then the rows of its triggers."""
        text = search_term.strip()
        if not text:
            return queryset, False
        if (key := as_uuid(text)) is not None:
            return self._by_key(queryset, key), False
        named = Q(name__icontains=text) | Q(flow__name__icontains=text) | Q(flow__user__email__icontains=text)
        triggers = list(Trigger.objects.filter(named).values_list("pk", flat=True)[:FOUND_TRIGGERS])
        return queryset.filter(self.found_by_text(text) | Q(trigger_id__in=triggers)), False

    def found_by_text(self, text: str) -> Q:
        return Q(pk__in=())

    @staticmethod
    def _by_key(queryset: QuerySet[Any], key: UUID) -> QuerySet[Any]:
        """One column after the other: an OR with the execution's, which has no index, would read the whole table."""
        for column in ("pk", "trigger_id"):
            found = queryset.filter(**{column: key})
            if found.exists():
                return found
        return queryset.filter(execution_id=key)

    @admin.display(ordering="trigger__flow__name")
    def flow(self, row: Any) -> str:
        return str(row.trigger.flow.name)

    @admin.display(description="trigger, flow", ordering="trigger__name")
    def trigger_and_flow(self, row: Any) -> SafeString:
        return two_lines(row.trigger.name, row.trigger.flow.name)

    @admin.display(description="execution")
    def execution(self, row: Any) -> SafeString | str:
        return execution_link(row.execution_id)

    @admin.display(description="execution")
    def short_execution(self, row: Any) -> SafeString | str:
        return execution_link(row.execution_id, short_id(row.execution_id)) if row.execution_id else "-"


@admin.register(Delivery)
class DeliveryAdmin(LedgerAdmin, ButtonsAdmin):
    """Every call of a webhook. What was refused and is kept can be replayed."""

    list_display = (
        "received_at",
        "pill",
        "trigger_and_flow",
        "address",
        "method",
        "size",
        "times",
        "short_reason",
        "short_execution",
    )
    list_filter = ("verdict", "received_at", "code", "method")
    search_help_text = "An id, a key, an address, or the name of a trigger or flow, or its owner's e-mail address."
    actions = ("replay",)
    fields = (
        ("received_at", "verdict", "code"),
        "reason",
        ("trigger", "flow"),
        ("address", "method", "size"),
        ("key", "held"),
        ("execution", "replayed_at"),
        ("times", "minute"),
        "kept",
    )
    readonly_fields = (*LedgerAdmin.readonly_fields, "kept")
    kept = staticmethod(json_field("request", "kept for a replay"))

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        rows = super().get_queryset(request)
        return (
            rows if request.resolver_match and "object_id" in request.resolver_match.kwargs else rows.defer("request")
        )

    def found_by_text(self, text: str) -> Q:
        try:
            validate_ipv46_address(text)
        except ValidationError:
            return Q(key=text)
        return Q(address=text)

    def buttons(self, obj: Delivery) -> list[str]:
        return ["replay"] if obj.replayable else []

    @admin.display(description="verdict", ordering="verdict")
    def pill(self, row: Delivery) -> SafeString:
        tones = {Verdict.ACCEPTED: "good", Verdict.DUPLICATE: "quiet"}
        return status_pill(row.verdict, tones.get(Verdict(row.verdict), "bad"))

    @admin.display(description="reason")
    def short_reason(self, row: Delivery) -> str:
        return short(row.reason)

    @admin.action(description="Replay", permissions=["replay"])
    def replay(self, request: HttpRequest, queryset: QuerySet[Delivery]) -> None:
        said: list[tuple[int, str]] = []
        for delivery in queryset.select_related("trigger__flow__user").order_by("received_at", "id"):
            try:
                execution = services.replay_delivery(delivery=delivery, now=timezone.now())
            except DomainError as error:
                said.append((messages.ERROR, f"{delivery.trigger.name}: {error.message}"))
            else:
                text = format_html("Replayed as execution {}.", execution_link(execution.pk))
                said.append((messages.SUCCESS, text))
                self.log_change(request, delivery, strip_tags(text))
        tell(request, said)

    def has_replay_permission(self, request: HttpRequest) -> bool:
        """Of who may change triggers, since it fires one. (The rows themselves nobody changes.)"""
        return request.user.has_perm("triggers.change_trigger")


@admin.register(Moment)
class MomentAdmin(LedgerAdmin):
    """What became of every moment of every schedule."""

    list_display = (
        "moment",
        "pill",
        "trigger_and_flow",
        "late",
        "until",
        "count",
        "short_reason",
        "short_execution",
    )
    list_filter = ("outcome", "moment", "code")
    search_help_text = "An id, or the name of a trigger or flow, or its owner's e-mail address."
    fields = (
        ("moment", "outcome", "code"),
        "reason",
        ("trigger", "flow"),
        ("lateness", "created_at"),
        ("until", "count"),
        "execution",
    )

    @admin.display(description="outcome", ordering="outcome")
    def pill(self, row: Moment) -> SafeString:
        tones = {Outcome.FIRED: "good", Outcome.CAUGHT_UP: "good", Outcome.SKIPPED: "quiet"}
        return status_pill(row.outcome, tones.get(Outcome(row.outcome), "bad"))

    @admin.display(description="late by", ordering="lateness")
    def late(self, row: Moment) -> str:
        return f"{row.lateness:,.1f} s"

    @admin.display(description="reason")
    def short_reason(self, row: Moment) -> str:
        return short(row.reason)
