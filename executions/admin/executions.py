"""Executions: the list, the page of one with its trace, and the actions."""

from collections.abc import Callable, Iterable
from typing import Any
from uuid import UUID

from django.contrib import admin, messages
from django.db.models import Model, Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from accounts.models import User
from bloxserver.core.admin import ButtonsAdmin, change_link, short_id, status_pill, tell, two_lines
from bloxserver.core.errors import DomainError
from executions import services
from executions.admin.base import LargeTableAdmin
from executions.admin.privacy import PrivateRows, hides, shown_error
from executions.admin.texts import as_uuid, execution_link, json_field, milliseconds, moment, short
from executions.admin.trace_rows import rows_of
from executions.explain import explain
from executions.explain_record import read_record, without_texts
from executions.models import Approval, Execution, ExecutionStatus, FailureNotice, State
from flows.models import Flow

STEPS_SHOWN = 200
QUESTIONS_SHOWN = 5
FOUND_OWNERS = 500  # users or flows that a search may match before it is too vague to be quick


@admin.register(Execution)
class ExecutionAdmin(ButtonsAdmin, PrivateRows, LargeTableAdmin):
    change_form_template = "admin/executions/execution/change_form.html"
    list_display = (
        "short_pk",
        "flow_and_user",
        "full_status",
        "trigger",
        "accepted_and_worked",
        "short_error",
    )
    list_select_related = ("flow", "user")
    list_filter = ("status", "state", "trigger_type", "is_draft", "started_at")
    ordering = ("-id",)
    search_fields = ("id",)
    search_help_text = "The id of an execution, flow, user or trigger; a flow's name; a user's e-mail address."
    actions = ("cancel", "retry_from_start", "retry_from_failed")
    fieldsets = (
        (
            None,
            {
                "fields": (
                    ("full_status", "flow", "version", "user"),
                    "error",
                    ("trigger", "trigger_id", "lineage", "cancellation"),
                    ("accepted", "first_claimed", "completed", "queued", "duration"),
                    "told_of_failure",
                )
            },
        ),
        ("Payload", {"fields": ("input", "output", "response")}),
        ("What expressions see", {"classes": ("collapse",), "fields": ("trigger_data", "variables", "only_listener")}),
        (
            "Engine",
            {
                "classes": ("collapse",),
                "fields": (
                    ("state", "due"),
                    ("lease_owner", "lease_until"),
                    ("fence", "lost_owner"),
                    ("expiries", "on_probation", "claim_alone", "crashes"),
                    ("seconds_worked", "seconds_allowed", "deadline_at"),
                    ("priority", "depth", "scheduled_for"),
                ),
            },
        ),
    )
    readonly_fields = (
        "full_status",
        "error",
        "trigger",
        "lineage",
        "accepted",
        "first_claimed",
        "completed",
        "queued",
        "duration",
        "cancellation",
        "told_of_failure",
        "due",
        "input",
        "output",
        "response",
        "trigger_data",
        "variables",
        "only_listener",
    )

    input = staticmethod(json_field("payload.input", "input", hidden=hides))
    output = staticmethod(json_field("payload.output", "output", hidden=hides))
    response = staticmethod(json_field("payload.response", "webhook answer", hidden=hides))
    trigger_data = staticmethod(json_field("payload.trigger", "trigger", hidden=hides))
    variables = staticmethod(json_field("payload.variables", "vars", hidden=hides))

    def get_queryset(self, request: HttpRequest) -> QuerySet[Execution]:
        # A flow's YAML and canvas would be read again for every row.
        return (
            super()
            .get_queryset(request)
            .select_related(*self.list_select_related)
            .defer("flow__organism_yaml", "flow__canvas_state")
        )

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Execution], search_term: str
    ) -> tuple[QuerySet[Execution], bool]:
        """By columns that have an index: a name or an address is looked up first, then its executions."""
        text = search_term.strip()
        if not text:
            return queryset, False
        if (key := as_uuid(text)) is not None:
            return self._by_key(queryset, key), False
        users = list(User.objects.filter(email__icontains=text).values_list("pk", flat=True)[:FOUND_OWNERS])
        flows = list(Flow.objects.filter(name__icontains=text).values_list("pk", flat=True)[:FOUND_OWNERS])
        return queryset.filter(Q(user_id__in=users) | Q(flow_id__in=flows)), False

    @staticmethod
    def _by_key(queryset: QuerySet[Execution], key: UUID) -> QuerySet[Execution]:
        """One column after the other: an OR with the trigger's, which has no index, would read the whole table."""
        for column in ("pk", "flow_id", "user_id"):
            found = queryset.filter(**{column: key})
            if found.exists():
                return found
        return queryset.filter(trigger_id=key)

    # Columns and fields. -----------------------------------------------------------------------------------------
    @admin.display(description="id", ordering="id")
    def short_pk(self, execution: Execution) -> SafeString:
        return short_id(execution.pk)

    @admin.display(description="flow, user", ordering="flow__name")
    def flow_and_user(self, execution: Execution) -> SafeString:
        return two_lines(execution.flow.name, execution.user.email)

    @admin.display(description="status", ordering="status")
    def full_status(self, execution: Execution) -> SafeString:
        """What a client sees, and for what has not ended what the engine sees."""
        state = "" if execution.state == State.ENDED else execution.state
        return format_html("{} {}", status_pill(execution.status), state)

    @admin.display(description="trigger", ordering="trigger_type")
    def trigger(self, execution: Execution) -> SafeString | str:
        named = bool(execution.trigger_name)
        return two_lines(execution.trigger_type, execution.trigger_name) if named else execution.trigger_type

    @admin.display(description="accepted, worked", ordering="started_at")
    def accepted_and_worked(self, execution: Execution) -> SafeString:
        return two_lines(moment(execution.started_at, "seconds"), milliseconds(execution.duration_ms))

    @admin.display(description="accepted")
    def accepted(self, execution: Execution) -> SafeString | str:
        return moment(execution.started_at)

    @admin.display(description="first claimed")
    def first_claimed(self, execution: Execution) -> SafeString | str:
        return moment(execution.claimed_at)

    @admin.display(description="ended")
    def completed(self, execution: Execution) -> SafeString | str:
        return moment(execution.completed_at)

    @admin.display(description="due")
    def due(self, execution: Execution) -> SafeString | str:
        return moment(execution.due_at)

    @admin.display(description="cancellation")
    def cancellation(self, execution: Execution) -> SafeString | str:
        if execution.cancel_requested_at is None:
            return "-"
        return format_html("{} {}", moment(execution.cancel_requested_at), execution.cancel_reason)

    @admin.display(description="worked")
    def duration(self, execution: Execution) -> str:
        return milliseconds(execution.duration_ms)

    @admin.display(description="waited in the queue")
    def queued(self, execution: Execution) -> str:
        return milliseconds(execution.queued_ms)

    @admin.display(description="error")
    def short_error(self, execution: Execution) -> SafeString:
        return format_html(
            '<span class="blox-text">{}</span>',
            short(shown_error(execution, execution.error_message, execution.error_code)),
        )

    @admin.display(description="error")
    def error(self, execution: Execution) -> SafeString | str:
        if not execution.error_message:
            return "-"
        message = "" if hides(execution) else execution.error_message
        return format_html("<code>{}</code> {}", execution.error_code, message)

    @admin.display(description="made by")
    def lineage(self, execution: Execution) -> SafeString | str:
        if execution.retry_of:
            return format_html("a retry of {}", execution_link(execution.retry_of))
        if execution.parent_id:
            by_failure = FailureNotice.objects.filter(started=execution.pk).exists()
            what = "the failure of" if by_failure else "a call_flow of"
            return format_html("{} {}", what, execution_link(execution.parent_id))
        return "its trigger"

    @admin.display(description="told of its failure")
    def told_of_failure(self, execution: Execution) -> SafeString | str:
        notices = [
            (change_link("executions_failurenotice", notice.pk, notice), notice.state, notice.error)
            for notice in execution.failure_notices.all()
        ]
        return format_html_join(SafeString("<br>"), "{}: {} {}", notices) or "-"

    @admin.display(description="only this listener")
    def only_listener(self, execution: Execution) -> str:
        return execution.payload.only_listener or "-"

    # The page of one. --------------------------------------------------------------------------------------------
    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        execution: Execution | None = kwargs.get("obj")
        if execution is not None:
            context |= self._page(execution)
        return super().render_change_form(request, context, *args, **kwargs)

    def buttons(self, execution: Execution) -> list[str]:
        if execution.state != State.ENDED:
            return ["cancel"]
        succeeded = execution.status == ExecutionStatus.SUCCESS
        return ["retry_from_start"] if succeeded else ["retry_from_start", "retry_from_failed"]

    def links(self, execution: Execution) -> dict[str, str]:
        asked = reverse("admin:executions_approval_changelist")
        waiting = Approval.objects.filter(execution=execution).open().values_list("pk", "listener")[:QUESTIONS_SHOWN]
        answer = {
            f"Answer {listener}": reverse("admin:executions_approval_change", args=[pk]) for pk, listener in waiting
        }
        return {**answer, "What it asked": f"{asked}?q={execution.pk}"}

    def _page(self, execution: Execution) -> dict[str, Any]:
        steps = list(execution.steps.defer("input", "output").order_by("number")[: STEPS_SHOWN + 1])
        record = read_record(execution)
        return {
            "rows": rows_of(steps[:STEPS_SHOWN], hidden=hides(execution)),
            "more_steps": len(steps) > STEPS_SHOWN,
            "steps_url": f"{reverse('admin:executions_step_changelist')}?q={execution.pk}",
            "explanation": explain(without_texts(record) if hides(execution) else record, now=timezone.now()),
            "origin": {row._meta.verbose_name: _page_of(row) for row in record.origin.rows},
        }

    # Actions. ----------------------------------------------------------------------------------------------------
    def has_operate_permission(self, request: HttpRequest) -> bool:
        """History cannot be edited; who may change executions may act on them."""
        return request.user.has_perm("executions.change_execution")

    @admin.action(description="Cancel", permissions=["operate"])
    def cancel(self, request: HttpRequest, executions: QuerySet[Execution]) -> HttpResponse | None:
        def one(execution: Execution) -> tuple[Execution, str]:
            row = services.cancel_execution(execution=execution, by="an operator", now=timezone.now())
            return row, "Canceled." if row.state == State.ENDED else "Its worker has been told to cancel it."

        return self._each(request, executions, one)

    @admin.action(description="Retry from the start", permissions=["operate"])
    def retry_from_start(self, request: HttpRequest, executions: QuerySet[Execution]) -> HttpResponse | None:
        return self._retry(request, executions, from_failed=False)

    @admin.action(description="Retry from the failed step", permissions=["operate"])
    def retry_from_failed(self, request: HttpRequest, executions: QuerySet[Execution]) -> HttpResponse | None:
        return self._retry(request, executions, from_failed=True)

    def _retry(
        self, request: HttpRequest, executions: QuerySet[Execution], *, from_failed: bool
    ) -> HttpResponse | None:
        def one(execution: Execution) -> tuple[Execution, str]:
            retry = services.retry_execution(execution=execution, from_failed=from_failed, now=timezone.now())
            return retry, f"Retried as {retry.pk}."

        return self._each(request, executions, one)

    def _each(
        self,
        request: HttpRequest,
        executions: Iterable[Execution],
        act: Callable[[Execution], tuple[Execution, str]],
    ) -> HttpResponse | None:
        """Act on each, with a message and a line in the history for each; from a single one's page, go to the result."""
        results, said = [], []
        for execution in executions:
            try:
                result, text = act(execution)
            except DomainError as error:
                result, level, text = execution, messages.ERROR, error.message
            else:
                level = messages.SUCCESS
                self.log_change(request, execution, text)
            results.append(result)
            said.append((level, format_html("{}: {}", execution_link(execution.pk), text)))
        tell(request, said)
        if len(results) == 1:
            return HttpResponseRedirect(reverse("admin:executions_execution_change", args=[results[0].pk]))
        return None


def _page_of(row: Model) -> str:
    return reverse(f"admin:{row._meta.app_label}_{row._meta.model_name}_change", args=[row.pk])
