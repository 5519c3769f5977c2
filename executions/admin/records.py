"""Steps, payloads and the journal."""

from typing import Any

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.db.models.functions import Left, Length
from django.http import HttpRequest
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from bloxserver.core.admin import status_pill, two_lines
from executions.admin.base import LargeTableAdmin, OfExecutionAdmin
from executions.admin.privacy import HIDDEN, PrivateRows, hides, shown_error
from executions.admin.texts import (
    PAYLOAD_CHARACTERS,
    SHORT,
    as_uuid,
    execution_link,
    json_field,
    milliseconds,
    model_call_line,
    moment,
    pretty,
    short,
)
from executions.models import ExecutionPayload, ExecutionTally, JournalEntry, LargeOutput, SpokenText, Step
from executions.trace import Value, trace


@admin.register(Step)
class StepAdmin(PrivateRows, OfExecutionAdmin):
    list_display = (
        "of_execution_short",
        "listener_and_block",
        "shown_status",
        "attempt",
        "started",
        "duration",
        "short_error",
    )
    list_display_links = ("listener_and_block",)
    list_filter = ("status", "is_output_apart")
    ordering = ("-id",)
    fields = (
        "of_execution",
        ("listener", "block", "from_listener"),
        ("shown_status", "attempt", "error_code"),
        "shown_error",
        "shown_failures",
        "shown_notes",
        "shown_input",
        "shown_output",
        "sent_to",
        ("started", "completed", "duration", "due_at"),
        ("tokens_in", "tokens_out"),
        "shown_model_call",
        ("number", "key", "scope", "parents"),
    )
    readonly_fields = (
        "of_execution",
        "shown_status",
        "started",
        "completed",
        "duration",
        "shown_error",
        "shown_failures",
        "shown_notes",
        "shown_input",
        "shown_output",
        "shown_model_call",
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Step]:
        return super().get_queryset(request).defer("input", "output")

    @admin.display(description="listener, block", ordering="listener")
    def listener_and_block(self, step: Step) -> SafeString:
        return two_lines(step.listener, step.block)

    @admin.display(description="status", ordering="status")
    def shown_status(self, step: Step) -> SafeString:
        return status_pill(step.status)

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
    def short_error(self, step: Step) -> SafeString:
        return format_html('<span class="blox-text">{}</span>', short(shown_error(step, step.error, step.error_code)))

    @admin.display(description="error")
    def shown_error(self, step: Step) -> str:
        return shown_error(step, step.error, step.error_code) or "-"

    @admin.display(description="failures")
    def shown_failures(self, step: Step) -> SafeString | str:
        lines = [(each["attempt"], shown_error(step, each["error"], each["code"])) for each in step.failures]
        return format_html_join(SafeString("<br>"), "attempt {}: {}", lines) or "-"

    @admin.display(description="notes")
    def shown_notes(self, step: Step) -> SafeString | str:
        if step.notes and hides(step):
            return HIDDEN
        return format_html_join(SafeString("<br>"), "{}", [(note,) for note in step.notes]) or "-"

    @admin.display(description="input")
    def shown_input(self, step: Step) -> SafeString | str:
        return self._shown(step, trace([step], characters=PAYLOAD_CHARACTERS)[0].input)

    @admin.display(description="output")
    def shown_output(self, step: Step) -> SafeString | str:
        return self._shown(step, trace([step], characters=PAYLOAD_CHARACTERS)[0].output)

    @admin.display(description="model")
    def shown_model_call(self, step: Step) -> SafeString | str:
        return model_call_line(step) or "-"

    @staticmethod
    def _shown(step: Step, value: Value) -> SafeString | str:
        if value.text is None:
            return "-"
        if hides(step):
            return HIDDEN
        return format_html('<pre class="blox-json">{}</pre>', pretty(value))


JSON_OF_PAYLOAD = ("shown_input", "shown_output", "shown_response", "shown_trigger", "shown_variables")


@admin.register(ExecutionPayload)
class ExecutionPayloadAdmin(PrivateRows, OfExecutionAdmin):
    list_display = ("of_execution_short", "start_of_input", "only_listener")
    list_filter = (("only_listener", admin.EmptyFieldListFilter),)
    ordering = ("-execution_id",)
    fields = ("of_execution", "only_listener", *JSON_OF_PAYLOAD)
    readonly_fields = ("of_execution", *JSON_OF_PAYLOAD)

    shown_input = staticmethod(json_field("input", "input", hidden=hides))
    shown_output = staticmethod(json_field("output", "output", hidden=hides))
    shown_response = staticmethod(json_field("response", "webhook answer", hidden=hides))
    shown_trigger = staticmethod(json_field("trigger", "trigger", hidden=hides))
    shown_variables = staticmethod(json_field("variables", "vars", hidden=hides))

    def get_queryset(self, request: HttpRequest) -> QuerySet[ExecutionPayload]:
        rows = super().get_queryset(request).annotate(start=Left("input", SHORT))
        return rows.defer("input", "output", "response", "trigger", "variables")

    @admin.display(description="input")
    def start_of_input(self, payload: ExecutionPayload) -> str:
        return HIDDEN if hides(payload) else short(getattr(payload, "start", ""))


@admin.register(ExecutionTally)
class ExecutionTallyAdmin(LargeTableAdmin):
    """What totals and statistics are sums of."""

    list_display = ("id", "user", "flow", "status", "runs", "milliseconds")
    list_select_related = ("user", "flow")
    list_filter = ("status",)
    search_fields = ("user__email", "flow__name")
    search_help_text = "A user's e-mail address, or a flow's name."
    ordering = ("-id",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[ExecutionTally]:
        return super().get_queryset(request).defer("flow__organism_yaml", "flow__canvas_state")


@admin.register(JournalEntry)
class JournalEntryAdmin(OfExecutionAdmin):
    list_display = ("of_execution_short", "step_key", "position", "kind", "created_at")
    list_display_links = ("position",)
    list_filter = ("created_at",)
    ordering = ("-id",)
    fields = ("of_execution", "step_key", "position", "kind", "shown_value", "created_at")
    readonly_fields = ("of_execution", "shown_value")

    shown_value = staticmethod(json_field("value", "value", hidden=hides))

    def get_queryset(self, request: HttpRequest) -> QuerySet[JournalEntry]:
        return super().get_queryset(request).defer("value")


def _of_step_or_execution(rows: QuerySet[Any], search_term: str) -> QuerySet[Any]:
    if not search_term.strip():
        return rows
    key = as_uuid(search_term)
    return rows.filter(Q(step_id=key) | Q(step__execution_id=key))


@admin.register(LargeOutput)
class LargeOutputAdmin(LargeTableAdmin):
    """Outputs too large to lie with their steps, whose pages show them."""

    list_display = ("listener", "of_execution", "status")
    list_filter = ("step__status",)
    list_select_related = ("step",)
    search_fields = ("step_id",)
    search_help_text = "The id of a step or of an execution."
    ordering = ("-step_id",)
    fields = ("step", "of_execution", "shown_text")
    readonly_fields = ("of_execution", "shown_text")

    shown_text = staticmethod(json_field("text", "output", hidden=hides))

    def get_queryset(self, request: HttpRequest) -> QuerySet[LargeOutput]:
        return super().get_queryset(request).select_related("step").defer("text", "step__input", "step__output")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        return _of_step_or_execution(queryset, search_term), False

    @admin.display(description="listener")
    def listener(self, output: LargeOutput) -> str:
        return output.step.listener

    @admin.display(description="status")
    def status(self, output: LargeOutput) -> SafeString:
        return status_pill(output.step.status)

    @admin.display(description="execution")
    def of_execution(self, output: LargeOutput) -> SafeString | str:
        return execution_link(output.step.execution_id)


@admin.register(SpokenText)
class SpokenTextAdmin(LargeTableAdmin):
    """What models are saying, where there is no Redis: an operator sees that it is, and reads none of it here."""

    list_display = ("step", "attempt", "seq", "characters")
    list_filter = ("attempt",)
    list_select_related = ("step",)
    search_fields = ("step_id",)
    search_help_text = "The id of a step or of an execution."
    ordering = ("-id",)
    fields = ("step", "attempt", "seq", "characters")
    readonly_fields = ("characters",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[SpokenText]:
        rows = super().get_queryset(request).select_related("step").annotate(length=Length("text"))
        return rows.defer("text", "step__input", "step__output")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        return _of_step_or_execution(queryset, search_term), False

    @admin.display(description="characters")
    def characters(self, spoken: SpokenText) -> int:
        length: int = vars(spoken)["length"]
        return length
