"""The admin's form of a member of the pool. The key goes in and is never rendered again."""

from typing import Any

from django import forms
from django.core.exceptions import ValidationError

from llm.kinds import ANY_KEY, PROVIDERS, key_form_error
from llm.models import Provider, Wire
from llm.services.keys import MAX_KEY, misdirected

CODE = {"class": "blox-code", "spellcheck": "false"}
KEY_FIELDS = ["encrypted_key", "key_hint", "checked_at", "error"]  # what a new key, or another address, changes


class LinesField(forms.CharField):
    """A list of texts, one a line."""

    widget = forms.Textarea(attrs={**CODE, "rows": 6})

    def __init__(self, **kwargs: Any) -> None:
        known = ("required", "label", "initial", "help_text", "disabled")
        super().__init__(**{name: kwargs[name] for name in known if name in kwargs})

    def prepare_value(self, value: Any) -> Any:
        return "\n".join(value) if isinstance(value, list) else value

    def to_python(self, value: Any) -> Any:
        lines = (line.strip() for line in (super().to_python(value) or "").splitlines())
        return list(dict.fromkeys(filter(None, lines)))

    def has_changed(self, initial: Any, data: Any) -> bool:
        return self.to_python(data) != (initial or [])


class ProviderForm(forms.ModelForm):
    key = forms.CharField(
        required=False,
        max_length=MAX_KEY,
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password", "class": "vTextField"}),
        help_text="Stored encrypted and never shown. Leave it empty to keep what is stored.",
    )

    class Meta:
        model = Provider
        fields = [
            "name",
            "provider",
            "kind",
            "base_url",
            "model_names",
            "priority",
            "weight",
            "concurrency",
            "is_on",
        ]
        field_classes = {"model_names": LinesField}
        help_texts = {
            "model_names": "One a line, as the provider names them. Empty: it serves all of the provider's models.",
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.encrypted_key:
            self.fields["key"].widget.attrs["placeholder"] = f"••••••••{self.instance.key_hint}"

    def clean_key(self) -> str:
        key: str = self.cleaned_data["key"]
        if key and not ANY_KEY.fullmatch(key):
            raise ValidationError("A key is made of letters, digits and signs, without spaces.")
        return key

    def clean(self) -> dict[str, Any]:
        data: dict[str, Any] = super().clean() or self.cleaned_data
        known, base_url = PROVIDERS.get(data.get("provider", "")), data.get("base_url")
        if known is None and not base_url:
            self.add_error("base_url", "A provider with a name of your own needs its base URL.")
        if known and not base_url and (known.wire == "anthropic") != (data.get("kind") == Wire.ANTHROPIC):
            self.add_error("kind", f"{known.title} speaks {Wire(known.wire).label}, unless you give a base URL.")
        self._check_key(data, base_url)
        return data

    def _check_key(self, data: dict[str, Any], base_url: str | None) -> None:
        """A key goes to whom it was entered for: not to another's address, be it by mistake or to fish for it."""
        key, provider = data.get("key"), data.get("provider", "")
        if key and not base_url and (error := misdirected(provider, key) or key_form_error(provider, key)):
            self.add_error("key", error)
        if not key and self.instance.key_hint and {"provider", "base_url"} & set(self.changed_data):
            self.add_error("key", "The key was entered for another address: enter it again.")

    def save(self, commit: bool = True) -> Provider:
        if key := self.cleaned_data["key"]:
            self.instance.set_key(key)
        if key or "base_url" in self.changed_data:
            self.instance.checked_at, self.instance.error = None, ""
        provider: Provider = super().save(commit)
        return provider
