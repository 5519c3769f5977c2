"""What a user has used, what it may not pass, and what it pays for."""

from billing.models.budgets import Budget, BudgetNotice, BudgetPeriod, BudgetReservation
from billing.models.notices import BillingMail, FlowCapReview, MailKind
from billing.models.overage import OverageReport
from billing.models.runs import DeletedRuns, RunBudget
from billing.models.stripe import (
    EventFlag,
    StripeCustomer,
    StripeEvent,
    Subscription,
    SubscriptionPeriod,
    SubscriptionStatus,
)
from billing.models.usage import LlmUsage, SettledCall

__all__ = [
    "BillingMail",
    "Budget",
    "BudgetNotice",
    "BudgetPeriod",
    "BudgetReservation",
    "DeletedRuns",
    "EventFlag",
    "FlowCapReview",
    "LlmUsage",
    "MailKind",
    "OverageReport",
    "RunBudget",
    "SettledCall",
    "StripeCustomer",
    "StripeEvent",
    "Subscription",
    "SubscriptionPeriod",
    "SubscriptionStatus",
]
