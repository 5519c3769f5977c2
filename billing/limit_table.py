"""All limits of one user, and where each comes from: for operators."""

from dataclasses import dataclass, fields
from datetime import datetime
from decimal import Decimal

from accounts.models import User
from billing.models import LimitOverride
from billing.tiers import SETTABLE, TIERS, Limits

# What a tier is, and nobody sets for one user.
OF_TIER = {
    "refused_over_runs": "refused over its runs",
    "priority": "priority, the lowest first",
    "overage_price": "price of 1,000 runs over",
}


@dataclass(frozen=True, slots=True)
class LimitRow:
    """One limit, as texts. `override` is "" where there is none, and stays when it has expired."""

    name: str
    label: str
    of_tier: str
    effective: str
    override: str = ""
    expires_at: datetime | None = None
    has_expired: bool = False


def limit_table(user: User, *, now: datetime) -> list[LimitRow]:
    """One for each field of `Limits`, read from the database: other processes go by it within seconds."""
    overrides = {row.limit: row for row in LimitOverride.objects.filter(user=user)}
    tier = TIERS[user.tier]
    return [_row(field.name, tier, overrides.get(field.name), now) for field in fields(Limits)]


def _row(name: str, tier: Limits, override: LimitOverride | None, now: datetime) -> LimitRow:
    label = SETTABLE[name].label if name in SETTABLE else OF_TIER[name]
    of_tier = _text(getattr(tier, name))
    if override is None:
        return LimitRow(name, label, of_tier, of_tier)
    value, is_active = _text(override.value), override.is_active(now)
    return LimitRow(
        name, label, of_tier, value if is_active else of_tier, value, override.expires_at, has_expired=not is_active
    )


def _text(value: int | bool | Decimal | None) -> str:
    match value:
        case None:
            return "unlimited"
        case bool():
            return "yes" if value else "no"
        case Decimal():
            return f"${value:,.2f}" if value else "-"
        case _:
            return f"{value:,}"
