from bloxserver.core.errors import Conflict, DomainError


class UsageLimitExceeded(DomainError):
    """`details`: limit and used in runs, resetsAt as ISO 8601 UTC."""

    code = "usage_limit_exceeded"
    status = 402


class BudgetExceeded(DomainError):
    """A call of a model that would pass a budget.

    `temporary`: only calls under way stand in its way, so it may pass once they have come to less than they reserved.
    `details`: budgetId, limit, used and reserved (of dollars or tokens, whichever is short), unit, resetsAt.
    """

    code = "budget_exceeded"
    status = 402
    temporary = False


class BudgetExists(Conflict):
    code = "budget_exists"
