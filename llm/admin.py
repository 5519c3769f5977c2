"""The operators' view of the pool and of users' keys. No page shows a key."""

from collections.abc import Callable

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.forms import ModelForm
from django.http import HttpRequest
from django.utils import timezone
from django.utils.safestring import SafeString

from bloxserver.core.admin import ButtonsAdmin, ReadOnlyAdmin, status_pill, tell, two_lines
from llm import services
from llm.forms import KEY_FIELDS, ProviderForm
from llm.models import Provider, UserKey

SHOWN_MODELS = 3  # in a row of the list


@admin.register(Provider)
class ProviderAdmin(ButtonsAdmin):
    form = ProviderForm
    list_display = [
        "name_and_provider",
        "shown_state",
        "shown_models",
        "priority",
        "concurrency",
        "has_key",
        "last_check",
    ]
    list_filter = ["is_on", "provider", "kind"]
    search_fields = ["name", "provider", "base_url"]
    search_help_text = "Name, provider or base URL"
    actions = ["switch_on", "switch_off", "check_now"]
    readonly_fields = ["shown_state", "last_check", "error", "created_at"]
    fieldsets = [
        (None, {"fields": ["name", "provider", "kind", "base_url", "key"]}),
        ("What it serves", {"fields": ["model_names", ("priority", "weight", "concurrency"), "is_on"]}),
        ("State", {"fields": [("shown_state", "last_check", "created_at"), "error"]}),
    ]

    def buttons(self, provider: Provider) -> list[str]:
        return ["switch_off" if provider.is_on else "switch_on", "check_now"]

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

    def _each(
        self, request: HttpRequest, providers: QuerySet[Provider], act: Callable[[Provider], tuple[int, str]]
    ) -> None:
        said = []
        for provider in providers:
            level, text = act(provider)
            said.append((level, f"{provider}: {text}"))
            self.log_change(request, provider, text)
        tell(request, said)


def _switched(provider: Provider, *, on: bool) -> tuple[int, str]:
    services.switch_provider(provider=provider, on=on)
    return messages.SUCCESS, f"Switched {'on' if on else 'off'}."


def _checked(provider: Provider) -> tuple[int, str]:
    error = services.check_provider(provider=provider, now=timezone.now())
    return (messages.ERROR, error) if error else (messages.SUCCESS, "Checked: it takes the key.")


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
