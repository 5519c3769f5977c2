"""The admin's forms: what an operator types is held to the same limits as what a client sends."""

from typing import Any

from django import forms
from django.core.exceptions import ValidationError

from bloxserver.api import strict_json
from bloxserver.core import json_text
from bloxserver.core.crypto import encrypt
from flows.models import Flow, Secret, Variable
from flows.services.stored import MAX_VALUE_BYTES, NAME, NAME_RULE
from flows.services.versions import MAX_YAML_BYTES

CODE = {"class": "blox-code", "spellcheck": "false"}


class YamlField(forms.CharField):
    """Text to the letter, but for the line ends that a browser makes CR LF of."""

    widget = forms.Textarea(attrs={**CODE, "rows": 26})

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "strip": False, "widget": self.widget, "required": False})

    def to_python(self, value: Any) -> str:
        return (super().to_python(value) or "").replace("\r\n", "\n")

    def validate(self, value: str) -> None:
        super().validate(value)
        if len(value.encode()) > MAX_YAML_BYTES:
            raise ValidationError("The YAML is larger than 256 KiB.")


class FlowForm(forms.ModelForm):
    class Meta:
        model = Flow
        fields = ["user", "name", "description", "organism_yaml"]
        field_classes = {"organism_yaml": YamlField}
        labels = {"organism_yaml": "organism.yaml"}
        widgets = {"description": forms.Textarea(attrs={"rows": 3, "class": "vLargeTextField"})}


class StoredForm(forms.ModelForm):
    def clean_name(self) -> str:
        name: str = self.cleaned_data["name"]
        if not NAME.fullmatch(name):
            raise ValidationError(NAME_RULE)
        return name

    def clean(self) -> dict[str, Any]:
        """What is a flow's belongs to that flow's user."""
        data: dict[str, Any] = super().clean() or self.cleaned_data
        flow, user = data.get("flow"), data.get("user")
        if flow and user and flow.user_id != user.pk:
            raise ValidationError({"flow": "This flow belongs to another user."})
        return data


class VariableForm(StoredForm):
    class Meta:
        model = Variable
        fields = ["user", "flow", "name", "value"]
        widgets = {"value": forms.Textarea(attrs={**CODE, "rows": 6})}
        help_texts = {"value": 'JSON: text stands in double quotes, "like this".'}

    def clean_value(self) -> str:
        try:
            text = json_text.dumps(strict_json.loads(self.cleaned_data["value"].encode()))
        except strict_json.StrictJSONError as error:
            raise ValidationError(
                f'{error.message} The value is JSON: text stands in double quotes, "like this".'
            ) from error
        if len(text.encode()) > MAX_VALUE_BYTES:
            raise ValidationError("The value is larger than 64 KiB.")
        return text


class WriteOnlyTextarea(forms.Textarea):
    """Takes a text of many lines (a private key, say), and shows nothing, also when the form comes back with an error."""

    def get_context(self, name: str, value: Any, attrs: dict[str, Any] | None) -> dict[str, Any]:
        return super().get_context(name, None, attrs)


class SecretForm(StoredForm):
    """The value goes in and is never rendered again."""

    value = forms.CharField(
        strip=False,
        required=False,
        widget=WriteOnlyTextarea(attrs={**CODE, "rows": 3, "autocomplete": "off"}),
        help_text="Stored encrypted and never shown. Leave it empty to keep what is stored.",
    )

    class Meta:
        model = Secret
        fields = ["user", "flow", "name"]

    def clean_value(self) -> str:
        value: str = self.cleaned_data["value"].replace("\r\n", "\n")
        if not value and self.instance._state.adding:
            raise ValidationError("A new secret needs a value.")
        if len(value.encode()) > MAX_VALUE_BYTES:
            raise ValidationError("The value is larger than 64 KiB.")
        return value

    def save(self, commit: bool = True) -> Secret:
        if value := self.cleaned_data["value"]:
            self.instance.encrypted_value = encrypt(value)
        secret: Secret = super().save(commit)
        return secret
