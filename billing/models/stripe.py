"""What is known here of what Stripe holds: customers, subscriptions and their periods, and the events it has told of.

Stripe is the truth. Each row is a copy of a read, and `StripeCustomer.ticket` says which read is the newest.
"""

from typing import Any, ClassVar

from django.conf import settings
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now
from django.utils import timezone

from accounts.models import Tier
from billing.querysets import StripeEventQuerySet, SubscriptionPeriodQuerySet, SubscriptionQuerySet
from bloxserver.core.ids import new_id

STRIPE_ID: dict[str, Any] = {"max_length": 255}


class StripeCustomer(models.Model):
    """Which of Stripe's customers a user is.

    A read of Stripe takes the next `ticket` before it asks, and is written only while no later one has been
    (`applied_ticket`): whoever asked later has seen at least as much.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    user = models.OneToOneField(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="stripe_customer")
    stripe_id = models.CharField(**STRIPE_ID, unique=True)
    email = models.CharField(max_length=320, blank=True, help_text="Where Stripe sends invoices.")
    ticket = models.PositiveBigIntegerField(default=0, editable=False)
    applied_ticket = models.PositiveBigIntegerField(default=0, editable=False)
    checkout_session = models.CharField(**STRIPE_ID, blank=True, help_text="The only one that may be open.")
    close_due_at = models.DateTimeField(
        null=True, blank=True, help_text="The account is closed: when its subscriptions are to be ended at Stripe."
    )
    close_error = models.TextField(blank=True)
    changing_until = models.DateTimeField(
        null=True,
        blank=True,
        editable=False,
        help_text="Until when one caller alone may change subscriptions at Stripe.",
    )
    synced_at = models.DateTimeField(null=True, blank=True)
    resync_due_at = models.DateTimeField(
        null=True,
        blank=True,
        default=None,
        db_default=Now(),  # those that were there before the column, or whom code that does not know it makes, are read once
        help_text="When Stripe is asked next if no event comes; empty where no subscription lives.",
    )
    missing_since = models.DateTimeField(
        null=True, blank=True, help_text="Since when Stripe says that it knows no such customer; empty where it does."
    )
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(applied_ticket__lte=F("ticket")), name="stripecustomer_ticket_taken"),
        ]
        indexes = [  # the clock's looks: for accounts to close, and for customers to read again
            models.Index(fields=["close_due_at"], name="stripecustomer_close", condition=Q(close_due_at__isnull=False)),
            models.Index(
                fields=["resync_due_at"], name="stripecustomer_resync", condition=Q(resync_due_at__isnull=False)
            ),
        ]
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return self.stripe_id


class SubscriptionStatus(models.TextChoices):
    """Stripe's own."""

    INCOMPLETE = "incomplete"
    INCOMPLETE_EXPIRED = "incomplete_expired"
    TRIALING = "trialing"
    ACTIVE = "active"
    PAST_DUE = "past_due"
    CANCELED = "canceled"
    UNPAID = "unpaid"
    PAUSED = "paused"


ENDED = (SubscriptionStatus.CANCELED, SubscriptionStatus.INCOMPLETE_EXPIRED)


class Subscription(models.Model):
    """A subscription as it was when Stripe was last asked."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="subscriptions")
    stripe_id = models.CharField(**STRIPE_ID, unique=True)
    status = models.CharField(max_length=20, choices=SubscriptionStatus.choices)
    tier = models.CharField(max_length=20, choices=Tier.choices, help_text="What its price brings.")
    price_lookup_key = models.CharField(max_length=200, blank=True)
    price_unknown = models.BooleanField(
        default=False,
        db_default=False,
        help_text="Its price is not known to bring a tier: it keeps the one that it brought last.",
    )
    period_start = models.DateTimeField(null=True, blank=True)
    period_end = models.DateTimeField(null=True, blank=True)
    trial_ends_at = models.DateTimeField(null=True, blank=True)
    cancel_at = models.DateTimeField(null=True, blank=True, help_text="When it ends, if nothing changes that.")
    canceled_at = models.DateTimeField(null=True, blank=True, help_text="When its end was asked for.")
    ended_at = models.DateTimeField(null=True, blank=True)
    pending_tier = models.CharField(
        max_length=20, choices=Tier.choices, blank=True, help_text="What follows at the period's end."
    )
    failed_payments = models.PositiveIntegerField(default=0, help_text="Attempts at the invoice that is open.")
    created_at = models.DateTimeField(default=timezone.now, help_text="At Stripe.")
    synced_at = models.DateTimeField(null=True, blank=True)

    objects: ClassVar[SubscriptionQuerySet] = SubscriptionQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(status__in=SubscriptionStatus.values), name="subscription_status_known"),
            models.CheckConstraint(condition=Q(tier__in=Tier.values), name="subscription_tier_known"),
            models.CheckConstraint(
                condition=Q(pending_tier="") | Q(pending_tier__in=Tier.values), name="subscription_pending_tier_known"
            ),
        ]
        ordering = ["-created_at", "-id"]

    def __str__(self) -> str:
        return f"{self.tier}, {self.status}"


class SubscriptionPeriod(models.Model):
    """One of a subscriber's periods of usage, and how far its overage has been counted."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="subscription_periods", db_index=False
    )
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField()
    tier = models.CharField(max_length=20, choices=Tier.choices)
    trial = models.BooleanField(default=False, help_text="Nothing is charged for what is used in it.")
    included_runs = models.PositiveBigIntegerField(
        null=True, blank=True, help_text="The most that were included at any time of it; empty: unlimited."
    )
    count_due_at = models.DateTimeField(
        null=True, blank=True, help_text="Of the next count of runs over the limit; empty after the last."
    )

    objects: ClassVar[SubscriptionPeriodQuerySet] = SubscriptionPeriodQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        constraints = [
            # Whoever syncs finds the row by it; it also finds the period of a moment.
            models.UniqueConstraint(fields=["user", "starts_at"], name="subscriptionperiod_one_a_start"),
            models.CheckConstraint(condition=Q(ends_at__gt=F("starts_at")), name="subscriptionperiod_ends_later"),
            models.CheckConstraint(condition=Q(tier__in=Tier.values), name="subscriptionperiod_tier_known"),
        ]
        indexes = [  # the clock's look for what is to be counted
            models.Index(
                fields=["count_due_at"], name="subscriptionperiod_due", condition=Q(count_due_at__isnull=False)
            )
        ]
        ordering = ["-starts_at", "-id"]

    def __str__(self) -> str:
        return f"{self.starts_at:%Y-%m-%d} to {self.ends_at:%Y-%m-%d}"


class EventFlag(models.TextChoices):
    """Why nothing came of an event."""

    UNKNOWN_CUSTOMER = "unknown_customer"
    DELETED_USER = "deleted_user"
    IGNORED = "ignored"  # of a type that nothing is done about


class StripeEvent(models.Model):
    """An event as Stripe told it: stored before anything is done about it, due while `due_at` is set.

    A claim counts the attempt and moves `due_at` on, so that what a dying process leaves undone is tried again.
    """

    id = models.CharField(max_length=255, primary_key=True, editable=False)  # Stripe's: a repeat finds itself stored
    type = models.CharField(max_length=100)
    customer = models.CharField(**STRIPE_ID, blank=True, help_text="Stripe's id of the customer whom it is about.")
    created = models.DateTimeField(help_text="At Stripe.")
    payload = models.TextField(help_text="The body as it came.")
    received_at = models.DateTimeField(default=timezone.now)
    due_at = models.DateTimeField(null=True, blank=True, help_text="Of the next attempt; empty when done or given up.")
    attempts = models.PositiveSmallIntegerField(default=0)
    handled_at = models.DateTimeField(null=True, blank=True)
    flag = models.CharField(max_length=30, choices=EventFlag.choices, blank=True)
    error = models.TextField(blank=True, help_text="Why the last attempt failed.")

    objects: ClassVar[StripeEventQuerySet] = StripeEventQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(handled_at=None) | Q(due_at=None), name="stripeevent_done_is_not_due"),
        ]
        indexes = [
            models.Index(fields=["due_at"], name="stripeevent_due", condition=Q(due_at__isnull=False)),
            models.Index(fields=["handled_at"], name="stripeevent_by_age"),  # what is old enough to forget
            models.Index(fields=["customer", "-received_at"], name="stripeevent_of_customer"),  # on the customer's page
        ]
        ordering = ["-received_at", "-id"]

    def __str__(self) -> str:
        return f"{self.type} {self.id}"

    @property
    def state(self) -> str:
        """`done`, `due`, `failing` (due again), `given up`, or the flag where nothing came of it."""
        if self.handled_at is not None:
            return self.get_flag_display().lower() if self.flag else "done"
        if self.due_at is None:
            return "given up"
        return "failing" if self.error else "due"
