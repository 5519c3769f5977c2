"""The vocabulary of filters over access tokens. They compose and never write."""

from datetime import datetime
from typing import TYPE_CHECKING, Self

from django.db import models
from django.db.models import Q

if TYPE_CHECKING:
    from accounts.models import AccessToken, User  # noqa: F401


class AccessTokenQuerySet(models.QuerySet["AccessToken"]):
    def for_user(self, user: "User") -> Self:
        """The one guarded door to a user's tokens."""
        return self.filter(user=user)

    def unused_since(self, moment: datetime) -> Self:
        return self.filter(Q(last_used_at=None) | Q(last_used_at__lt=moment))
