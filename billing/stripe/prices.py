"""What is sold, by the lookup keys of Stripe's prices: an operator may change a price, never its key.

`stripe_setup` makes the pro tier's. A tier above it is sold too once there is a price under its key.
"""

from collections.abc import Mapping
from typing import Any

from accounts.models import Tier
from billing.stripe.client import client

CURRENCY = "usd"
METER_EVENT = "blox_runs_over_limit"
TIER_METADATA = "blox_tier"  # on a price: an old one, whose lookup key went over to the new, still says what it brings
SOLD = (Tier.PRO, Tier.ENTERPRISE, Tier.HIGH_FREQUENCY)


def monthly_key(tier: str) -> str:
    return f"blox_{tier}_monthly"


def overage_key(tier: str) -> str:
    return f"blox_{tier}_overage"


_TIERS = {monthly_key(tier): tier for tier in SOLD}


def tier_of_price(price: Mapping[str, Any]) -> Tier | None:
    """The tier that a price of Stripe's brings; None for one that is not of a tier, such as that of the overage."""
    tier = _TIERS.get(price.get("lookup_key") or "")
    named = (price.get("metadata") or {}).get(TIER_METADATA)
    return tier or (Tier(named) if named in SOLD else None)


def prices_of(tier: str) -> list[str]:
    """The ids of the active prices of a subscription to `tier`: the monthly one, and that of the overage where there is
    one. Empty where the tier is not sold."""
    keys = [monthly_key(tier), overage_key(tier)]
    listed = client().v1.prices.list({"lookup_keys": keys, "active": True, "limit": 10})
    found = {price.lookup_key: price.id for price in listed.data}
    return [found[key] for key in keys if key in found] if keys[0] in found else []
