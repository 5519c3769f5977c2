"""What the admins of all apps have in common: read-only rows, actions as buttons, and how a status is shown."""

from typing import Any

from django.contrib import admin
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.templatetags.admin_urls import admin_urlname
from django.http import HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

TONES = {
    "success": "good",
    "running": "busy",
    "waiting": "busy",
    "starting": "busy",
    "stopping": "busy",
    "error": "bad",
    "timeout": "bad",
}


def status_pill(status: str, tone: str = "") -> SafeString:
    """The status in a frame of the colour that its tone has: good, busy, bad, or neither."""
    return format_html('<span class="blox-status blox-{}">{}</span>', tone or TONES.get(status, "quiet"), status)


class ReadOnlyAdmin(admin.ModelAdmin):
    """Rows that are looked at, and may be deleted."""

    def has_add_permission(self, request: HttpRequest, *args: Any) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class HistoryAdmin(ReadOnlyAdmin):
    """Rows that are only looked at."""

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class ButtonsAdmin(admin.ModelAdmin):
    """Offers actions of the list on the page of one row too, and links to what belongs to that row."""

    change_form_template = "admin/change_form_with_buttons.html"

    def buttons(self, obj: Any) -> list[str]:
        """The names of the actions that make sense for this row now."""
        return []

    def links(self, obj: Any) -> dict[str, str]:
        """What to call each page that has to do with this row, and its URL."""
        return {}

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        if (obj := kwargs.get("obj")) is not None:
            allowed = self.get_actions(request)
            context["buttons"] = {name: allowed[name][2] for name in self.buttons(obj) if name in allowed}
            context["links"] = self.links(obj)
        return super().render_change_form(request, context, *args, **kwargs)

    def response_action(self, request: HttpRequest, queryset: Any) -> HttpResponseBase | None:
        """Back to the page whose button was pressed, unless the action leads elsewhere."""
        response = super().response_action(request, queryset)
        leads_elsewhere = isinstance(response, HttpResponse) and response.get("Location") != request.get_full_path()
        if "_from_page" not in request.POST or leads_elsewhere:
            return response
        return HttpResponseRedirect(
            reverse(admin_urlname(self.opts, SafeString("change")), args=[request.POST[ACTION_CHECKBOX_NAME]])
        )
