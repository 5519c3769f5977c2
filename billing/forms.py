"""The admin's forms."""

from typing import Any

from django import forms

from billing.models import Budget, LimitOverride
from billing.models.budgets import ONE_EACH
from billing.models.overrides import TWICE


class BudgetForm(forms.ModelForm):
    """An operator sets budgets of all flows; those of one flow its owner does, through the API."""

    def clean(self) -> dict[str, Any]:
        """The flow is no field of the form, so Django leaves the constraint that has it to the database."""
        data = super().clean() or self.cleaned_data
        if self.instance._state.adding and Budget.objects.filter(user=data.get("user"), flow_id=None).exists():
            raise forms.ValidationError(ONE_EACH)
        return data


class LimitOverrideForm(forms.ModelForm):
    class Meta:
        model = LimitOverride
        fields = ("limit", "value", "expires_at", "reason")
        widgets = {"reason": forms.Textarea(attrs={"rows": 2, "cols": 24})}

    def clean(self) -> dict[str, Any]:
        """The user is no field of the form, so Django leaves the constraint that has it to the database."""
        data = super().clean() or self.cleaned_data
        others = LimitOverride.objects.filter(user=self.instance.user_id).exclude(pk=self.instance.pk)
        if others.filter(limit=data.get("limit")).exists():
            raise forms.ValidationError({"limit": TWICE})
        return data
