"""What a user has used, and what it may not pass."""

from billing.models.budgets import Budget, BudgetNotice, BudgetPeriod, BudgetReservation
from billing.models.customers import Customer
from billing.models.overrides import LimitOverride
from billing.models.runs import DeletedRuns, RunBudget, RunNotice
from billing.models.usage import LlmUsage, SettledCall

__all__ = [
    "Budget",
    "BudgetNotice",
    "BudgetPeriod",
    "BudgetReservation",
    "Customer",
    "DeletedRuns",
    "LimitOverride",
    "LlmUsage",
    "RunBudget",
    "RunNotice",
    "SettledCall",
]
