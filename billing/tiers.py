"""The tiers and what each one brings: the table of the product, in code.

`None` means unlimited. Callers ask `billing.services.limits_of(user)`, never this table: an operator may have set single
limits of a user otherwise.
"""

from dataclasses import dataclass
from decimal import Decimal

from accounts.models import Tier


@dataclass(frozen=True, slots=True)
class Limits:
    flows: int
    runs_per_month: int | None
    refused_over_runs: bool  # True: 402 at the cap; False: the runs above it are billed
    concurrent_executions: int
    execution_seconds: int  # of work; parked time does not count
    triggers_per_flow: int
    history_days: int
    api_requests_per_minute: int
    webhook_wait_seconds: int
    priority: int  # claims take the lowest first
    llm_requests_per_minute: int  # these three are for the platform's models; a user's own key lifts them
    llm_tokens_per_minute: int
    llm_concurrent: int
    overage_price: Decimal = Decimal(0)  # in US dollars, of 1,000 runs over `runs_per_month`


TIERS: dict[str, Limits] = {
    Tier.FREE: Limits(
        1, 1_000, True, 2, 300, 5, 7, 120, 10, priority=3,
        llm_requests_per_minute=10, llm_tokens_per_minute=10_000, llm_concurrent=2,
    ),
    Tier.PRO: Limits(
        100, 100_000, False, 20, 3_600, 50, 30, 600, 30, priority=2,
        llm_requests_per_minute=60, llm_tokens_per_minute=100_000, llm_concurrent=10, overage_price=Decimal("0.50"),
    ),
    Tier.ENTERPRISE: Limits(
        1_000, None, False, 100, 21_600, 200, 365, 6_000, 60, priority=1,
        llm_requests_per_minute=300, llm_tokens_per_minute=500_000, llm_concurrent=50,
    ),
    Tier.HIGH_FREQUENCY: Limits(
        1_000, None, False, 500, 21_600, 200, 365, 60_000, 60, priority=0,
        llm_requests_per_minute=10_000, llm_tokens_per_minute=10_000_000, llm_concurrent=500,
    ),
}  # fmt: skip

MANY = 1_000_000_000  # fits every column and counter that a limit gets into


@dataclass(frozen=True, slots=True)
class Settable:
    """A limit that can be set for a single user: what it is called, and between which values, both included."""

    label: str
    least: int
    most: int
    may_be_unlimited: bool = False

    @property
    def range(self) -> str:
        unlimited = ", or nothing for unlimited" if self.may_be_unlimited else ""
        return f"{self.least:,} to {self.most:,}{unlimited}"


# By the names of `Limits`. The others are what a tier is: when it is refused, what it pays, who goes first.
SETTABLE: dict[str, Settable] = {
    "flows": Settable("flows", 0, MANY),
    "runs_per_month": Settable("runs a month", 0, MANY, may_be_unlimited=True),
    "concurrent_executions": Settable("executions at once", 1, 100_000),  # with none, what is accepted would never run
    "execution_seconds": Settable("seconds of work an execution", 1, 21_600),  # no flow can ask for more
    "triggers_per_flow": Settable("triggers a flow", 0, MANY),
    "history_days": Settable("history kept, days", 1, 36_500),
    "api_requests_per_minute": Settable("API requests a minute", 1, MANY),
    "webhook_wait_seconds": Settable("webhook wait, seconds", 0, 60),  # each holds a thread of web
    "llm_requests_per_minute": Settable("model requests a minute", 1, MANY),
    "llm_tokens_per_minute": Settable("model tokens a minute", 1, MANY),
    "llm_concurrent": Settable("model calls at once", 1, 100_000),
}
