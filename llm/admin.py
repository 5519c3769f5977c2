"""The operators' view of the pool and of users' keys. No page shows a key."""

from collections.abc import Callable
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.views.main import ChangeList
from django.db.models import F, QuerySet, Sum, Window
from django.db.models.functions import RowNumber
from django.forms import ModelForm
from django.http import HttpRequest
from django.utils import timezone
from django.utils.safestring import SafeString

from bloxserver.core.admin import ButtonsAdmin, HistoryAdmin, ReadOnlyAdmin, status_pill, tell, two_lines
from llm import services
from llm.forms import KEY_FIELDS, ProviderForm
from llm.models import CacheUse, Provider, UserKey
from llm.services.path import Standing

SHOWN_MODELS = 3  # in a row of the list
BREAKER_TONES = {"closed": "good", "probing": "busy", "resting": "busy", "open": "bad"}


@admin.register(Provider)
class ProviderAdmin(ButtonsAdmin):
    form = ProviderForm
    list_display = [
        "name_and_provider",
        "shown_state",
        "shown_standing",
        "shown_models",
        "priority",
        "weight",
        "concurrency",
        "has_key",
        "last_check",
    ]
    list_filter = ["is_on", "provider", "kind"]
    search_fields = ["name", "provider", "base_url"]
    search_help_text = "Name, provider or base URL"
    actions = ["switch_on", "switch_off", "check_now", "close_breaker"]
    readonly_fields = ["shown_state", "shown_standing", "last_check", "error", "created_at"]
    fieldsets = [
        (None, {"fields": ["name", "provider", "kind", "base_url", "key"]}),
        ("What it serves", {"fields": ["model_names", ("priority", "weight", "concurrency"), "is_on"]}),
        ("State", {"fields": [("shown_state", "shown_standing"), ("last_check", "created_at"), "error"]}),
    ]

    def buttons(self, provider: Provider) -> list[str]:
        return ["switch_off" if provider.is_on else "switch_on", "check_now", "close_breaker"]

    def get_changelist_instance(self, request: HttpRequest) -> ChangeList:
        changes = super().get_changelist_instance(request)
        rows = list(changes.result_list)
        known = services.standings(rows)
        for row in rows:
            row.standing = known.get(row.pk)
        changes.result_list = rows
        return changes

    def save_model(self, request: HttpRequest, obj: Provider, form: ModelForm, change: bool) -> None:
        """Write only what was edited: a switch or a check that came in between is not undone."""
        if not change:
            super().save_model(request, obj, form, change)
        elif edited := set(form.changed_data):
            key = KEY_FIELDS if {"key", "base_url"} & edited else []
            obj.save(update_fields=[*(edited - {"key"}), *key])

    @admin.display(description="name, provider", ordering="name")
    def name_and_provider(self, provider: Provider) -> SafeString:
        return two_lines(provider.name, provider.provider)

    @admin.display(description="state", ordering="is_on")
    def shown_state(self, provider: Provider) -> SafeString:
        return status_pill("on", "good") if provider.is_on else status_pill("off")

    @admin.display(description="breaker, calls")
    def shown_standing(self, provider: Provider) -> SafeString | str:
        standing = _standing(provider)
        if standing is None:
            return "known with Redis only"
        if not provider.concurrency:
            calls = "any number of calls"
        else:
            calls = (
                f"{standing.under_way} of {provider.concurrency} slots, load {standing.load / provider.concurrency:.0%}"
            )
        return two_lines(status_pill(standing.breaker, BREAKER_TONES[standing.breaker]), calls)

    @admin.display(description="models")
    def shown_models(self, provider: Provider) -> str:
        names = provider.model_names
        more = f" and {len(names) - SHOWN_MODELS} more" if len(names) > SHOWN_MODELS else ""
        return ", ".join(names[:SHOWN_MODELS]) + more if names else "all"

    @admin.display(description="key")
    def has_key(self, provider: Provider) -> str:
        return f"...{provider.key_hint}" if provider.encrypted_key else "none"

    @admin.display(description="last check", ordering="checked_at")
    def last_check(self, provider: Provider) -> SafeString | str:
        if provider.checked_at is None:
            return "never"
        pill = status_pill("failed", "bad") if provider.error else status_pill("takes the key", "good")
        return two_lines(pill, f"{provider.checked_at:%Y-%m-%d %H:%M}")

    @admin.action(description="Switch on", permissions=["change"])
    def switch_on(self, request: HttpRequest, providers: QuerySet[Provider]) -> None:
        self._each(request, providers, lambda provider: _switched(provider, on=True))

    @admin.action(description="Switch off", permissions=["change"])
    def switch_off(self, request: HttpRequest, providers: QuerySet[Provider]) -> None:
        self._each(request, providers, lambda provider: _switched(provider, on=False))

    @admin.action(description="Check now", permissions=["change"])
    def check_now(self, request: HttpRequest, providers: QuerySet[Provider]) -> None:
        self._each(request, providers, _checked)

    @admin.action(description="Close breaker", permissions=["change"])
    def close_breaker(self, request: HttpRequest, providers: QuerySet[Provider]) -> None:
        self._each(request, providers, _closed)

    def _each(
        self, request: HttpRequest, providers: QuerySet[Provider], act: Callable[[Provider], tuple[int, str]]
    ) -> None:
        said = []
        for provider in providers:
            level, text = act(provider)
            said.append((level, f"{provider}: {text}"))
            self.log_change(request, provider, text)
        tell(request, said)


def _standing(provider: Any) -> Standing | None:
    """As the list has looked it up for all of its rows; else of this one."""
    if not hasattr(provider, "standing"):
        provider.standing = services.standings([provider]).get(provider.pk)
    standing: Standing | None = provider.standing
    return standing


def _switched(provider: Provider, *, on: bool) -> tuple[int, str]:
    services.switch_provider(provider=provider, on=on)
    return messages.SUCCESS, f"Switched {'on' if on else 'off'}."


def _checked(provider: Provider) -> tuple[int, str]:
    error = services.check_provider(provider=provider, now=timezone.now())
    return (messages.ERROR, error) if error else (messages.SUCCESS, "Checked: it takes the key.")


def _closed(provider: Provider) -> tuple[int, str]:
    services.close_breaker(provider=provider)
    return messages.SUCCESS, "Its breaker is being closed."


@admin.register(UserKey)
class UserKeyAdmin(ReadOnlyAdmin, ButtonsAdmin):
    """Deleting one has its user's calls go to the pool."""

    list_display = ["key_and_user", "shown_state", "error", "checked_at", "last_used_at", "created_at"]
    list_select_related = ["user"]
    list_filter = ["is_valid", "provider", "checked_at"]
    search_fields = ["provider", "key_hint", "user__email", "=id"]
    search_help_text = "Provider, last four characters, user's e-mail, or id"
    actions = ["mark_valid"]
    fields = [
        "id",
        ("user", "provider", "key_hint"),
        "shown_state",
        "error",
        ("checked_at", "last_used_at", "created_at"),
        "notice_due_at",
    ]
    readonly_fields = ["shown_state"]

    def buttons(self, key: UserKey) -> list[str]:
        return [] if key.is_valid else ["mark_valid"]

    def has_mark_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("llm.change_userkey")

    @admin.display(description="key, user", ordering="provider")
    def key_and_user(self, key: UserKey) -> SafeString:
        return two_lines(key, key.user.email)

    @admin.display(description="state", ordering="is_valid")
    def shown_state(self, key: UserKey) -> SafeString:
        return status_pill("valid", "good") if key.is_valid else status_pill("refused", "bad")

    @admin.action(description="Mark as valid again", permissions=["mark"])
    def mark_valid(self, request: HttpRequest, keys: QuerySet[UserKey]) -> None:
        said = []
        for key in keys.select_related("user"):
            if services.mark_key_valid(key_id=key.pk, now=timezone.now()):
                said.append((messages.SUCCESS, f"{key} of {key.user} is used again."))
                self.log_change(request, key, "Marked as valid again.")
            else:
                said.append((messages.ERROR, f"{key} of {key.user} is valid already."))
        tell(request, said)


@admin.register(CacheUse)
class CacheUseAdmin(HistoryAdmin):
    """How many of a user's calls on a day the cache has answered. One row of usage stands for all of its user and day."""

    list_display = ["day", "user", "all_calls", "hits", "hit_rate"]
    list_display_links = None
    list_select_related = ["user"]
    list_filter = ["day", "own_key", "provider"]
    date_hierarchy = "day"
    search_fields = ["user__email", "=user__id"]
    search_help_text = "The user's e-mail or id"
    ordering = ["-day", "user__email"]
    fields = ["day", "user"]
    readonly_fields = ["day", "user"]
    actions = ["forget_answers"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[CacheUse]:
        same = [F("user"), F("day")]
        return (
            super()
            .get_queryset(request)
            .annotate(
                place=Window(RowNumber(), partition_by=same, order_by="pk"),
                calls_of_day=Window(Sum("calls"), partition_by=same),
                hits_of_day=Window(Sum("cached_calls"), partition_by=same),
            )
            .filter(place=1)
        )

    def has_forget_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("llm.change_cacheuse")

    @admin.display(description="calls")
    def all_calls(self, row: Any) -> str:
        return f"{row.calls_of_day:,}"

    @admin.display(description="from the cache")
    def hits(self, row: Any) -> str:
        return f"{row.hits_of_day:,}"

    @admin.display(description="hit rate")
    def hit_rate(self, row: Any) -> str:
        return f"{row.hits_of_day / row.calls_of_day:.0%}" if row.calls_of_day else "-"

    @admin.action(description="Forget the users' answers", permissions=["forget"])
    def forget_answers(self, request: HttpRequest, rows: QuerySet[CacheUse]) -> None:
        said = []
        for row in {row.user_id: row for row in rows.select_related("user")}.values():
            services.forget_answers(user_id=row.user_id)
            said.append((messages.SUCCESS, f"The answers kept for {row.user} are being forgotten."))
            self.log_change(request, row, "Had the user's answers forgotten.")
        tell(request, said)
