"""The base of views over one tenant's rows."""

from typing import Any

from django.db.models import QuerySet
from rest_framework.viewsets import GenericViewSet


class TenantViewSet(GenericViewSet[Any]):
    """`get_queryset` starts at `for_user`, so that another tenant's id is a 404 like an unknown one.

    A view adds to `super().get_queryset()` and never starts from the model's manager.
    """

    def get_queryset(self) -> QuerySet[Any]:
        queryset: Any = super().get_queryset()
        if getattr(self, "swagger_fake_view", False):  # the schema is generated without a user
            return queryset.none()
        return queryset.for_user(self.request.user)
