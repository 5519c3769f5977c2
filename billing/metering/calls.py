"""A call as its meter sees it: plain values."""

from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from uuid import UUID

from billing.models.usage import MONEY_PLACES

SMALLEST = Decimal(1).scaleb(-MONEY_PLACES)
ZERO = Decimal(0)


def dollars(value: Decimal) -> Decimal:
    """As it is stored. Rounded up, so that many small calls do not pass a budget by what rounding leaves out."""
    return value.quantize(SMALLEST, ROUND_CEILING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What a call may come to at most. Of `tokens` and `cost` (US dollars, None: unknown), `tokens_out` and `cost_out`
    are the answer's, which can be bounded."""

    tokens: int
    cost: Decimal | None
    tokens_out: int = 0
    cost_out: Decimal = ZERO

    def bounded(self, tokens_out: int) -> "Ask":
        """The same call with an answer of at most `tokens_out` tokens."""
        if tokens_out >= self.tokens_out:
            return self
        cost_out = dollars(self.cost_out * tokens_out / self.tokens_out)
        cost = None if self.cost is None else dollars(self.cost - self.cost_out + cost_out)
        tokens = self.tokens - self.tokens_out + tokens_out
        return Ask(tokens=tokens, cost=cost, tokens_out=tokens_out, cost_out=cost_out)


@dataclass(frozen=True, slots=True)
class Reservation:
    """What is set aside for a call. `max_tokens_out`: to what its answer must be bounded, None where it was not asked to
    be any shorter."""

    call_id: UUID
    tokens: int
    cost: Decimal | None
    max_tokens_out: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MeteredCall:
    """What a call came to. `cost` is in US dollars, None where the price is not known; of an answer from the cache
    neither tokens nor cost are counted. `lost_tokens` and `lost_cost` are an estimate of what providers may charge that
    were asked before and gave no answer: budgets count them, the usage does not."""

    call_id: UUID
    user_id: UUID
    flow_id: UUID | None
    model: str
    provider: str
    tokens_in: int
    tokens_out: int
    cost: Decimal | None
    own_key: bool = False
    cached: bool = False
    lost_tokens: int = 0
    lost_cost: Decimal = ZERO


@dataclass(frozen=True, slots=True)
class Passed:
    """A budget of which 80 or 100 `percent` are spent now, and were not before."""

    budget_id: UUID
    percent: int
