"""The operators' view of triggers. Changes go through the services."""

import json
from collections.abc import Callable
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html, strip_tags
from django.utils.safestring import SafeString

from bloxserver.core.admin import ButtonsAdmin, change_link, tell, two_lines
from bloxserver.core.errors import DomainError
from executions.models import TriggerType
from triggers import services
from triggers.config import read_config
from triggers.errors import InvalidTriggerConfig
from triggers.models import Trigger
from triggers.serializers import CONFIG_HELP

LEDGERS: dict[str, tuple[str, str]] = {
    TriggerType.WEBHOOK: ("Deliveries", "admin:triggers_delivery_changelist"),
    TriggerType.SCHEDULE: ("Moments", "admin:triggers_moment_changelist"),
}
OWN_FIELD: dict[str, str] = {TriggerType.WEBHOOK: "webhook_address", TriggerType.SCHEDULE: "upcoming"}


class IndentedJSON(forms.JSONField):
    widget = forms.Textarea(attrs={"class": "blox-code", "rows": 8, "spellcheck": "false"})

    def prepare_value(self, value: Any) -> Any:
        if isinstance(value, forms.fields.InvalidJSONInput):
            return value
        return json.dumps({} if value is None else value, indent=2, ensure_ascii=False)


class TriggerForm(forms.ModelForm):
    """Checks a config as the API does."""

    class Meta:
        model = Trigger
        fields = ("flow", "type", "name", "config", "enabled")

    config = IndentedJSON(required=False, help_text=CONFIG_HELP)

    def clean_config(self) -> Any:
        value = self.cleaned_data["config"]
        return {} if value is None else value

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        type = self.instance.type or cleaned.get("type")
        if type and "config" in cleaned:
            try:
                read_config(type, cleaned["config"])
            except InvalidTriggerConfig as error:
                self.add_error("config", (error.details or {})["config"])
        return cleaned


@admin.register(Trigger)
class TriggerAdmin(ButtonsAdmin):
    form = TriggerForm
    list_display = ("name", "flow_and_user", "type", "enabled", "next_fire_at", "created_at")
    list_filter = ("type", "enabled", "flow__status", "flow__user__tier")
    list_select_related = ("flow__user",)
    search_fields = ("name", "flow__name", "flow__user__email", "id")
    search_help_text = "Name, the flow's name, the user's e-mail or id"
    date_hierarchy = "created_at"
    autocomplete_fields = ("flow",)
    actions = ("fire_now", "enable", "disable", "regenerate_tokens")
    readonly_fields = ("id", "webhook_address", "upcoming", "created_at")
    fields = (
        "id",
        "flow",
        "type",
        "name",
        "enabled",
        "config",
        "webhook_address",
        "upcoming",
        "created_at",
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Trigger]:
        return super().get_queryset(request).with_flow()  # type: ignore[attr-defined]

    def get_readonly_fields(self, request: HttpRequest, obj: Trigger | None = None) -> tuple[str, ...]:
        return (*self.readonly_fields, "flow", "type") if obj else self.readonly_fields

    def get_fields(self, request: HttpRequest, obj: Trigger | None = None) -> Any:
        """Without what a trigger of that type does not have."""
        if obj is None:
            return [name for name in self.fields if name not in self.readonly_fields]
        unwanted = {"webhook_address", "upcoming"} - {OWN_FIELD.get(obj.type)}
        return [name for name in self.fields if name not in unwanted]

    def buttons(self, trigger: Trigger) -> list[str]:
        offered = ["fire_now", "disable"] if trigger.enabled else ["enable"]
        return [*offered, "regenerate_tokens"] if trigger.type == TriggerType.WEBHOOK else offered

    def links(self, trigger: Trigger) -> dict[str, str]:
        query = f"flow__id__exact={trigger.flow_id}&trigger_id={trigger.pk}"  # the flow's has an index
        links = {"Executions": f"{reverse('admin:executions_execution_changelist')}?{query}"}
        if trigger.type in LEDGERS:
            name, page = LEDGERS[trigger.type]
            links[name] = f"{reverse(page)}?q={trigger.pk}"
        return links

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """What a service refuses (a flow's last trigger is taken, say) is told, and nothing is stored."""
        try:
            return super().changeform_view(request, *args, **kwargs)
        except DomainError as error:
            self.message_user(request, error.message, messages.ERROR)
            return HttpResponseRedirect(request.get_full_path())

    def save_model(self, request: HttpRequest, obj: Trigger, form: Any, change: bool) -> None:
        now = timezone.now()
        if change:
            changes = {field: form.cleaned_data[field] for field in form.changed_data}
            services.update_trigger(trigger=obj, changes=changes, now=now)
        else:
            fields = {field: form.cleaned_data[field] for field in ("type", "name", "config", "enabled")}
            obj.pk = services.create_trigger(flow=form.cleaned_data["flow"], now=now, **fields).pk

    def get_deleted_objects(
        self, objs: Any, request: HttpRequest
    ) -> tuple[list[str], dict[str, int], set[str], list[str]]:
        """The ledger goes with its trigger, unlisted: there may be thousands of rows, and none is worth a look."""
        rows = [f"{trigger}, with its ledger; its executions stay on record" for trigger in objs]
        return rows, {"triggers": len(objs)}, set(), []

    def delete_model(self, request: HttpRequest, obj: Trigger) -> None:
        services.delete_trigger(trigger=obj, now=timezone.now())

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Trigger]) -> None:
        for trigger in queryset:
            services.delete_trigger(trigger=trigger, now=timezone.now())

    @admin.display(description="flow, user", ordering="flow__name")
    def flow_and_user(self, trigger: Trigger) -> SafeString:
        return two_lines(trigger.flow.name, trigger.flow.user.email)

    @admin.display(description="webhook URL")
    def webhook_address(self, trigger: Trigger) -> str:
        if not trigger.token_encrypted:
            return "-"
        return trigger.webhook_url or "Its encryption key is gone: regenerate the token to see a URL."

    @admin.display(description="next firings")
    def upcoming(self, trigger: Trigger) -> str:
        if trigger.type != TriggerType.SCHEDULE:
            return "-"
        try:
            moments = services.preview(trigger, now=timezone.now())
        except InvalidTriggerConfig as error:
            return error.message
        armed = "" if trigger.next_fire_at else " (not armed: the flow is not running, or the trigger is disabled)"
        return ", ".join(f"{moment:%Y-%m-%d %H:%M:%S}" for moment in moments) + " UTC" + armed

    @admin.action(description="Fire now", permissions=["change"])
    def fire_now(self, request: HttpRequest, queryset: QuerySet[Trigger]) -> None:
        def fire(trigger: Trigger) -> str:
            execution = services.fire_trigger(trigger=trigger, now=timezone.now())
            return format_html("Fired execution {}.", change_link("executions_execution", execution.pk))

        self._each(request, queryset, fire)

    @admin.action(description="Enable", permissions=["change"])
    def enable(self, request: HttpRequest, queryset: QuerySet[Trigger]) -> None:
        self._set_enabled(request, queryset, True)

    @admin.action(description="Disable", permissions=["change"])
    def disable(self, request: HttpRequest, queryset: QuerySet[Trigger]) -> None:
        self._set_enabled(request, queryset, False)

    @admin.action(description="Regenerate the token (the old URL stops working)", permissions=["change"])
    def regenerate_tokens(self, request: HttpRequest, queryset: QuerySet[Trigger]) -> None:
        def regenerate(trigger: Trigger) -> str:
            services.regenerate_token(trigger=trigger)
            return "Regenerated the token."

        self._each(request, queryset, regenerate)

    def _set_enabled(self, request: HttpRequest, queryset: QuerySet[Trigger], enabled: bool) -> None:
        def change(trigger: Trigger) -> str:
            services.update_trigger(trigger=trigger, changes={"enabled": enabled}, now=timezone.now())
            return "Enabled." if enabled else "Disabled."

        self._each(request, queryset, change)

    def _each(self, request: HttpRequest, triggers: QuerySet[Trigger], act: Callable[[Trigger], str]) -> None:
        """Act on each, keep a log entry of it, and say what came of it; a refusal does not stop the others."""
        said = []
        for trigger in triggers:
            try:
                message = act(trigger)
            except DomainError as error:
                said.append((messages.ERROR, f"{trigger.name}: {error.message}"))
            else:
                said.append((messages.SUCCESS, format_html("{}: {}", trigger.name, message)))
                self.log_change(request, trigger, strip_tags(message))
        tell(request, said)
