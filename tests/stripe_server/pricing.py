"""What a quantity costs at a price. Amounts are whole units of the currency's smallest coin, rounded half up.

Zero-decimal currencies (JPY) need nothing of their own: the yen is the smallest coin.
"""

from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal

from tests.stripe_server.world import Obj


@dataclass(frozen=True, slots=True)
class Charge:
    """One line's worth: of a tier, or of the whole quantity. `unit` is in smallest units, with decimals."""

    quantity: int
    unit: Decimal | None
    amount: int


def charges(price: Obj, quantity: int) -> list[Charge]:
    """What the quantity costs, a charge for each tier that it reaches into."""
    if price["billing_scheme"] == "per_unit":
        unit = Decimal(price["unit_amount_decimal"])
        return [Charge(quantity, unit, rounded(_packages(price, quantity) * unit))]
    if price["tiers_mode"] == "volume":
        return [_in_tier(_tier_of(price, quantity), quantity)]
    return _graduated(price, quantity)


def rounded(amount: Decimal) -> int:
    return int(amount.quantize(Decimal(1), ROUND_HALF_UP))


def total(price: Obj, quantity: int) -> int:
    return sum(charge.amount for charge in charges(price, quantity))


def _packages(price: Obj, quantity: int) -> int:
    if not (rule := price["transform_quantity"]):
        return quantity
    whole, rest = divmod(quantity, rule["divide_by"])
    return whole + 1 if rest and rule["round"] == "up" else whole


def _tier_of(price: Obj, quantity: int) -> Obj:
    return next(tier for tier in price["_tiers"] if tier["up_to"] is None or quantity <= tier["up_to"])


def _in_tier(tier: Obj, quantity: int) -> Charge:
    unit = Decimal(tier["unit_amount_decimal"] or 0)
    return Charge(quantity, unit, rounded(quantity * unit + Decimal(tier["flat_amount_decimal"] or 0)))


def _graduated(price: Obj, quantity: int) -> list[Charge]:
    found, below = [], 0
    for tier in price["_tiers"]:
        top = quantity if tier["up_to"] is None else min(quantity, tier["up_to"])
        found.append(_in_tier(tier, top - below))
        below = top
        if top == quantity:
            break
    return found
