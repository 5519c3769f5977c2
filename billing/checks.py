"""System checks: settings that name tiers, and those of Stripe. `manage.py check` and every start run them."""

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register

from billing.tiers import TIERS


@register("blox")
def check_worker_tiers(**kwargs: Any) -> list[CheckMessage]:
    return [
        Error(
            f'BLOX_WORKER_TIERS: there is no tier "{tier}".',
            hint=f"Name some of {', '.join(TIERS)}, or leave it empty for all.",
            id="blox.E007",
        )
        for tier in settings.BLOX_WORKER_TIERS
        if tier not in TIERS
    ]


@register("blox")
def check_stripe(**kwargs: Any) -> list[CheckMessage]:
    """A warning and no error: the command that makes the endpoint, and so the secret, has to start."""
    if not settings.STRIPE_API_KEY or settings.STRIPE_WEBHOOK_SECRET:
        return []
    return [
        Warning(
            "STRIPE_API_KEY is set without STRIPE_WEBHOOK_SECRET: who pays would not get what they pay for.",
            hint="`manage.py stripe_setup --webhook-url .../webhooks/stripe` makes the endpoint and shows its secret.",
            id="blox.W002",
        )
    ]
