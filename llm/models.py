"""Where models are asked: the operators' pool, and users' own keys. Every key is stored encrypted."""

from typing import Any, ClassVar
from urllib.parse import urlsplit

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import MinValueValidator, RegexValidator
from django.db import models
from django.utils import timezone

from billing.models import LlmUsage
from bloxserver.core.crypto import encrypt
from bloxserver.core.encrypted import EncryptedField
from bloxserver.core.ids import new_id
from llm.querysets import UserKeyQuerySet

PROVIDER_NAME = r"[a-z][a-z0-9_-]{0,62}"  # what stands before the colon of `provider:model`
PROVIDER_NAME_RULE = "A provider's name is a small letter, then small letters, digits, - and _: 63 characters at most."
HINT_CHARACTERS = 4  # of a key, to tell it from others
MAX_MODELS = 500
MAX_MODEL_CHARACTERS = 200


class Wire(models.TextChoices):
    """The format in which a provider is spoken to."""

    ANTHROPIC = "anthropic", "Anthropic messages"
    OPENAI = "openai", "OpenAI chat completions"
    OPENAI_RESPONSES = "openai-responses", "OpenAI responses"


def check_base_url(value: str) -> None:
    """Raises `ValidationError` for what is no http(s) URL. A host may be a single word, as a container's name is."""
    try:
        url = urlsplit(value)
        is_good = url.scheme in ("http", "https") and bool(url.hostname) and value.isprintable() and " " not in value
        is_good = is_good and (url.port is None or url.port > 0)
    except ValueError:
        is_good = False
    if not is_good:
        raise ValidationError("This is no URL: it begins with http:// or https:// and a host.")
    if url.username or url.password or url.query or url.fragment:
        raise ValidationError(
            "The URL must end with its path, and hold no key or password: those are stored encrypted."
        )


def check_model_names(value: Any) -> None:
    """Raises `ValidationError` for what is no list of models' names."""
    if not isinstance(value, list) or len(value) > MAX_MODELS:
        raise ValidationError(f"The models are a list of at most {MAX_MODELS} names.")
    for name in value:
        if not isinstance(name, str) or not 0 < len(name) <= MAX_MODEL_CHARACTERS or not name.isprintable():
            raise ValidationError(f"A model's name is a line of 1 to {MAX_MODEL_CHARACTERS} characters.")


class KeyMixin(models.Model):
    """A key that is kept encrypted, and its last characters in plain."""

    encrypted_key = EncryptedField(blank=True, default="")
    key_hint = models.CharField("key ends with", max_length=HINT_CHARACTERS, blank=True, default="", editable=False)

    class Meta:
        abstract = True

    def set_key(self, key: str) -> None:
        """Does not save."""
        self.encrypted_key = encrypt(key) if key else ""
        self.key_hint = key[-HINT_CHARACTERS:]


class Provider(KeyMixin):
    """A member of the operators' pool: a place that serves models, and how much it may be asked."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    name = models.CharField(max_length=100, unique=True, help_text="Yours, to tell members of the pool apart.")
    provider = models.CharField(
        max_length=63,
        validators=[RegexValidator(f"^{PROVIDER_NAME}\\Z", PROVIDER_NAME_RULE)],
        help_text="What flows write before the colon: anthropic, openai, xai, together, or a name of your own.",
    )
    kind = models.CharField("speaks", max_length=20, choices=Wire.choices, default=Wire.OPENAI)
    base_url = models.CharField(
        "base URL",
        max_length=500,
        blank=True,
        default="",
        validators=[check_base_url],
        help_text="Empty: the provider's own. A provider with a name of your own needs one, such as http://ollama:11434/v1.",
    )
    model_names = models.JSONField(
        "models",
        default=list,
        blank=True,
        validators=[check_model_names],
        help_text="The models that it serves, as the provider names them. Empty: all of the provider's.",
    )
    priority = models.IntegerField(default=0, help_text="The lowest is asked first.")
    weight = models.PositiveSmallIntegerField(
        default=1, validators=[MinValueValidator(1)], help_text="Its share of the calls among those of equal priority."
    )
    concurrency = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text="Calls at once, of all workers together. Empty: any number.",
    )
    is_on = models.BooleanField("on", default=True, help_text="Off: it is not asked, within seconds.")
    checked_at = models.DateTimeField(null=True, blank=True, editable=False)
    error = models.TextField("the check failed because", blank=True, default="", editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        constraints = [
            models.CheckConstraint(condition=models.Q(kind__in=Wire.values), name="provider_kind_known"),
            models.CheckConstraint(condition=models.Q(weight__gte=1), name="provider_weight_positive"),
            models.CheckConstraint(
                condition=models.Q(concurrency=None) | models.Q(concurrency__gte=1),
                name="provider_concurrency_positive",
            ),
            models.CheckConstraint(condition=~models.Q(provider=""), name="provider_is_named"),
        ]
        ordering = ["priority", "name"]

    def __str__(self) -> str:
        return self.name


class UserKey(KeyMixin):
    """A user's own key for a provider. It is never changed: who stores another one gets another row, with another id.

    So whoever found a key refused, or used it, speaks of that key alone, whatever has been stored since.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="api_keys")
    provider = models.CharField(max_length=63)
    is_valid = models.BooleanField("valid", default=True, help_text="Off: the provider has refused it.")
    error = models.TextField("refused because", blank=True, default="")
    checked_at = models.DateTimeField(help_text="When the provider was last heard to take or to refuse it.")
    last_used_at = models.DateTimeField(null=True, blank=True)
    notice_due_at = models.DateTimeField(
        "mail due at",
        null=True,
        blank=True,
        editable=False,
        help_text="When the mail that tells of the refusal is to be tried.",
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    objects: ClassVar[UserKeyQuerySet] = UserKeyQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        constraints = [
            # Also finds the keys of a user at each call of a model.
            models.UniqueConstraint(fields=["user", "provider"], name="userkey_one_a_provider"),
            models.CheckConstraint(condition=~models.Q(encrypted_key=""), name="userkey_has_key"),
            models.CheckConstraint(  # a refusal has its reason, and nobody is told of one that is none
                condition=models.Q(is_valid=True, error="", notice_due_at=None)
                | (models.Q(is_valid=False) & ~models.Q(error="")),
                name="userkey_refused_with_reason",
            ),
        ]
        indexes = [
            # The mails that are due.
            models.Index(
                fields=["notice_due_at"], name="userkey_notice_due", condition=models.Q(notice_due_at__isnull=False)
            ),
        ]
        ordering = ["provider"]
        verbose_name = "user's key"
        verbose_name_plural = "users' keys"

    def __str__(self) -> str:
        return f"{self.provider} (...{self.key_hint})"


class CacheUse(LlmUsage):
    """A user's calls on one day, and what the cache answered of them: the rows of a page of the admin."""

    class Meta:
        proxy = True
        verbose_name = verbose_name_plural = "model cache"
