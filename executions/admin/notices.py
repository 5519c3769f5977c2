"""Failure notices: who was told of which failure, and the action to try once more."""

from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from bloxserver.core.admin import ButtonsAdmin, status_pill, tell, two_lines
from executions import failures
from executions.admin.base import OfExecutionAdmin
from executions.admin.texts import execution_link, moment, short
from executions.models import FailureNotice


class StateFilter(admin.SimpleListFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("due", "due"), ("done", "done"), ("given_up", "given up")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[FailureNotice]) -> QuerySet[FailureNotice]:
        match self.value():
            case "due":
                return queryset.filter(due_at__isnull=False)
            case "done":
                return queryset.filter(done_at__isnull=False)
            case "given_up":
                return queryset.filter(due_at__isnull=True, done_at__isnull=True)
        return queryset


@admin.register(FailureNotice)
class FailureNoticeAdmin(ButtonsAdmin, OfExecutionAdmin):
    list_display = (
        "kind_and_target",
        "of_execution_short",
        "flow",
        "shown_state",
        "attempts",
        "created",
        "short_error",
    )
    list_display_links = ("kind_and_target",)
    list_filter = (StateFilter, "kind", "created_at")
    list_select_related = ("execution__flow",)
    ordering = ("-id",)
    actions = ("send_again",)
    fields = (
        ("kind", "target"),
        ("of_execution", "flow", "started_execution"),
        ("shown_state", "attempts"),
        ("created", "due", "done"),
        "error",
    )
    readonly_fields = ("of_execution", "flow", "started_execution", "shown_state", "created", "due", "done")

    def get_queryset(self, request: HttpRequest) -> QuerySet[FailureNotice]:
        rows = super().get_queryset(request).select_related(*self.list_select_related)
        return rows.defer("execution__flow__organism_yaml", "execution__flow__canvas_state")

    @admin.display(description="who is told", ordering="kind")
    def kind_and_target(self, notice: FailureNotice) -> SafeString:
        return two_lines(notice.get_kind_display(), short(notice.target))

    @admin.display(description="flow")
    def flow(self, notice: FailureNotice) -> str:
        return notice.execution.flow.name

    @admin.display(description="state")
    def shown_state(self, notice: FailureNotice) -> SafeString:
        return status_pill(notice.state)

    @admin.display(description="execution that it made")
    def started_execution(self, notice: FailureNotice) -> SafeString | str:
        return execution_link(notice.started)

    @admin.display(description="since", ordering="created_at")
    def created(self, notice: FailureNotice) -> SafeString | str:
        return moment(notice.created_at, "seconds")

    @admin.display(description="next attempt")
    def due(self, notice: FailureNotice) -> SafeString | str:
        return moment(notice.due_at, "seconds")

    @admin.display(description="done")
    def done(self, notice: FailureNotice) -> SafeString | str:
        return moment(notice.done_at, "seconds")

    @admin.display(description="why the last attempt failed")
    def short_error(self, notice: FailureNotice) -> SafeString:
        return format_html('<span class="blox-text">{}</span>', short(notice.error))

    def buttons(self, notice: FailureNotice) -> list[str]:
        return ["send_again"] if notice.state == "given up" else []

    def has_operate_permission(self, request: HttpRequest) -> bool:
        """What was told cannot be edited; who may change notices may have one sent again."""
        return request.user.has_perm("executions.change_failurenotice")

    @admin.action(description="Send again", permissions=["operate"])
    def send_again(self, request: HttpRequest, notices: QuerySet[FailureNotice]) -> HttpResponse | None:
        said = []
        for notice in notices:
            if failures.send_again(notice=notice):
                self.log_change(request, notice, "Sent again.")
                said.append((messages.SUCCESS, f"{notice}: will be tried again."))
            else:
                said.append((messages.ERROR, f"{notice}: it is {notice.state}; only what was given up is sent again."))
        tell(request, said)
        return None
