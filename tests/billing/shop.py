"""A server that sells through a Stripe of its own on localhost, and those who buy there."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from io import StringIO
from typing import Any

from django.core.management import call_command
from pytest_django import Settings
from rest_framework.test import APIClient

from accounts.models import User
from billing.models import StripeCustomer, Subscription
from billing.stripe import services
from billing.stripe.client import client
from tests.conftest import api_as
from tests.openapi import CheckedClient
from tests.stripe_server import StripeServer

KEY = "sk_test_51BloxServerSecret"
CHECKOUT, PORTAL, WEBHOOK = "/api/v1/billing/checkout", "/api/v1/billing/portal", "/webhooks/stripe"


@dataclass
class Shop:
    stripe: StripeServer

    def checkout(self, api: APIClient, **body: Any) -> str:
        """The id of the session that the answer's page is of."""
        answer = api.post(CHECKOUT, {"tier": "pro", **body})
        assert answer.status_code == 200, answer.content
        session: str = answer.json()["url"].rpartition("/")[2]
        return session

    def subscribe(self, user: User) -> Subscription:
        """Through the checkout, with a card, on trial the first time; the events have been handled."""
        self.stripe.complete_checkout(self.checkout(api_as(user)))
        user.refresh_from_db()
        return Subscription.objects.filter(user=user).latest("created_at")

    def subscribe_unheard(self, user: User) -> None:
        """The same, with the events not handled; and without holding the answer against the document."""
        api = APIClient()
        api.credentials(HTTP_AUTHORIZATION=f"Bearer dev:{user.email}")
        self.stripe.complete_checkout(self.checkout(api))

    def sell(self, tier: str, cents: int = 99_900, *, currency: str = "usd") -> str:
        """The id of a monthly price, made as an operator would in the dashboard: the tier is sold from now on."""
        price = client().v1.prices.create(
            {
                "product": "blox_pro",
                "currency": currency,
                "unit_amount": cents,
                "recurring": {"interval": "month"},
                "lookup_key": f"blox_{tier}_monthly",
            }
        )
        return price.id

    def customer(self, user: User) -> str:
        return StripeCustomer.objects.get(user=user).stripe_id

    @property
    def now(self) -> datetime:
        return datetime.fromtimestamp(self.stripe.now, UTC)

    def paths(self) -> list[str]:
        return [f"{each.method} {each.path}" for each in self.stripe.log]


def receive(body: bytes, headers: dict[str, str]) -> int:
    """As the webhook's sender sees it, through the document's own check; and then the clock's turn."""
    status = post(body, headers["Stripe-Signature"]).status_code
    services.work()
    return status


def post(body: bytes | str, signature: str) -> Any:
    content: Any = body
    return CheckedClient().generic(
        "POST", WEBHOOK, content, "application/json", headers={"Stripe-Signature": signature}
    )


@contextmanager
def opened(settings: Settings, now: datetime | None = None) -> Iterator[Shop]:
    """With the prices made, and a clock that stands at `now`, by default the machine's, until a test moves it."""
    with StripeServer(now=now or datetime.now(UTC).replace(microsecond=0), webhook_url=receive) as server:
        sell(settings, url=server.url, secret=server.webhook_secret)
        yield Shop(server)


def sell(settings: Settings, *, url: str, secret: str) -> None:
    """Through the Stripe at `url`, with the prices made."""
    settings.STRIPE_API_KEY = KEY
    settings.STRIPE_API_BASE = url
    settings.STRIPE_WEBHOOK_SECRET = secret
    call_command("stripe_setup", stdout=StringIO())
