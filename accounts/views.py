from typing import Any

from django.conf import settings
from drf_spectacular.utils import extend_schema, extend_schema_view, inline_serializer
from rest_framework import mixins, serializers
from rest_framework.generics import GenericAPIView
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView
from standardwebhooks import Webhook, WebhookVerificationError
from standardwebhooks.webhooks import EmptyWebhookSecretError

from accounts import services
from accounts.errors import ClerkNotConfigured, InvalidSignature
from accounts.models import AccessToken, User
from accounts.serializers import AccessTokenSerializer, CreatedAccessTokenSerializer, UserSerializer
from bloxserver.api import strict_json
from bloxserver.api.errors import InvalidJSON
from bloxserver.api.schema import api_error
from bloxserver.api.views import TenantViewSet


@extend_schema(tags=["account"])
class MeView(mixins.RetrieveModelMixin, mixins.UpdateModelMixin, GenericAPIView[User]):
    serializer_class = UserSerializer

    def get_object(self) -> Any:
        return _user(self.request)

    @extend_schema(operation_id="get_me", summary="The signed-in user")
    def get(self, request: Request) -> Response:
        return self.retrieve(request)

    @extend_schema(operation_id="update_me", summary="Change name, avatar, or whether operators may read prompts")
    def patch(self, request: Request) -> Response:
        return self.partial_update(request)


@extend_schema_view(
    list=extend_schema(operation_id="list_access_tokens", summary="List access tokens"),
    retrieve=extend_schema(operation_id="get_access_token", summary="An access token"),
    create=extend_schema(
        operation_id="create_access_token", summary="Make an access token; its secret is in this answer only"
    ),
    destroy=extend_schema(operation_id="delete_access_token", summary="Revoke an access token"),
)
@extend_schema(tags=["account"])
class AccessTokenViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, mixins.DestroyModelMixin, TenantViewSet):
    queryset = AccessToken.objects.order_by("-created_at", "-pk")
    serializer_class = AccessTokenSerializer

    @extend_schema(request=AccessTokenSerializer, responses={201: CreatedAccessTokenSerializer})
    def create(self, request: Request) -> Response:
        serializer = self.get_serializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        token, secret = services.create_access_token(user=_user(request), **serializer.validated_data)
        return Response({**self.get_serializer(token).data, "token": secret}, status=201)


class ClerkWebhookView(APIView):
    """Clerk's user events, signed as Standard Webhooks or, by its elder name, Svix."""

    authentication_classes = []
    permission_classes = [AllowAny]
    throttle_classes = []  # Clerk sends bursts from few addresses; who cannot sign is refused cheaply

    @extend_schema(
        operation_id="clerk_webhook",
        summary="Clerk's signed user events",
        tags=["webhooks"],
        request={"application/json": {"type": "object"}},
        responses={
            200: inline_serializer("ClerkWebhookAnswer", {"status": serializers.ChoiceField(["applied", "ignored"])}),
            503: api_error("CLERK_WEBHOOK_SECRET is not set, or a part of the server is away."),
        },
    )
    def post(self, request: Request) -> Response:
        event = _verified(request)
        return Response({"status": "applied" if services.apply_clerk_event(event) else "ignored"})


def _user(request: Request) -> User:
    """The permission has let nobody else through."""
    user = request.user
    assert isinstance(user, User)
    return user


def _verified(request: Request) -> dict[str, Any]:
    """The event in the body, once its signature and time (within 5 minutes) are found good."""
    body = request._request.body
    headers = {
        f"webhook-{part}": request.headers.get(f"webhook-{part}") or request.headers.get(f"svix-{part}") or ""
        for part in ("id", "timestamp", "signature")
    }
    try:
        _clerk_webhook().verify(body, headers, json_parse=False)
    except (WebhookVerificationError, ValueError) as error:
        raise InvalidSignature("The webhook's signature is missing, wrong or older than five minutes.") from error
    try:
        event = strict_json.loads(body)
    except strict_json.StrictJSONError as error:
        raise InvalidJSON(f"The body is not acceptable JSON. {error.message}") from error
    if not isinstance(event, dict):
        raise InvalidJSON("The body must be a JSON object: {...}.")
    return event


def _clerk_webhook() -> Webhook:
    try:
        return Webhook(settings.CLERK_WEBHOOK_SECRET)
    except (EmptyWebhookSecretError, ValueError) as error:
        raise ClerkNotConfigured("CLERK_WEBHOOK_SECRET is not a secret of the form whsec_...") from error
