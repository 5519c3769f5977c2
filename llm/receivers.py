"""What becomes of users' keys when an account is deleted."""

from typing import Any

from django.dispatch import receiver

from accounts.models import User
from accounts.signals import user_deleted
from llm.models import UserKey


@receiver(user_deleted)
def delete_keys(user: User, **_: Any) -> None:
    UserKey.objects.for_user(user).delete()
