"""What has to be at Stripe before anything can be sold: made once, found again by names that never change."""

from collections.abc import Iterator
from typing import Any

from accounts.models import Tier
from billing.stripe.client import client
from billing.stripe.events import HANDLED
from billing.stripe.prices import CURRENCY, METER_EVENT, TIER_METADATA, monthly_key, overage_key
from billing.tiers import TIERS

PRO_MONTHLY_CENTS = 2_900
PRODUCT, OVERAGE_PRODUCT = "blox_pro", "blox_pro_overage"
MADE_BY = {"made_by": "bloxserver"}
WORD = {True: "made", False: "there already"}


def set_up(*, webhook_url: str = "") -> Iterator[str]:
    """Make what is missing, and leave alone what is there; says what it has done, a line each. Raises the SDK's errors.

    With `webhook_url` also the webhook endpoint; a new one's line has its signing secret, which Stripe shows once.
    """
    meter, made = _meter()
    yield f"meter {METER_EVENT}: {WORD[made]}"
    for product, name in ((PRODUCT, "BloxServer Pro"), (OVERAGE_PRODUCT, "BloxServer Pro, runs over the limit")):
        yield f"product {product}: {WORD[_product(product, name)]}"
    for key, price in _prices(meter).items():
        yield f"price {key}: {WORD[_price(key, price)]}"
    yield f"portal configuration: {WORD[_portal()]}"
    if webhook_url:
        yield from _webhook(webhook_url)


def portal_configuration() -> str | None:
    """The id of the one that `set_up` made; without one Stripe takes the account's own."""
    listed = client().v1.billing_portal.configurations.list({"active": True, "limit": 100})
    for configuration in listed.data:
        if (configuration.to_dict().get("metadata") or {}).get("made_by") == MADE_BY["made_by"]:
            return configuration.id
    return None


def _meter() -> tuple[str, bool]:
    for meter in client().v1.billing.meters.list({"status": "active", "limit": 100}).auto_paging_iter():
        if meter.event_name == METER_EVENT:
            return meter.id, False
    made = client().v1.billing.meters.create(
        {
            "display_name": "Runs over the limit",
            "event_name": METER_EVENT,
            "default_aggregation": {"formula": "sum"},
            "customer_mapping": {"type": "by_id", "event_payload_key": "stripe_customer_id"},
            "value_settings": {"event_payload_key": "value"},
        }
    )
    return made.id, True


def _product(key: str, name: str) -> bool:
    """Products have ids of our choice, so a second one cannot come to be."""
    from stripe import InvalidRequestError

    try:
        client().v1.products.retrieve(key)
    except InvalidRequestError as error:
        if error.code != "resource_missing":
            raise
        client().v1.products.create({"id": key, "name": name, "metadata": MADE_BY})
        return True
    return False


def _prices(meter: str) -> dict[str, Any]:
    # In hundredths of a cent Stripe counts exactly: $0.50 for 1,000 are 0.05 cents for each.
    cents = TIERS[Tier.PRO].overage_price * 100 / 1_000
    return {
        monthly_key(Tier.PRO): {
            "product": PRODUCT,
            "unit_amount": PRO_MONTHLY_CENTS,
            "recurring": {"interval": "month"},
            "metadata": {TIER_METADATA: Tier.PRO.value, **MADE_BY},
        },
        overage_key(Tier.PRO): {
            "product": OVERAGE_PRODUCT,
            "unit_amount_decimal": cents.normalize(),
            "recurring": {"interval": "month", "usage_type": "metered", "meter": meter},
            "metadata": MADE_BY,
        },
    }


def _price(key: str, price: Any) -> bool:
    """A lookup key is of one price; one that an operator has made otherwise stays. An
    archived one may hold it still."""
    if client().v1.prices.list({"lookup_keys": [key], "active": True}).data:
        return False
    params: Any = {**price, "currency": CURRENCY, "lookup_key": key, "transfer_lookup_key": True}
    client().v1.prices.create(params)
    return True


def _portal() -> bool:
    if portal_configuration():
        return False
    client().v1.billing_portal.configurations.create(
        {
            "features": {
                "customer_update": {"enabled": True, "allowed_updates": ["email", "address", "name", "tax_id"]},
                "invoice_history": {"enabled": True},
                "payment_method_update": {"enabled": True},
                "subscription_cancel": {"enabled": True, "mode": "at_period_end"},
            },
            "metadata": MADE_BY,
        }
    )
    return True


def _webhook(url: str) -> Iterator[str]:
    events: Any = list(HANDLED)
    for endpoint in client().v1.webhook_endpoints.list({"limit": 100}).auto_paging_iter():
        if endpoint.url == url:
            missing = sorted(set(events) - set(endpoint.enabled_events))
            both: Any = sorted({*events, *endpoint.enabled_events})
            if missing and "*" not in endpoint.enabled_events:
                client().v1.webhook_endpoints.update(endpoint.id, {"enabled_events": both})
                yield f"webhook endpoint {url}: is told of {', '.join(missing)} too"
            else:
                yield f"webhook endpoint {url}: {WORD[False]}"
            return
    made = client().v1.webhook_endpoints.create({"url": url, "enabled_events": events, "api_version": _api_version()})
    yield f"webhook endpoint {url}: {WORD[True]}"
    yield f"STRIPE_WEBHOOK_SECRET={made.secret}"


def _api_version() -> Any:
    """That of the SDK, whatever the account's own is: events come in the shapes that this release knows."""
    import stripe

    return stripe.api_version
