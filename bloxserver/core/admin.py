"""What the admins of all apps have in common: read-only rows, actions as buttons, and how a status is shown."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

TOLD = 5  # messages of each level after an action on many rows
TONES = {
    "success": "good",
    "running": "busy",
    "waiting": "busy",
    "starting": "busy",
    "stopping": "busy",
    "error": "bad",
    "timeout": "bad",
    "done": "good",
    "due": "busy",
    "sent": "good",
    "failing": "bad",
    "given up": "bad",
}


def status_pill(status: str, tone: str = "") -> SafeString:
    """The status in a frame of the colour that its tone has: good, busy, bad, or neither."""
    return format_html('<span class="blox-status blox-{}">{}</span>', tone or TONES.get(status, "quiet"), status)


def change_link(page: str, key: Any, text: Any = None) -> SafeString | str:
    """A link to one row's page, such as `change_link("executions_execution", id)`; a dash for no id."""
    if key is None:
        return "-"
    url = reverse(f"admin:{page}_change", args=[key])
    return format_html('<a href="{}">{}</a>', url, key if text is None else text)


def short_id(key: UUID | None) -> SafeString:
    """Its end: the beginnings are the time, and so much alike."""
    return format_html('<code class="nowrap" title="{}">…{}</code>', key, str(key)[-8:])


def two_lines(first: Any, second: Any) -> SafeString:
    """A cell of a list: what is looked for first, and under it, smaller, what it belongs to."""
    return format_html('{}<span class="blox-under" title="{}">{}</span>', first, second, second)


def tell(request: HttpRequest, said: Sequence[tuple[int, str]]) -> None:
    """What came of an action on each row, as (level, text): the first few of each level, and how many more there were."""
    for level in sorted({level for level, _ in said}, reverse=True):
        texts = [text for of, text in said if of == level]
        for text in texts[:TOLD]:
            messages.add_message(request, level, text)
        if len(texts) > TOLD:
            messages.add_message(
                request, level, f"{len(texts) - TOLD} more {'were refused' if level == messages.ERROR else 'are done'}."
            )


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
            actions = self.get_actions(request)
            allowed = [action for name in self.buttons(obj) if (action := actions.get(name))]
            context["buttons"] = {name: label for _, name, label in allowed}
            context["links"] = self.links(obj)
        return super().render_change_form(request, context, *args, **kwargs)

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """Raises `PermissionDenied` for an action that is not this user's to take: Django would pass over it in silence."""
        forbidden = {getattr(action, "__name__", action) for action in self.actions or ()} - {
            *self.get_actions(request)
        }
        if forbidden.intersection(request.POST.getlist("action")):
            raise PermissionDenied
        return super().changelist_view(request, extra_context)

    def response_action(  # type: ignore[override]  # the stubs are those of a later Django
        self, request: HttpRequest, queryset: Any
    ) -> HttpResponse | None:
        """Back to the page whose button was pressed, unless the action leads elsewhere."""
        response = super().response_action(request, queryset)
        leads_elsewhere = response is not None and response.get("Location") != request.get_full_path()
        if "_from_page" not in request.POST or leads_elsewhere:
            return response
        page = f"admin:{self.opts.app_label}_{self.opts.model_name}_change"
        return HttpResponseRedirect(reverse(page, args=[request.POST[ACTION_CHECKBOX_NAME]]))
