"""What a user has used, what it may not pass, and what it pays for."""

from billing.models.budgets import Budget, BudgetNotice, BudgetPeriod, BudgetReservation
from billing.models.customers import Customer
from billing.models.notices import BillingMail, FlowCapReview, MailKind
from billing.models.overage import OverageReport
from billing.models.overrides import LimitOverride
from billing.models.runs import DeletedRuns, RunBudget, RunNotice
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
    "Customer",
    "DeletedRuns",
    "EventFlag",
    "FlowCapReview",
    "LimitOverride",
    "LlmUsage",
    "MailKind",
    "OverageReport",
    "RunBudget",
    "RunNotice",
    "SettledCall",
    "StripeCustomer",
    "StripeEvent",
    "Subscription",
    "SubscriptionPeriod",
    "SubscriptionStatus",
]
