"""What a user has used, and what it may not pass."""

from billing.models.budgets import Budget, BudgetNotice, BudgetPeriod, BudgetReservation
from billing.models.runs import DeletedRuns, RunBudget, RunNotice
from billing.models.usage import LlmUsage, SettledCall

__all__ = [
    "Budget",
    "BudgetNotice",
    "BudgetPeriod",
    "BudgetReservation",
    "DeletedRuns",
    "LlmUsage",
    "RunBudget",
    "RunNotice",
    "SettledCall",
]
