from typing import Any

from django.utils import timezone
from drf_spectacular.utils import extend_schema, inline_serializer
from rest_framework import serializers
from rest_framework.generics import GenericAPIView
from rest_framework.permissions import SAFE_METHODS, AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.throttling import BaseThrottle
from rest_framework.views import APIView

from accounts.models import User
from billing.serializers import (
    ChangeSubscriptionSerializer,
    CheckoutSerializer,
    PortalSerializer,
    StripePageSerializer,
    SubscriptionSerializer,
)
from billing.stripe import changing, checkout, events
from billing.subscriptions import subscription_of
from bloxserver.api.schema import api_error
from bloxserver.api.throttling import TierThrottle, limiter

PAGES_PER_MINUTE = 10  # of a user: checkout, portal and changes of the subscription together
NOT_CONFIGURED = (
    "No key of Stripe's is set (billing_not_configured); Stripe is away, or does not have yet what is sold "
    "(billing_unavailable)."
)


class StripePageThrottle(BaseThrottle):
    """Each page, or change, takes several requests to Stripe, and a thread of the web meanwhile. To read takes none."""

    def allow_request(self, request: Request, view: Any) -> bool:
        if request.method in SAFE_METHODS:
            return True
        self.rate_limit = limiter().hit(f"stripe-pages/{_user(request).pk}", per_minute=PAGES_PER_MINUTE)
        if not self.rate_limit.allowed:
            http_request: Any = request._request
            http_request.rate_limit = self.rate_limit  # for the error's text and the middleware's headers
        return self.rate_limit.allowed

    def wait(self) -> float:
        return self.rate_limit.retry_after


@extend_schema(tags=["billing"])
class CheckoutView(GenericAPIView[Any]):
    pagination_class = None
    throttle_classes = [TierThrottle, StripePageThrottle]
    serializer_class = CheckoutSerializer

    @extend_schema(
        operation_id="createCheckout",
        responses={
            200: StripePageSerializer,
            409: api_error(
                "There is a subscription (already_subscribed), or none to be had of the tier (tier_not_sold)."
            ),
            503: api_error(NOT_CONFIGURED),
        },
    )
    def post(self, request: Request) -> Response:
        """A page of Stripe's on which you subscribe; the first time, 14 days are free. The tier is yours when Stripe has
        told the server, a moment after it sends you back."""
        serializer = self.get_serializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        url = checkout.open_checkout(user=_user(request), now=timezone.now(), **serializer.validated_data)
        return Response(StripePageSerializer({"url": url}).data)


@extend_schema(tags=["billing"])
class PortalView(GenericAPIView[Any]):
    pagination_class = None
    throttle_classes = [TierThrottle, StripePageThrottle]
    serializer_class = PortalSerializer

    @extend_schema(
        operation_id="createPortal",
        responses={
            200: StripePageSerializer,
            409: api_error("You have never been at the checkout (no_customer)."),
            503: api_error(NOT_CONFIGURED),
        },
    )
    def post(self, request: Request) -> Response:
        """A page of Stripe's on which you end your subscription, change how you pay, and find your invoices."""
        serializer = self.get_serializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        url = checkout.open_portal(user=_user(request), **serializer.validated_data)
        return Response(StripePageSerializer({"url": url}).data)


@extend_schema(tags=["billing"])
class SubscriptionView(GenericAPIView[Any]):
    pagination_class = None
    throttle_classes = [TierThrottle, StripePageThrottle]
    serializer_class = ChangeSubscriptionSerializer

    @extend_schema(operation_id="getSubscription", responses=SubscriptionSerializer)
    def get(self, request: Request) -> Response:
        """Your subscription as it is known here, without asking Stripe. Without one the status is `none`."""
        return Response(SubscriptionSerializer(subscription_of(_user(request))).data)

    @extend_schema(
        operation_id="changeSubscription",
        responses={
            200: SubscriptionSerializer,
            402: api_error("The difference could not be charged, and nothing has changed (payment_failed)."),
            409: api_error(
                "There is no subscription (no_subscription: use the checkout), none to be had of the tier, or yours has a "
                "price that is not known here (tier_not_sold), or there is something to pay first (payment_due); the tier is "
                "yours already without paying (tier_set_by_operator); or another change is under way (change_under_way)."
            ),
            503: api_error(NOT_CONFIGURED),
        },
    )
    def patch(self, request: Request) -> Response:
        """To a higher tier at once: the difference for the rest of the period is charged, in a trial nothing. To a lower one,
        and to free, at the period's end: nothing is paid back. The tier that you are on takes back what was to come at
        the period's end. Answers with the state that follows."""
        serializer = self.get_serializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        user = _user(request)
        changing.change_tier(user=user, now=timezone.now(), **serializer.validated_data)
        return Response(SubscriptionSerializer(subscription_of(user)).data)


class StripeWebhookView(APIView):
    """Stripe's events, with its signature over the raw body."""

    authentication_classes = []
    permission_classes = [AllowAny]
    throttle_classes = []  # Stripe sends bursts from few addresses; who cannot sign is refused cheaply

    @extend_schema(
        operation_id="stripe_webhook",
        summary="Stripe's signed events",
        tags=["webhooks"],
        request={"application/json": {"type": "object"}},
        responses={
            200: inline_serializer("StripeWebhookAnswer", {"status": serializers.ChoiceField(["stored", "repeated"])}),
            503: api_error("STRIPE_WEBHOOK_SECRET is not set, or a part of the server is away."),
        },
    )
    def post(self, request: Request) -> Response:
        signature = request.headers.get("Stripe-Signature", "")
        stored = events.receive(body=request._request.body, signature=signature, now=timezone.now())
        return Response({"status": "stored" if stored else "repeated"})


def _user(request: Request) -> User:
    """The permission has let nobody else through."""
    user = request.user
    assert isinstance(user, User)
    return user
