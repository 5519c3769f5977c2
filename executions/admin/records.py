"""Steps, payloads and the journal."""

from django.contrib import admin
from django.db.models import QuerySet
from django.db.models.functions import Left
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString

from executions.admin.base import OfExecutionAdmin
from executions.admin.texts import PAYLOAD_CHARACTERS, SHORT, json_field, milliseconds, moment, pretty, short
from executions.models import ExecutionPayload, JournalEntry, Step
from executions.trace import Value, trace


@admin.register(Step)
class StepAdmin(OfExecutionAdmin):
    list_display = (
        "of_execution_short",
        "listener",
        "block",
        "status",
        "attempt",
        "started",
        "duration",
        "short_error",
    )
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
        ("started", "completed", "duration", "due_at"),
        ("tokens_in", "tokens_out"),
        ("number", "key", "scope", "parents"),
    )
    readonly_fields = ("of_execution", "started", "completed", "duration", "shown_input", "shown_output")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Step]:
        return super().get_queryset(request).defer("input", "output")

    @admin.display(description="started")
    def started(self, step: Step) -> SafeString | str:
        return moment(step.started_at)

    @admin.display(description="ended")
    def completed(self, step: Step) -> SafeString | str:
        return moment(step.completed_at)

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
    list_display = ("of_execution_short", "start_of_input", "only_listener")
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
    list_display = ("of_execution_short", "step_key", "position", "kind", "created_at")
    list_display_links = ("position",)
    ordering = ("-id",)
    fields = ("of_execution", "step_key", "position", "kind", "shown_value", "created_at")
    readonly_fields = ("of_execution", "shown_value")

    shown_value = staticmethod(json_field("value", "value"))

    def get_queryset(self, request: HttpRequest) -> QuerySet[JournalEntry]:
        return super().get_queryset(request).defer("value")
