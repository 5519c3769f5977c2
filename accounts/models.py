"""Users, who come from Clerk or are made by an operator, and their personal access tokens."""

from typing import Any, ClassVar

from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.contrib.auth.models import PermissionsMixin
from django.core.validators import URLValidator
from django.db import models
from django.db.models.functions import Lower
from django.utils import timezone

from accounts.querysets import AccessTokenQuerySet
from bloxserver.core.ids import new_id

WEB_ADDRESS = URLValidator(schemes=["http", "https"])  # a page shows the avatar: no javascript:, no ftp:


class Tier(models.TextChoices):
    """What a user pays for; `billing.tiers` says what each one brings."""

    FREE = "free"
    PRO = "pro"
    ENTERPRISE = "enterprise"
    HIGH_FREQUENCY = "high_frequency"


class UserManager(BaseUserManager["User"]):
    def create_user(self, email: str, password: str | None = None, **fields: Any) -> "User":
        user = self.model(email=self.normalize_email(email), **fields)
        user.set_password(password)
        user.save(using=self._db)
        return user

    def create_superuser(self, email: str, password: str | None = None, **fields: Any) -> "User":
        return self.create_user(email, password, is_staff=True, is_superuser=True, **fields)

    def get_by_natural_key(self, username: str | None) -> "User":
        return self.get(email__iexact=username)


class User(AbstractBaseUser, PermissionsMixin):
    """A tenant: everything that is stored belongs to one user."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    clerk_subject = models.CharField(
        "Clerk id",
        max_length=255,
        null=True,
        blank=True,
        unique=True,
        help_text="Clerk's user id; empty for a local user.",
    )
    email = models.EmailField(max_length=254)
    name = models.CharField(max_length=255, null=True, blank=True)
    avatar_url = models.CharField(max_length=2000, null=True, blank=True, validators=[WEB_ADDRESS])
    tier = models.CharField(max_length=20, choices=Tier.choices, default=Tier.FREE)
    is_active = models.BooleanField(
        default=True, help_text="Off: no request is answered and no flow of theirs is fired."
    )
    is_staff = models.BooleanField("operator", default=False, help_text="May sign in to this admin.")
    share_prompts_with_operators = models.BooleanField(
        default=False,
        db_default=False,
        help_text="Operators may read in this admin what the user's flows tell models, and what comes of it.",
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    clerk_updated_at = models.DateTimeField(
        null=True,
        blank=True,
        editable=False,
        help_text="The moment of the newest Clerk event seen: older ones change nothing.",
    )
    deleted_at = models.DateTimeField(
        null=True,
        blank=True,
        editable=False,
        help_text="When Clerk deleted this subject. The row stays as a tombstone.",
    )

    objects: ClassVar[UserManager] = UserManager()

    USERNAME_FIELD = "email"
    EMAIL_FIELD = "email"
    REQUIRED_FIELDS: ClassVar[list[str]] = []

    class Meta:
        constraints = [
            # Sign-in and `dev:<email>` find a user by address whatever its case; two users never share one.
            models.UniqueConstraint(
                Lower("email"),
                name="user_email_unique",
                violation_error_message="A user with this e-mail address exists.",
            ),
            models.CheckConstraint(condition=models.Q(tier__in=Tier.values), name="user_tier_known"),
        ]
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return self.email

    @property
    def clerk_id(self) -> str:
        """Clerk's id, or `local_<id>` for a user whom Clerk does not know."""
        return self.clerk_subject or f"local_{self.id}"


class Scope(models.TextChoices):
    READ = "read"
    WRITE = "write"


class AccessToken(models.Model):
    """A personal access token (`blox_...`): shown once, stored as a SHA-256."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="access_tokens")
    name = models.CharField(max_length=100)
    hint = models.CharField(max_length=16, help_text="The last four characters, to tell tokens apart.")
    token_hash = models.CharField(max_length=64, unique=True, editable=False)  # found by this at each request
    scopes = models.JSONField(default=list)
    expires_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    objects = AccessTokenQuerySet.as_manager()

    class Meta:
        indexes = [models.Index(fields=["user", "-created_at"], name="accesstoken_by_user")]  # GET /access-tokens

    def __str__(self) -> str:
        return f"{self.name} (...{self.hint})"
