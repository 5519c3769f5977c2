"""What operators can do to a customer's subscription: each is done at Stripe, and leaves an entry in the history."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils import timezone

from accounts.models import Tier, User
from billing.admin.customer_page import subscription_pill, why_no_actions
from billing.models import Customer, StripeCustomer, Subscription
from billing.stripe.services import cancel_subscription, sync_customer
from bloxserver.core.admin import ButtonsAdmin, tell
from bloxserver.core.errors import DomainError


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked before something is done, and what the history says when it is."""

    action: str
    title: str
    consequences: tuple[str, ...]
    done: str


AT_PERIOD_END = Question(
    action="cancel_at_period_end",
    title="Cancel at the period's end",
    consequences=(
        "Stripe ends the subscription at the end of what is paid for, or of the trial: the moment that is shown above.",
        "Until then the tier stays, and so does what is charged for runs over the limit.",
        "Then the customer is on Free, unless an operator has set a higher tier than it brings: flows over its limit are "
        "stopped, none is deleted.",
        "The customer gets a mail now, and another at the end.",
        "A change to a lower tier that was to come before is dropped.",
        "Until the end the customer can take it back, and so can you in Stripe's dashboard.",
    ),
    done="Had the subscription end at the period's end",
)
NOW = Question(
    action="cancel_now",
    title="Cancel now",
    consequences=(
        "Stripe ends the subscription at once. This cannot be taken back: the customer would have to subscribe again.",
        "Nothing is paid back for the rest of the period: a refund is made in Stripe's dashboard.",
        "Runs over the limit until now are on a last invoice, which is charged at once.",
        "The customer is on Free, unless an operator has set a higher tier than it brings: flows over its limit are "
        "stopped within a minute, none is deleted.",
        "The customer gets a mail.",
    ),
    done="Ended the subscription at once",
)
READ_AGAIN = "read_again"
OF_STRIPE = (READ_AGAIN, AT_PERIOD_END.action, NOW.action)


class MoneyActions(ButtonsAdmin):
    """The actions `OF_STRIPE`: offered on the page of one customer, not for many at a time, since each waits for Stripe."""

    def buttons(self, obj: Any) -> list[str]:
        """What makes sense by what is known here; the services have Stripe's word on it."""
        if why_no_actions(StripeCustomer.objects.filter(user=obj).first()):
            return []
        live = list(Subscription.objects.for_user(obj).live())
        ends_anyway = all(subscription.cancel_at for subscription in live)
        return [READ_AGAIN, *([] if ends_anyway else [AT_PERIOD_END.action]), *([NOW.action] if live else [])]

    def get_action_choices(self, request: HttpRequest, *args: Any, **kwargs: Any) -> list[tuple[str, str]]:
        choices = super().get_action_choices(request, *args, **kwargs)
        if ACTION_CHECKBOX_NAME in request.POST:
            return choices
        return [choice for choice in choices if choice[0] not in OF_STRIPE]

    @admin.action(description="Read again from Stripe", permissions=["change"])
    def read_again(self, request: HttpRequest, customers: QuerySet[Customer]) -> None:
        self._each(
            request, customers, "Read again from Stripe", lambda user: sync_customer(user=user, now=timezone.now())
        )

    @admin.action(description=AT_PERIOD_END.title, permissions=["change"])
    def cancel_at_period_end(self, request: HttpRequest, customers: QuerySet[Customer]) -> HttpResponse | None:
        return self._asked(
            request, customers, AT_PERIOD_END, lambda user: cancel_subscription(user=user, now=timezone.now())
        )

    @admin.action(description=NOW.title, permissions=["change"])
    def cancel_now(self, request: HttpRequest, customers: QuerySet[Customer]) -> HttpResponse | None:
        return self._asked(
            request,
            customers,
            NOW,
            lambda user: cancel_subscription(user=user, at_period_end=False, now=timezone.now()),
        )

    def _asked(
        self, request: HttpRequest, customers: QuerySet[Customer], question: Question, act: Callable[[User], object]
    ) -> HttpResponse | None:
        if request.POST.get("confirm") == "yes":
            self._each(request, customers, question.done, act)
            return None
        context = {
            **self.admin_site.each_context(request),
            "title": question.title,
            "opts": self.opts,
            "media": self.media,
            "question": question,
            "rows": [(customer, _live(customer)) for customer in customers],
            "checkbox": ACTION_CHECKBOX_NAME,
            "from_page": "_from_page" in request.POST,
        }
        return TemplateResponse(request, "admin/billing/customer/confirm.html", context)

    def _each(
        self, request: HttpRequest, customers: QuerySet[Customer], done: str, act: Callable[[User], object]
    ) -> None:
        """An attempt that failed is noted too: what Stripe was told before the connection broke, it has done."""
        said = []
        for customer in customers:
            try:
                act(customer)
            except DomainError as error:
                text, level = f"{done}: it failed. {error.message}", messages.ERROR
            else:
                text, level = f"{done}: {_now(customer)}.", messages.SUCCESS
            self.log_change(request, customer, text)
            said.append((level, f"The customer {customer.email}: {text}"))
        tell(request, said)


def _live(customer: Customer) -> list[tuple[Subscription, str, str]]:
    """Each with how its status and its tier are shown."""
    rows = Subscription.objects.for_user(customer).live()
    return [(row, subscription_pill(row.status), Tier(row.tier).label) for row in rows]


def _now(customer: Customer) -> str:
    """How it stands, from the database: the customer was read before."""
    tier = Tier(User.objects.values_list("tier", flat=True).get(pk=customer.pk)).label
    is_missing = StripeCustomer.objects.filter(user=customer, missing_since__isnull=False).exists()
    on = f"Stripe does not know this customer; on {tier}" if is_missing else f"on {tier}"
    subscription = Subscription.objects.for_user(customer).first()
    if subscription is None:
        return f"{on}, no subscription"
    ends = f", ends {subscription.cancel_at:%Y-%m-%d %H:%M}" if subscription.cancel_at else ""
    return f"{on}, subscription {subscription.status}{ends}"
