"""What the views of this app have in common."""

from typing import Any, cast

from rest_framework.request import Request

from accounts.models import User


def user_of(request: Request) -> User:
    """Whoever is signed in: the permission class has let nobody else through."""
    return cast(User, request.user)


def checked(serializer_class: Any, data: Any, **context: Any) -> dict[str, Any]:
    """What the serializer makes of `data`. Raises DRF's `ValidationError`."""
    serializer = serializer_class(data=data, context=context)
    serializer.is_valid(raise_exception=True)
    validated: dict[str, Any] = serializer.validated_data
    return validated
