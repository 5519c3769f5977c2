"""Where Stripe's own pages for people are: the dashboard's, of test or live data as the server's key is."""

from urllib.parse import urlencode

from django.conf import settings

DASHBOARD = "https://dashboard.stripe.com"
OF_TESTS = ("sk_test_", "rk_test_")


def customer_page(stripe_id: str) -> str:
    return _page(f"customers/{stripe_id}")


def subscription_page(stripe_id: str) -> str:
    return _page(f"subscriptions/{stripe_id}")


def invoices_page(stripe_id: str) -> str:
    """All invoices of the customer `stripe_id`."""
    return _page(f"invoices?{urlencode({'customer': stripe_id})}")


def _page(path: str) -> str:
    return f"{DASHBOARD}{'/test' if settings.STRIPE_API_KEY.startswith(OF_TESTS) else ''}/{path}"
