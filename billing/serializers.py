"""What the checkout, the portal and the subscription take and give."""

from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from rest_framework import serializers

from accounts.models import Tier
from billing.models.stripe import ENDED, SubscriptionStatus
from billing.stripe.prices import SOLD
from billing.subscriptions import NONE

MAX_URL = 2_000


class ReturnURLField(serializers.CharField):
    """A page of a front end that may call this API, so that nobody is sent from Stripe to a stranger's."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(max_length=MAX_URL, required=False, **kwargs)

    def to_internal_value(self, data: Any) -> str:
        url: str = super().to_internal_value(data)
        if not url.isprintable() or " " in url or "\\" in url or _origin(url) not in _allowed_origins():
            raise serializers.ValidationError("Must be a page under one of the origins that may call this API.")
        return url


def _origin(url: str) -> str | None:
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    return f"{parts.scheme}://{parts.netloc}".lower()


def _allowed_origins() -> set[str | None]:
    return {_origin(url) for url in (settings.BLOX_PUBLIC_URL, *settings.CORS_ALLOWED_ORIGINS)}


class CheckoutSerializer(serializers.Serializer[Any]):
    tier = serializers.ChoiceField(choices=[(tier.value, tier.label) for tier in Tier if tier in SOLD])
    success_url = ReturnURLField(help_text="Where the browser goes afterwards: an origin of CORS_ALLOWED_ORIGINS.")
    cancel_url = ReturnURLField(help_text="Where it goes when nothing was bought.")


class PortalSerializer(serializers.Serializer[Any]):
    return_url = ReturnURLField(help_text="Where the browser goes afterwards: an origin of CORS_ALLOWED_ORIGINS.")


class StripePageSerializer(serializers.Serializer[Any]):
    url = serializers.CharField(help_text="A page of Stripe's, for this user, for a while.")


class SubscriptionSerializer(serializers.Serializer[Any]):
    """A subscription as it was when Stripe was last asked."""

    status = serializers.ChoiceField(
        choices=[NONE, *(status.value for status in SubscriptionStatus if status not in ENDED)],
        help_text="Stripe's own, or none. On past_due, unpaid, incomplete and paused there is something to pay first.",
    )
    tier = serializers.ChoiceField(
        choices=Tier.choices, help_text="What the subscription pays for; without one, the account's tier."
    )
    pending_tier = serializers.ChoiceField(
        choices=Tier.choices, allow_null=True, help_text="What follows at periodEnd; null for no change."
    )
    period_start = serializers.DateTimeField(allow_null=True)
    period_end = serializers.DateTimeField(allow_null=True, help_text="Of what is paid for, or of the trial.")
    trial_ends_at = serializers.DateTimeField(allow_null=True, help_text="Also of a trial that is over.")
    cancel_at = serializers.DateTimeField(allow_null=True, help_text="When it ends, if nothing changes that.")
    failed_payments = serializers.IntegerField(min_value=0, help_text="Attempts at the invoice that is open.")


class ChangeSubscriptionSerializer(serializers.Serializer[Any]):
    tier = serializers.ChoiceField(choices=Tier.choices, help_text="free ends the subscription with its period.")
