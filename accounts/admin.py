from typing import Any

from django.contrib import admin, messages
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse

from accounts.forms import NewUserForm, TierActionForm, UserForm
from accounts.models import AccessToken, Tier, User
from accounts.services import set_tier
from bloxserver.core.admin import ButtonsAdmin, ReadOnlyAdmin


class AccessTokenInline(admin.TabularInline):
    model = AccessToken
    fields = readonly_fields = ("name", "hint", "scopes", "expires_at", "last_used_at", "created_at")
    extra = 0
    can_delete = False
    show_change_link = True

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(User)
class UserAdmin(ButtonsAdmin, DjangoUserAdmin):
    form = UserForm
    add_form = NewUserForm
    action_form = TierActionForm
    actions = ["set_tier"]
    list_display = ("email", "name", "tier", "is_active", "is_staff", "created_at", "last_login")
    list_filter = ("tier", "is_active", "is_staff", "created_at")
    search_fields = ("email", "name", "clerk_subject", "=id")
    search_help_text = "E-mail, name, Clerk id or id"
    ordering = ("-created_at",)
    date_hierarchy = "created_at"
    readonly_fields = (
        "id",
        "share_prompts_with_operators",  # the user's own decision
        "created_at",
        "last_login",
        "clerk_updated_at",
        "deleted_at",
    )
    fieldsets = (
        (None, {"fields": ("id", "email", "password")}),
        ("Profile", {"fields": ("name", "avatar_url", "tier", "share_prompts_with_operators")}),
        ("Clerk", {"fields": ("clerk_subject", "clerk_updated_at", "deleted_at")}),
        ("Permissions", {"fields": ("is_active", "is_staff", "is_superuser", "groups", "user_permissions")}),
        ("Dates", {"fields": ("created_at", "last_login")}),
    )
    add_fieldsets = (
        (None, {"classes": ("wide",), "fields": ("email", "name", "tier", "is_staff")}),
        ("Password", {"classes": ("wide",), "fields": ("usable_password", "password1", "password2")}),
    )

    def get_inlines(self, request: HttpRequest, obj: User | None) -> Any:
        return [AccessTokenInline] if obj else []

    def links(self, obj: User) -> dict[str, str]:
        return {
            "Limits": reverse("admin:billing_customer_change", args=[obj.pk]),
            "Flows": f"{reverse('admin:flows_flow_changelist')}?user__id__exact={obj.pk}",
            "Executions": f"{reverse('admin:executions_execution_changelist')}?user__id__exact={obj.pk}",
            "Budgets": f"{reverse('admin:billing_budget_changelist')}?user__id__exact={obj.pk}",
            "Model usage": f"{reverse('admin:billing_llmusage_changelist')}?user__id__exact={obj.pk}",
            "Model cache": f"{reverse('admin:llm_cacheuse_changelist')}?user__id__exact={obj.pk}",
        }

    def save_model(self, request: HttpRequest, obj: User, form: Any, change: bool) -> None:
        """Only what was changed is written. A tier is changed by its service, which tells those who have to see to it."""
        if not change:
            super().save_model(request, obj, form, change)
            return
        changed = {*form.changed_data} & {*UserForm.REMEMBERED}
        obj.save(update_fields=changed - {"tier"})
        if "tier" in changed:
            set_tier(user=obj, tier=obj.tier)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """A user is deactivated, not deleted: their flows, triggers and history hang on the row."""
        return False

    @admin.action(description="Set tier", permissions=["change"])
    def set_tier(self, request: HttpRequest, queryset: QuerySet[User]) -> None:
        tier = request.POST.get("tier", "")
        if tier not in Tier.values:
            self.message_user(request, "Choose the tier beside the action.", messages.ERROR)
            return
        users = list(queryset)
        for user in users:
            set_tier(user=user, tier=tier)
            self.log_change(request, user, f"Set tier to {tier}.")
        who = "1 user is" if len(users) == 1 else f"{len(users)} users are"
        self.message_user(request, f"{who} now on {Tier(tier).label}.", messages.SUCCESS)


@admin.register(AccessToken)
class AccessTokenAdmin(ReadOnlyAdmin):
    """Deleting one revokes it."""

    list_display = ("name", "user", "hint", "may", "expires_at", "last_used_at", "created_at")
    list_select_related = ("user",)
    list_filter = ("expires_at", "last_used_at")
    search_fields = ("name", "hint", "user__email")
    search_help_text = "Name, last four characters or the user's e-mail"
    fields = readonly_fields = ("id", "user", "name", "hint", "may", "expires_at", "last_used_at", "created_at")

    @admin.display(description="scopes")
    def may(self, token: AccessToken) -> str:
        return ", ".join(token.scopes)
