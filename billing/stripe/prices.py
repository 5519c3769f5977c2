"""What is sold, by the lookup keys of Stripe's prices: an operator may change a price, never its key.

`stripe_setup` makes the pro tier's. A tier above it is sold too once there is a price under its key.
"""

from collections.abc import Mapping
from typing import Any

from accounts.models import Tier
from billing.errors import BillingUnavailable, TierNotSold
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


def prices_of(tier: str) -> list[dict[str, Any]]:
    """The active prices of a subscription to `tier`: the monthly one, and that of the overage where there is one.

    Raises `TierNotSold`, and `BillingUnavailable` while the prices of what is always sold have not been made.
    """
    keys = [monthly_key(tier), overage_key(tier)]
    listed = client().v1.prices.list({"lookup_keys": keys, "active": True, "limit": 10})
    found = {price.lookup_key: price.to_dict() for price in listed.data}
    if keys[0] in found:
        return [found[key] for key in keys if key in found]
    if tier != Tier.PRO:
        raise TierNotSold(f"The tier {tier} is not sold here: ask the operator for it.")
    raise BillingUnavailable("Stripe has no price for it yet: the operator has to run `manage.py stripe_setup`.")
