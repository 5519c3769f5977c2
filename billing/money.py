"""Amounts of money as Stripe counts them. Pure."""

from decimal import Decimal

# https://docs.stripe.com/currencies: what is counted in whole units, and in thousandths. ISK and UGX have no hundredths any
# more and are given in them all the same, as "special cases" there says (of UGX against its list of those without); so
# are HUF and TWD, which are paid out in whole units alone.
ZERO_DECIMAL = frozenset("bif clp djf gnf jpy kmf krw mga pyg rwf vnd vuv xaf xof xpf".split())
THREE_DECIMAL = frozenset("bhd jod kwd omr tnd".split())


def amount_text(amount: int, currency: str) -> str:
    """An amount in the currency's smallest unit, in the currency itself: 2900 of "usd" is "29.00", of "jpy" "2900"."""
    places = 0 if currency.lower() in ZERO_DECIMAL else 3 if currency.lower() in THREE_DECIMAL else 2
    return f"{Decimal(amount).scaleb(-places):.{places}f}"
