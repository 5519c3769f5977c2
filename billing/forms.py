"""The admin's forms."""

from typing import Any

from django import forms

from billing.models import Budget
from billing.models.budgets import ONE_EACH


class BudgetForm(forms.ModelForm):
    """An operator sets budgets of all flows; those of one flow its owner does, through the API."""

    def clean(self) -> dict[str, Any]:
        """The flow is no field of the form, so Django leaves the constraint that has it to the database."""
        data = super().clean() or self.cleaned_data
        if self.instance._state.adding and Budget.objects.filter(user=data.get("user"), flow_id=None).exists():
            raise forms.ValidationError(ONE_EACH)
        return data
