"""The vocabulary of filters over users' keys. They compose and never write."""

from datetime import datetime
from typing import TYPE_CHECKING, Self

from django.db import models
from django.db.models import Q

if TYPE_CHECKING:
    from accounts.models import User
    from llm.models import UserKey  # noqa: F401


class UserKeyQuerySet(models.QuerySet["UserKey"]):
    def for_user(self, user: "User") -> Self:
        """The one guarded door to a user's keys."""
        return self.filter(user=user)

    def valid(self) -> Self:
        return self.filter(is_valid=True)

    def unused_since(self, moment: datetime) -> Self:
        return self.filter(Q(last_used_at=None) | Q(last_used_at__lt=moment))

    def notice_due(self, now: datetime) -> Self:
        return self.filter(notice_due_at__lte=now)
