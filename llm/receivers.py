"""What becomes of users' keys, and of the answers that are kept for them, when an account is deleted."""

from typing import Any

from django.dispatch import receiver

from accounts.models import User
from accounts.signals import user_deleted
from llm import services
from llm.models import UserKey


@receiver(user_deleted)
def delete_keys(user: User, **_: Any) -> None:
    UserKey.objects.for_user(user).delete()


@receiver(user_deleted)
def forget_answers(user: User, **_: Any) -> None:
    services.forget_answers(user_id=user.pk)
