"""Lets a tenant subscribe, and be a customer for some weeks, at a Stripe on localhost."""

from datetime import UTC, datetime, timedelta

from tests.pages.sample import API, Tenant, wait_until
from tests.pages.server import Server
from tests.stripe_server import StripeServer

LEO = "leo@bakery.example"
DAYS = 40  # before today, on which Leo subscribes
KEY = "sk_test_pages"
RUNS = """
from accounts.models import User
from billing.models import DeletedRuns
from datetime import timedelta
from django.utils import timezone
user = User.objects.get(email="{email}")
midnight = timezone.now().replace(hour=0, minute=0, second=0, microsecond=0)
runs = [(5100 + 137 * (day * day % 23)) * (day % 7 > 1) + 310 * (day % 7 == 1) for day in range({days})]
DeletedRuns.objects.bulk_create(
    DeletedRuns(user=user, starts_at=midnight - timedelta(days=day, seconds=-1), runs=count)
    for day, count in enumerate(runs)
    if count
)
"""
TELL_OF_OVERAGE = """
from billing.stripe.services import work
from django.utils import timezone
from executions.overage import report_overage
report_overage(now=timezone.now())
work()
"""
WAIT = """
import time
from billing.models import StripeEvent
while not ({true}):
    time.sleep(0.2)
"""


def opened_shop() -> StripeServer:
    """A Stripe whose clock stands in the past, when the customer's life begins; not yet serving."""
    return StripeServer(now=datetime.now(UTC).replace(microsecond=0) - timedelta(days=DAYS))


def settings_of(stripe: StripeServer) -> dict[str, str]:
    """The environment of a server that sells through `stripe`."""
    return {
        "STRIPE_API_KEY": KEY,
        "STRIPE_API_BASE": stripe.url,
        "STRIPE_WEBHOOK_SECRET": stripe.webhook_secret,
    }


def subscribe_and_stay(server: Server, stripe: StripeServer) -> None:
    """Leo subscribes, pays after the trial and runs more than is included; the last event cannot be handled yet."""
    server.manage("stripe_setup")
    stripe.send_webhooks_to(f"{server.url}/webhooks/stripe")
    leo = Tenant(server.url, LEO)
    leo.send("GET", f"{API}/me")
    session = leo.send("POST", f"{API}/billing/checkout", {"tier": "pro"})["url"].rpartition("/")[2]
    stripe.complete_checkout(session, name="Leo")
    wait_until(lambda: leo.send("GET", f"{API}/me")["tier"] == "pro")
    server.manage("shell", "-c", RUNS.format(email=LEO, days=DAYS))
    stripe.advance_to(datetime.now(UTC))
    server.manage("shell", "-c", WAIT.format(true="not StripeEvent.objects.filter(handled_at=None)") + TELL_OF_OVERAGE)
    stripe.fail_next(2)
    stripe.add_card(stripe.objects("customer")[0]["id"])
    server.manage("shell", "-c", WAIT.format(true="StripeEvent.objects.exclude(error='')"))
