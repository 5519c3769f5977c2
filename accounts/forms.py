"""The admin's forms for users; Django's own are written for its own user model."""

from typing import Any

from django import forms
from django.contrib.admin.helpers import ActionForm
from django.contrib.auth.forms import AdminUserCreationForm, UserChangeForm

from accounts.models import Tier, User


class NewUserForm(AdminUserCreationForm):
    class Meta:
        model = User
        fields = ("email", "name", "tier", "is_staff")


class UserForm(UserChangeForm):
    """Sends along what it showed, so that only what the operator changed counts as changed, whatever has become of the rest
    since: a subscription moves the tier, Clerk the name and the address."""

    REMEMBERED = ("email", "name", "avatar_url", "tier", "clerk_subject", "is_active", "is_staff", "is_superuser")

    class Meta:
        model = User
        fields = "__all__"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name in self.fields.keys() & {*self.REMEMBERED}:
            self.fields[name].show_hidden_initial = True


class TierActionForm(ActionForm):
    """Beside the list's actions: the tier that "Set tier" sets."""

    tier = forms.ChoiceField(choices=[("", "tier..."), *Tier.choices], required=False)
