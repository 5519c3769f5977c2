"""The operators' view of executions: read-only history, with the actions to cancel and to retry."""

import json
from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Any, ClassVar
from uuid import UUID

from django.contrib import admin, messages
from django.core.paginator import Paginator
from django.db.models import Q, QuerySet
from django.db.models.functions import Left
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from django.utils.functional import cached_property
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import Truncator

from accounts.models import User
from bloxserver.core.errors import DomainError
from executions import services
from executions.models import Execution, ExecutionPayload, JournalEntry, State, Step
from executions.trace import TracedStep, Value, trace
from flows.models import Flow

SHORT = 120  # characters of a text in a list
STEP_CHARACTERS = 4_000  # of a step's input or output on the execution's page
PAYLOAD_CHARACTERS = 50_000
STEPS_SHOWN = 200
FOUND_OWNERS = 500  # users or flows that a search may match before it is too vague to be quick
COUNTED_ROWS = 10_000
CANCEL = {"cancel": "Cancel"}  # action -> label
RETRIES = {"retry_from_start": "Retry from the start", "retry_from_failed": "Retry from the failed step"}


# Texts. ----------------------------------------------------------------------------------------------------------
def pretty(value: Value) -> str:
    """JSON text, indented; where only its beginning is there, as it stands."""
    if value.text is None:
        return ""
    if value.cut:
        return f"{value.text} ... (cut)"
    return json.dumps(json.loads(value.text), indent=2, ensure_ascii=False)


def short(text: str | None) -> str:
    return Truncator(" ".join((text or "").split())).chars(SHORT)


def _json_field(path: str, description: str) -> Callable[[Any], SafeString | str]:
    """A read-only field that shows the JSON text at `path` of the object, indented."""
    read = attrgetter(path)

    @admin.display(description=description)
    def show(obj: Any) -> SafeString | str:
        text = read(obj)
        if text is None:
            return "-"
        cut = len(text) > PAYLOAD_CHARACTERS
        return format_html('<pre class="blox-json">{}</pre>', pretty(Value(text[:PAYLOAD_CHARACTERS], cut)))

    return show


def execution_link(execution_id: UUID | None, text: str | None = None) -> SafeString | str:
    if execution_id is None:
        return "-"
    url = reverse("admin:executions_execution_change", args=[execution_id])
    return format_html('<a href="{}">{}</a>', url, text or execution_id)


def milliseconds(value: int | None) -> str:
    if value is None:
        return "-"
    return f"{value} ms" if value < 10_000 else f"{value / 1000:,.1f} s"


def as_uuid(text: str) -> UUID | None:
    try:
        return UUID(text.strip())
    except ValueError:
        return None


# The shared base. ------------------------------------------------------------------------------------------------
class CappedPaginator(Paginator):
    """Counts up to `COUNTED_ROWS`: nobody pages further, and counting ten million rows takes seconds."""

    @cached_property
    def count(self) -> int:
        rows: Any = self.object_list
        return rows[:COUNTED_ROWS].count()


class HistoryAdmin(admin.ModelAdmin):
    """Rows that the engine wrote: looked at, never edited. Newest first by primary key, which is ordered by time."""

    show_full_result_count = False
    paginator: ClassVar[type[Paginator]] = CappedPaginator
    list_per_page = 50

    class Media:
        css: ClassVar[dict[str, list[str]]] = {"all": ["executions/admin.css"]}

    def has_add_permission(self, request: HttpRequest, *args: Any) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class OfExecutionAdmin(HistoryAdmin):
    """What belongs to one execution, found by that execution's id."""

    search_fields = ("execution_id",)
    search_help_text = "The id of an execution."

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        if not search_term.strip():
            return queryset, False
        return queryset.filter(execution_id=as_uuid(search_term)), False

    @admin.display(description="execution", ordering="execution")
    def of_execution(self, row: Any) -> SafeString | str:
        return execution_link(row.execution_id)


# Executions. -----------------------------------------------------------------------------------------------------
@admin.register(Execution)
class ExecutionAdmin(HistoryAdmin):
    list_display = (
        "short_id",
        "flow",
        "user",
        "colored_status",
        "state",
        "trigger",
        "started_at",
        "duration",
        "short_error",
    )
    list_select_related = ("flow", "user")
    list_filter = ("status", "state", "trigger_type", "is_draft", "started_at")
    ordering = ("-id",)
    paginator = Paginator  # exact: the executions table is narrow
    search_fields = ("id",)
    search_help_text = "The id of an execution, flow, user or trigger; a flow's name; a user's e-mail address."
    actions = ("cancel", "retry_from_start", "retry_from_failed")
    fieldsets = (
        (None, {"fields": ("id", "colored_status", "flow", "user", "version", "is_draft", "trigger", "trigger_id")}),
        (
            "What happened",
            {"fields": ("error_code", "error_message", "cancel_requested_at", "cancel_reason", "lineage")},
        ),
        ("Times", {"fields": ("scheduled_for", "started_at", "queued", "claimed_at", "completed_at", "duration")}),
        ("Payload", {"fields": ("input", "output", "response")}),
        ("What expressions see", {"classes": ("collapse",), "fields": ("trigger_data", "variables", "only_listener")}),
        (
            "Engine",
            {
                "classes": ("collapse",),
                "fields": (
                    ("state", "due_at"),
                    ("lease_owner", "lease_until"),
                    ("fence", "crashes"),
                    ("seconds_worked", "seconds_allowed", "deadline_at"),
                    ("priority", "depth"),
                ),
            },
        ),
    )
    readonly_fields = (
        "colored_status",
        "trigger",
        "lineage",
        "queued",
        "duration",
        "input",
        "output",
        "response",
        "trigger_data",
        "variables",
        "only_listener",
    )

    input = staticmethod(_json_field("payload.input", "input"))
    output = staticmethod(_json_field("payload.output", "output"))
    response = staticmethod(_json_field("payload.response", "webhook answer"))
    trigger_data = staticmethod(_json_field("payload.trigger", "trigger"))
    variables = staticmethod(_json_field("payload.variables", "vars"))

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
            return queryset.filter(Q(pk=key) | Q(flow_id=key) | Q(user_id=key) | Q(trigger_id=key)), False
        users = list(User.objects.filter(email__icontains=text).values_list("pk", flat=True)[:FOUND_OWNERS])
        flows = list(Flow.objects.filter(name__icontains=text).values_list("pk", flat=True)[:FOUND_OWNERS])
        return queryset.filter(Q(user_id__in=users) | Q(flow_id__in=flows)), False

    # Columns and fields. -----------------------------------------------------------------------------------------
    @admin.display(description="id", ordering="id")
    def short_id(self, execution: Execution) -> SafeString:
        return format_html('<code title="{}">…{}</code>', execution.pk, str(execution.pk)[-12:])

    @admin.display(description="status", ordering="status")
    def colored_status(self, execution: Execution) -> SafeString:
        return format_html('<span class="blox-status blox-{0}">{0}</span>', execution.status)

    @admin.display(description="trigger", ordering="trigger_type")
    def trigger(self, execution: Execution) -> str:
        return (
            f"{execution.trigger_type}: {execution.trigger_name}" if execution.trigger_name else execution.trigger_type
        )

    @admin.display(description="worked")
    def duration(self, execution: Execution) -> str:
        return milliseconds(execution.duration_ms)

    @admin.display(description="waited in the queue")
    def queued(self, execution: Execution) -> str:
        return milliseconds(execution.queued_ms)

    @admin.display(description="error")
    def short_error(self, execution: Execution) -> str:
        return short(execution.error_message)

    @admin.display(description="made by")
    def lineage(self, execution: Execution) -> SafeString | str:
        if execution.retry_of:
            return format_html("a retry of {}", execution_link(execution.retry_of))
        if execution.parent_id:
            return format_html("a call_flow of {}", execution_link(execution.parent_id))
        return "its trigger"

    @admin.display(description="only this listener")
    def only_listener(self, execution: Execution) -> str:
        return execution.payload.only_listener or "-"

    # The page of one. --------------------------------------------------------------------------------------------
    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        execution: Execution | None = kwargs.get("obj")
        if execution is not None:
            context |= self._page(request, execution)
        return super().render_change_form(request, context, *args, **kwargs)

    def _page(self, request: HttpRequest, execution: Execution) -> dict[str, Any]:
        steps = list(execution.steps.defer("input", "output").order_by("number")[: STEPS_SHOWN + 1])
        offered = RETRIES if execution.state == State.ENDED else CANCEL
        return {
            "rows": [_row(traced) for traced in trace(steps[:STEPS_SHOWN], characters=STEP_CHARACTERS)],
            "more_steps": len(steps) > STEPS_SHOWN,
            "steps_url": f"{reverse('admin:executions_step_changelist')}?q={execution.pk}",
            "buttons": offered if self.has_operate_permission(request) else {},
        }

    # Actions. ----------------------------------------------------------------------------------------------------
    def has_operate_permission(self, request: HttpRequest) -> bool:
        """History cannot be edited; who may change executions may act on them."""
        return request.user.has_perm("executions.change_execution")

    @admin.action(description=CANCEL["cancel"], permissions=["operate"])
    def cancel(self, request: HttpRequest, executions: QuerySet[Execution]) -> HttpResponse | None:
        def one(execution: Execution) -> tuple[Execution, str]:
            row = services.cancel_execution(execution=execution, by="an operator", now=timezone.now())
            return row, "Canceled." if row.state == State.ENDED else "Its worker has been told to cancel it."

        return self._each(request, executions, one)

    @admin.action(description=RETRIES["retry_from_start"], permissions=["operate"])
    def retry_from_start(self, request: HttpRequest, executions: QuerySet[Execution]) -> HttpResponse | None:
        return self._retry(request, executions, from_failed=False)

    @admin.action(description=RETRIES["retry_from_failed"], permissions=["operate"])
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
        results = []
        for execution in executions:
            try:
                result, said = act(execution)
            except DomainError as error:
                self._say(request, execution, error.message, messages.ERROR)
                results.append(execution)
            else:
                self.log_change(request, execution, said)
                self._say(request, execution, said, messages.SUCCESS)
                results.append(result)
        if len(results) == 1:
            return HttpResponseRedirect(reverse("admin:executions_execution_change", args=[results[0].pk]))
        return None

    def _say(self, request: HttpRequest, execution: Execution, said: str, level: int) -> None:
        self.message_user(request, format_html("{}: {}", execution_link(execution.pk), said), level)


def _row(traced: TracedStep) -> dict[str, Any]:
    """A line of the trace on the execution's page."""
    step = traced.step
    return {
        "step": step,
        "url": reverse("admin:executions_step_change", args=[step.pk]),
        "duration": milliseconds(step.duration_ms),
        "input": _folded(traced.input),
        "output": _folded(traced.output),
    }


def _folded(value: Value) -> dict[str, str]:
    return {"short": short(value.text), "full": pretty(value)}


# Steps, payloads, journal. ---------------------------------------------------------------------------------------
@admin.register(Step)
class StepAdmin(OfExecutionAdmin):
    list_display = ("of_execution", "listener", "block", "status", "attempt", "started_at", "duration", "short_error")
    list_display_links = ("listener",)
    list_filter = ("status",)
    ordering = ("-id",)
    fields = (
        "of_execution",
        ("listener", "block", "from_listener"),
        ("status", "attempt"),
        "error",
        "error_code",
        "failures",
        "notes",
        "shown_input",
        "shown_output",
        "sent_to",
        ("started_at", "completed_at", "duration", "due_at"),
        ("tokens_in", "tokens_out"),
        ("number", "key", "scope", "parents"),
    )
    readonly_fields = ("of_execution", "duration", "shown_input", "shown_output")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Step]:
        return super().get_queryset(request).defer("input", "output")

    @admin.display(description="duration")
    def duration(self, step: Step) -> str:
        return milliseconds(step.duration_ms)

    @admin.display(description="error")
    def short_error(self, step: Step) -> str:
        return short(step.error)

    @admin.display(description="input")
    def shown_input(self, step: Step) -> SafeString:
        return self._shown(trace([step], characters=PAYLOAD_CHARACTERS)[0].input)

    @admin.display(description="output")
    def shown_output(self, step: Step) -> SafeString:
        return self._shown(trace([step], characters=PAYLOAD_CHARACTERS)[0].output)

    @staticmethod
    def _shown(value: Value) -> SafeString:
        return format_html('<pre class="blox-json">{}</pre>', pretty(value))


@admin.register(ExecutionPayload)
class ExecutionPayloadAdmin(OfExecutionAdmin):
    list_display = ("of_execution", "start_of_input", "only_listener")
    ordering = ("-execution_id",)
    fields = ("of_execution", "only_listener", "input", "output", "response", "trigger", "variables")
    readonly_fields = ("of_execution",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[ExecutionPayload]:
        rows = super().get_queryset(request).annotate(start=Left("input", SHORT))
        return rows.defer("input", "output", "response", "trigger", "variables")

    @admin.display(description="input")
    def start_of_input(self, payload: ExecutionPayload) -> str:
        return short(getattr(payload, "start", ""))


@admin.register(JournalEntry)
class JournalEntryAdmin(OfExecutionAdmin):
    list_display = ("of_execution", "step_key", "position", "kind", "created_at")
    list_display_links = ("position",)
    ordering = ("-id",)
    fields = ("of_execution", "step_key", "position", "kind", "shown_value", "created_at")
    readonly_fields = ("of_execution", "shown_value")

    shown_value = staticmethod(_json_field("value", "value"))

    def get_queryset(self, request: HttpRequest) -> QuerySet[JournalEntry]:
        return super().get_queryset(request).defer("value")
