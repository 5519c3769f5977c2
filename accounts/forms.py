"""The admin's forms for users; Django's own are written for its own user model."""

from django import forms
from django.contrib.admin.helpers import ActionForm
from django.contrib.auth.forms import AdminUserCreationForm, UserChangeForm

from accounts.models import Tier, User


class NewUserForm(AdminUserCreationForm):
    class Meta:
        model = User
        fields = ("email", "name", "tier", "is_staff")


class UserForm(UserChangeForm):
    class Meta:
        model = User
        fields = "__all__"


class TierActionForm(ActionForm):
    """Beside the list's actions: the tier that "Set tier" sets."""

    tier = forms.ChoiceField(choices=[("", "tier..."), *Tier.choices], required=False)
