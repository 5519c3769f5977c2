"""The vocabulary of filters over budgets and usage. They compose and never write."""

from datetime import date, datetime
from typing import TYPE_CHECKING, Self
from uuid import UUID

from django.apps import apps
from django.db import models
from django.db.models import Prefetch, Q

if TYPE_CHECKING:
    from accounts.models import User
    from billing.models import (  # noqa: F401 - in strings
        BillingMail,
        Budget,
        BudgetNotice,
        BudgetPeriod,
        BudgetReservation,
        FlowCapReview,
        LlmUsage,
        OverageReport,
        RunNotice,
        StripeEvent,
        Subscription,
        SubscriptionPeriod,
    )


class BudgetQuerySet(models.QuerySet["Budget"]):
    def for_user(self, user: "User") -> Self:
        """The one guarded door to a tenant's budgets."""
        return self.filter(user=user)

    def applying_to(self, *, user_id: UUID, flow_id: UUID | None) -> Self:
        """Those that a call counts on: the tenant's, and the flow's where it is made for one."""
        return self.filter(Q(flow_id=None) | Q(flow_id=flow_id), user_id=user_id)

    def with_period(self, month: date) -> Self:
        """Each with `of_month`: its row of that month in a list, which is empty where nothing was asked yet."""
        periods = apps.get_model("billing", "BudgetPeriod")._default_manager.filter(period_start=month)
        return self.prefetch_related(Prefetch("periods", periods, to_attr="of_month"))


class BudgetPeriodQuerySet(models.QuerySet["BudgetPeriod"]):
    def locked(self, *, skip_locked: bool = False) -> Self:
        """Each with its budget. In the order of keys: whoever spends on several locks them in the same order."""
        return self.select_related("budget").order_by("pk").select_for_update(of=("self",), skip_locked=skip_locked)


class BudgetReservationQuerySet(models.QuerySet["BudgetReservation"]):
    def expired(self, now: datetime) -> Self:
        """Those of which nobody has said what came of the call, and that still count as reserved."""
        return self.filter(lapsed=False, expires_at__lte=now)


class BudgetNoticeQuerySet(models.QuerySet["BudgetNotice"]):
    def due(self, now: datetime) -> Self:
        return self.filter(due_at__lte=now)


class RunNoticeQuerySet(models.QuerySet["RunNotice"]):
    def due(self, now: datetime) -> Self:
        return self.filter(due_at__lte=now)


class LlmUsageQuerySet(models.QuerySet["LlmUsage"]):
    def for_user(self, user: "User") -> Self:
        """The one guarded door to a tenant's usage."""
        return self.filter(user=user)

    def between(self, first: date, last: date) -> Self:
        """Of these days and those between them."""
        return self.filter(day__gte=first, day__lte=last)


class SubscriptionQuerySet(models.QuerySet["Subscription"]):
    def for_user(self, user: "User") -> Self:
        """The one guarded door to a tenant's subscriptions."""
        return self.filter(user=user)

    def live(self) -> Self:
        """Those that have not ended: they may be paid, or be paid again."""
        return self.exclude(status__in=["canceled", "incomplete_expired"])

    def ended(self) -> Self:
        return self.filter(status__in=["canceled", "incomplete_expired"])


class SubscriptionPeriodQuerySet(models.QuerySet["SubscriptionPeriod"]):
    def due(self, now: datetime) -> Self:
        return self.filter(count_due_at__lte=now)


class StripeEventQuerySet(models.QuerySet["StripeEvent"]):
    def due(self, now: datetime) -> Self:
        return self.filter(due_at__lte=now)

    def given_up(self) -> Self:
        """Those that have failed as often as they are tried: only an operator has them tried again."""
        return self.filter(handled_at=None, due_at=None)


class OverageReportQuerySet(models.QuerySet["OverageReport"]):
    def due(self, now: datetime) -> Self:
        return self.filter(due_at__lte=now)


class BillingMailQuerySet(models.QuerySet["BillingMail"]):
    def due(self, now: datetime) -> Self:
        return self.filter(due_at__lte=now)


class FlowCapReviewQuerySet(models.QuerySet["FlowCapReview"]):
    def due(self, now: datetime) -> Self:
        return self.filter(due_at__lte=now)
