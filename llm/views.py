"""`/api-keys`: a user's own keys for providers."""

from typing import Any

from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import mixins
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.models import User
from bloxserver.api.schema import api_error
from bloxserver.api.views import TenantViewSet
from llm import services
from llm.models import UserKey
from llm.serializers import AddApiKeySerializer, ApiKeyInfoSerializer

PROVIDER = [OpenApiParameter("provider", str, OpenApiParameter.PATH, description="As it was stored under.")]


class ApiKeyViewSet(mixins.ListModelMixin, TenantViewSet):
    queryset = UserKey.objects.order_by("provider")
    serializer_class = ApiKeyInfoSerializer
    lookup_field = "provider"

    @extend_schema(operation_id="listApiKeys")
    def list(self, request: Request) -> Response:
        """Your own keys, by provider. A key itself is never shown again."""
        return super().list(request)

    @extend_schema(
        operation_id="addApiKey",
        request=AddApiKeySerializer,
        responses={
            201: ApiKeyInfoSerializer,
            503: api_error("The provider cannot say now whether it takes the key; nothing is stored."),
        },
    )
    def create(self, request: Request) -> Response:
        """Store a key, or replace that provider's. The provider is asked first; what it refuses is not stored (400)."""
        serializer = AddApiKeySerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        data = serializer.validated_data
        key = services.add_key(user=_user(request), provider=data["provider"], key=data["api_key"], now=timezone.now())
        return Response(self.get_serializer(key).data, status=201)

    @extend_schema(operation_id="getApiKey", parameters=PROVIDER)
    def retrieve(self, request: Request, provider: str) -> Response:
        """Whether a key is stored for this provider, and whether it is still taken."""
        return Response(self.get_serializer(self.get_object()).data)

    @extend_schema(operation_id="deleteApiKey", parameters=PROVIDER, responses={204: None})
    def destroy(self, request: Request, provider: str) -> Response:
        """Models of this provider are asked for with the platform's key from now on, where it has one."""
        services.remove_key(key=self.get_object())
        return Response(status=204)


def _user(request: Any) -> User:
    """The permission has let nobody else through."""
    user = request.user
    assert isinstance(user, User)
    return user
