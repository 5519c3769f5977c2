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


class BillingNotConfigured(DomainError):
    """The operator has set no key of Stripe's: nothing is sold here."""

    code = "billing_not_configured"
    status = 503


class BillingUnavailable(DomainError):
    """Stripe cannot be reached, or does not take what it is asked; the log says why."""

    code = "billing_unavailable"
    status = 503


class AlreadySubscribed(Conflict):
    code = "already_subscribed"


class NoCustomer(Conflict):
    """Nobody who has never been at the checkout has anything to manage at Stripe."""

    code = "no_customer"


class TierNotSold(Conflict):
    """There is no price for it at Stripe, or the user's subscription has one that is not known here: operators put users on
    it."""

    code = "tier_not_sold"


class NoSubscription(Conflict):
    """There is none to change: the checkout makes one."""

    code = "no_subscription"


class PaymentDue(Conflict):
    """The subscription is not paid for: that comes first."""

    code = "payment_due"


class PaymentFailed(DomainError):
    """What a change costs could not be charged, so nothing was changed."""

    code = "payment_failed"
    status = 402


class TierSetByOperator(Conflict):
    """Nobody is to pay for a tier that an operator has given them."""

    code = "tier_set_by_operator"


class ChangeUnderWay(Conflict):
    """Somebody is changing the user's subscription at this moment."""

    code = "change_under_way"


class InvalidSignature(DomainError):
    code = "invalid_signature"
    status = 400
