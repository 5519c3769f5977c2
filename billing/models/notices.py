"""What a change of a subscription leaves to be done: mails, and the look at running flows after a downgrade."""

from typing import ClassVar

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone

from accounts.models import Tier
from billing.querysets import BillingMailQuerySet, FlowCapReviewQuerySet
from bloxserver.core.ids import new_id
from bloxserver.core.outbox import Mail


class MailKind(models.TextChoices):
    TRIAL_STARTED = "trial_started"
    TRIAL_ENDING = "trial_ending"
    CONVERTED = "converted"
    PAYMENT_SUCCEEDED = "payment_succeeded"
    PAYMENT_FAILED_SOFT = "payment_failed_soft"
    PAYMENT_FAILED_WARNING = "payment_failed_warning"
    DOWNGRADED = "downgraded"
    CANCELED = "canceled"
    BACK_TO_FREE = "back_to_free"


class BillingMail(Mail):
    """A mail about a subscription, written with the change that it tells of. Not due either while it is not complete."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="billing_mails")
    kind = models.CharField(max_length=30, choices=MailKind.choices)
    context = models.JSONField(default=dict, blank=True, help_text="What its template says.")
    dedupe_key = models.CharField(max_length=300, unique=True)  # what is told twice is mailed once

    objects: ClassVar[BillingMailQuerySet] = BillingMailQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(kind__in=MailKind.values), name="billingmail_kind_known"),
            models.CheckConstraint(condition=Q(sent_at=None) | Q(due_at=None), name="billingmail_sent_is_not_due"),
        ]
        indexes = [models.Index(fields=["due_at"], name="billingmail_due", condition=Q(due_at__isnull=False))]
        ordering = ["-created_at", "-id"]

    def __str__(self) -> str:
        return f"{self.kind} to {self.user}"


class FlowCapReview(models.Model):
    """A user's tier has fallen, or a limit of the user's own: whoever knows flows is to stop those that are over the cap, and to
    complete `mail`."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="flow_cap_reviews")
    from_tier = models.CharField(
        max_length=20, choices=Tier.choices, blank=True, db_default="", help_text="Empty: the limit was the user's own."
    )
    mail = models.OneToOneField(BillingMail, on_delete=models.SET_NULL, null=True, blank=True, related_name="review")
    due_at = models.DateTimeField(null=True, blank=True, help_text="Of the next attempt; empty when done.")
    attempts = models.PositiveSmallIntegerField(default=0)
    done_at = models.DateTimeField(null=True, blank=True)
    stopped = models.JSONField(default=list, blank=True, help_text="The flows that were stopped: [{id, name}].")
    error = models.TextField(blank=True, help_text="Why the last attempt failed.")
    created_at = models.DateTimeField(default=timezone.now)

    objects: ClassVar[FlowCapReviewQuerySet] = FlowCapReviewQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(done_at=None) | Q(due_at=None), name="flowcapreview_done_is_not_due"),
            models.CheckConstraint(
                condition=Q(from_tier="") | Q(from_tier__in=Tier.values), name="flowcapreview_from_tier_known"
            ),
        ]
        indexes = [models.Index(fields=["due_at"], name="flowcapreview_due", condition=Q(due_at__isnull=False))]
        ordering = ["-created_at", "-id"]

    def __str__(self) -> str:
        return f"flows of {self.user}"
