"""The operators' view of flows. What they change goes through the services, so a status is never just written."""

from collections.abc import Callable
from typing import Any, cast

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.db.models.functions import Length
from django.forms import ModelForm
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.text import Truncator

from accounts.models import User
from bloxserver.core.admin import ButtonsAdmin, HistoryAdmin, ReadOnlyAdmin, status_pill, tell, two_lines
from bloxserver.core.errors import DomainError
from flows import services
from flows.default_organism import DEFAULT_ORGANISM_YAML
from flows.forms import FlowForm, SecretForm, VariableForm
from flows.models import AgentMemory, Flow, FlowStatus, FlowVersion, KeyValue, Secret, Variable
from flows.prompts import HIDDEN, hides_prompts

BODIES = ["organism_yaml", "canvas_state"]
DEPLOYED_BODIES = [f"deployed_version__{field}" for field in BODIES]


@admin.register(Flow)
class FlowAdmin(ButtonsAdmin):
    form = FlowForm
    list_display = ["name", "user", "shown_status", "version", "updated_at"]
    list_filter = ["status", "user__tier"]
    list_select_related = ["user", "deployed_version"]
    search_fields = ["name", "user__email", "id"]
    search_help_text = "Name, user's e-mail, or id"
    date_hierarchy = "updated_at"
    autocomplete_fields = ["user"]
    actions = ["start", "stop", "force_stop"]
    readonly_fields = [
        "id",
        "shown_status",
        "shown_error",
        "version",
        "undeployed_changes",
        "container_id",
        "canvas",
        "problems",
        "created_at",
        "updated_at",
    ]
    fieldsets = [
        (None, {"fields": ["id", "user", "name", "description"]}),
        (
            "Deployment",
            {"fields": [("shown_status", "version", "undeployed_changes"), "shown_error", "container_id"]},
        ),
        ("Draft", {"fields": ["problems", "organism_yaml", "canvas", ("created_at", "updated_at")]}),
    ]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Flow]:
        """Without what is long: the page of one flow reads its own YAML when it shows it."""
        return super().get_queryset(request).defer(*BODIES, *DEPLOYED_BODIES)

    def get_fieldsets(self, request: HttpRequest, obj: Flow | None = None) -> Any:
        return self.fieldsets if obj else [(None, {"fields": ["user", "name", "description", "organism_yaml"]})]

    def get_readonly_fields(self, request: HttpRequest, obj: Flow | None = None) -> list[str]:
        return [*self.readonly_fields, "user"] if obj else self.readonly_fields

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        return {"organism_yaml": DEFAULT_ORGANISM_YAML, **super().get_changeform_initial_data(request)}

    def buttons(self, flow: Flow) -> list[str]:
        if flow.status == FlowStatus.STOPPING:
            return ["force_stop"]
        if flow.status != FlowStatus.RUNNING:
            return ["start"]
        return ["start", "stop"] if flow.has_undeployed_changes else ["stop"]

    def links(self, flow: Flow) -> dict[str, str]:
        """By name, since the apps of executions and triggers stand above this one."""
        pages = {"Executions": "executions_execution", "Triggers": "triggers_trigger", "Versions": "flows_flowversion"}
        return {
            label: f"{reverse(f'admin:{page}_changelist')}?flow__id__exact={flow.pk}" for label, page in pages.items()
        }

    @admin.display(description="status", ordering="status")
    def shown_status(self, flow: Flow) -> SafeString:
        return status_pill(flow.status, "good" if flow.status == FlowStatus.RUNNING else "")

    @admin.display(description="error message")
    def shown_error(self, flow: Flow) -> str:
        """Of a flow that was paused it quotes the last execution's error."""
        return HIDDEN if flow.error_message and hides_prompts(flow) else flow.error_message or "-"

    @admin.display(description="version", ordering="deployed_version__number")
    def version(self, flow: Flow) -> str:
        return str(flow.deployed_version.number) if flow.deployed_version else "-"

    @admin.display(description="undeployed changes")
    def undeployed_changes(self, flow: Flow) -> str:
        return "yes" if flow.has_undeployed_changes else "no"

    @admin.display(description="canvas")
    def canvas(self, flow: Flow) -> str:
        if not flow.canvas_state:
            return "none"
        return f"{len(flow.canvas_state['nodes'])} nodes, {len(flow.canvas_state['edges'])} edges"

    @admin.display(description="validation")
    def problems(self, flow: Flow) -> str | SafeString:
        found = services.validate_for(user=flow.user, organism_yaml=flow.organism_yaml)
        lines = [
            (tone, kind, problem.line, problem.column, problem.path, problem.message)
            for tone, kind, problems in (("bad", "Error", found.errors), ("quiet", "Warning", found.warnings))
            for problem in problems
        ]
        if not lines:
            return "Valid."
        rows = format_html_join("", '<li><strong class="blox-{}">{}</strong>, line {}, column {} ({}): {}</li>', lines)
        return format_html('<ul class="blox-problems">{}</ul>', rows)

    @admin.action(description="Start (deploy the draft)", permissions=["change"])
    def start(self, request: HttpRequest, flows: QuerySet[Flow]) -> None:
        self._each(request, flows, lambda flow: services.start_flow(flow=flow, by=cast(User, request.user)))

    @admin.action(description="Stop (let executions finish)", permissions=["change"])
    def stop(self, request: HttpRequest, flows: QuerySet[Flow]) -> None:
        self._each(request, flows, lambda flow: services.stop_flow(flow=flow))

    @admin.action(description="Stop by force (cancel executions)", permissions=["change"])
    def force_stop(self, request: HttpRequest, flows: QuerySet[Flow]) -> None:
        self._each(request, flows, lambda flow: services.stop_flow(flow=flow, force=True))

    def _each(self, request: HttpRequest, flows: QuerySet[Flow], act: Callable[[Flow], Flow]) -> None:
        """Do it to one after the other, and say what came of each: one that is refused does not keep back the rest."""
        said = []
        for flow in flows:
            try:
                changed = act(flow)
            except DomainError as error:
                said.append((messages.ERROR, f"{flow}: {error.message}"))
            else:
                said.append((messages.SUCCESS, f"{flow} is {changed.status}."))
                self.log_change(request, flow, said[-1][1])
        tell(request, said)

    def save_model(self, request: HttpRequest, obj: Flow, form: ModelForm, change: bool) -> None:
        """Write only what was edited: a start or stop that came in between is not undone."""
        if change:
            services.update_flow(
                flow=Flow.objects.get(pk=obj.pk), changes={field: getattr(obj, field) for field in form.changed_data}
            )
        else:
            fields = {field: getattr(obj, field) for field in ("name", "description", "organism_yaml")}
            obj.pk = services.create_flow(owner=obj.user, **fields).pk

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """What a service refuses (the user has as many flows as allowed, say) is told, and nothing is stored."""
        try:
            return super().changeform_view(request, *args, **kwargs)
        except DomainError as error:
            self.message_user(request, error.message, messages.ERROR)
            return HttpResponseRedirect(request.get_full_path())

    def delete_model(self, request: HttpRequest, obj: Flow) -> None:
        services.delete_flow(flow=obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Flow]) -> None:
        for flow in queryset:
            services.delete_flow(flow=flow)

    def get_deleted_objects(
        self, objs: Any, request: HttpRequest
    ) -> tuple[list[Any], dict[str, int], set[str], list[str]]:
        """A flow takes its history with it, which nobody may delete alone, and which is too long to list."""
        flows = [f"{flow}, with its versions, executions, triggers, variables and secrets" for flow in objs]
        return flows, {str(Flow._meta.verbose_name_plural): len(flows)}, set(), []


@admin.register(FlowVersion)
class FlowVersionAdmin(HistoryAdmin):
    list_display = ["__str__", "flow_and_user", "created_by", "created_at"]
    list_select_related = ["flow__user", "created_by"]
    list_filter = ["created_at"]
    search_fields = ["flow__name", "flow__user__email", "id", "flow__id"]
    search_help_text = "The flow's name or id, user's e-mail, or the version's id"
    ordering = ["-created_at"]
    fields = ["id", ("flow", "number", "created_at", "created_by"), "digest", "yaml"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[FlowVersion]:
        return super().get_queryset(request).defer(*BODIES, *(f"flow__{field}" for field in BODIES))

    @admin.display(description="flow, user", ordering="flow__name")
    def flow_and_user(self, version: FlowVersion) -> SafeString:
        return two_lines(version.flow.name, version.flow.user.email)

    @admin.display(description="organism.yaml")
    def yaml(self, version: FlowVersion) -> SafeString:
        return format_html('<pre class="blox-json">{}</pre>', version.organism_yaml)


class StoredAdmin(admin.ModelAdmin):
    list_filter = ["updated_at"]
    list_select_related = ["user", "flow"]
    search_fields = ["name", "user__email", "flow__name", "flow__id"]
    search_help_text = "Name, user's e-mail, or the flow's name or id"
    autocomplete_fields = ["user", "flow"]
    readonly_fields = ["updated_at"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return super().get_queryset(request).defer(*(f"flow__{field}" for field in BODIES))

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        obj.updated_at = timezone.now()
        super().save_model(request, obj, form, change)


@admin.register(Variable)
class VariableAdmin(StoredAdmin):
    form = VariableForm
    list_display = ["name", "user", "flow", "short_value", "updated_at"]

    @admin.display(description="value")
    def short_value(self, variable: Variable) -> str:
        return Truncator(variable.value).chars(60)


@admin.register(Secret)
class SecretAdmin(StoredAdmin):
    form = SecretForm
    list_display = ["name", "user", "flow", "updated_at"]


@admin.register(KeyValue)
class KeyValueAdmin(ReadOnlyAdmin):
    """What flows wrote for themselves: an operator looks, and may delete."""

    list_display = ["key", "flow_and_user", "characters", "expires_at", "updated_at"]
    list_filter = ["updated_at", "expires_at"]
    list_select_related = ["flow__user"]
    search_fields = ["key", "flow__name", "flow__user__email", "flow__id"]
    search_help_text = "Key, the flow's name or id, or user's e-mail"
    fields = ["flow", "key", "shown_value", "expires_at", "updated_at"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[KeyValue]:
        rows = super().get_queryset(request).annotate(length=Length("value"))
        return rows.defer("value", *(f"flow__{field}" for field in BODIES))

    @admin.display(description="flow, user", ordering="flow__name")
    def flow_and_user(self, row: KeyValue) -> SafeString:
        return two_lines(row.flow.name, row.flow.user.email)

    @admin.display(description="characters")
    def characters(self, row: KeyValue) -> int:
        length: int = vars(row)["length"]
        return length

    @admin.display(description="value")
    def shown_value(self, row: KeyValue) -> str:
        return HIDDEN if hides_prompts(row.flow) else row.value


@admin.register(AgentMemory)
class AgentMemoryAdmin(ReadOnlyAdmin):
    """What agents remember: an operator sees whose and how much, and may delete. What was said is the tenant's."""

    list_display = ["listener", "key", "flow_and_user", "size", "updated_at"]
    list_filter = ["updated_at"]
    list_select_related = ["flow__user"]
    search_fields = ["listener", "key", "flow__name", "flow__user__email", "flow__id"]
    search_help_text = "Listener, key, the flow's name or id, or user's e-mail"
    fields = ["flow", "listener", "key", "size", "updated_at"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[AgentMemory]:
        return super().get_queryset(request).defer("messages", *(f"flow__{field}" for field in BODIES))

    @admin.display(description="flow, user", ordering="flow__name")
    def flow_and_user(self, row: AgentMemory) -> SafeString:
        return two_lines(row.flow.name, row.flow.user.email)
