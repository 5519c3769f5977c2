"""What a tenant, or one flow, may spend on models in a month."""

from datetime import date, datetime
from decimal import Decimal
from typing import ClassVar

from django.conf import settings
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q
from django.utils import timezone

from billing.models.usage import MONEY
from billing.months import month_resets_at, month_starts_at
from billing.querysets import BudgetNoticeQuerySet, BudgetPeriodQuerySet, BudgetQuerySet, BudgetReservationQuerySet
from bloxserver.core.ids import new_id
from bloxserver.core.outbox import Mail

LEAST_COST, MOST_COST = Decimal("0.01"), Decimal(1_000_000)
LEAST_TOKENS, MOST_TOKENS = 1, 10**15
ONE_EACH = "There is a budget for this already; change that one."


class Budget(models.Model):
    """A monthly limit in US dollars, in tokens, or in both. Without a flow it is for all of the user's calls."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="budgets")
    flow_id = models.UUIDField("flow", null=True, blank=True, editable=False, help_text="Empty: all flows.")
    flow_name = models.CharField(max_length=100, blank=True, editable=False)
    monthly_cost = models.DecimalField(
        "dollars a month",
        **MONEY,
        null=True,
        blank=True,
        validators=[MinValueValidator(LEAST_COST), MaxValueValidator(MOST_COST)],
        help_text="Alone, it refuses models whose price is not known: limit the tokens too to let them be asked.",
    )
    monthly_tokens = models.BigIntegerField(
        "tokens a month",
        null=True,
        blank=True,
        validators=[MinValueValidator(LEAST_TOKENS), MaxValueValidator(MOST_TOKENS)],
        help_text="In and out together.",
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    updated_at = models.DateTimeField(default=timezone.now, editable=False)

    objects: ClassVar[BudgetQuerySet] = BudgetQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        constraints = [
            # Both also find the budgets that a call counts on.
            models.UniqueConstraint(
                fields=["user", "flow_id"], name="budget_of_flow_unique", violation_error_message=ONE_EACH
            ),
            models.UniqueConstraint(
                fields=["user"],
                condition=Q(flow_id=None),
                name="budget_of_user_unique",
                violation_error_message=ONE_EACH,
            ),
            models.CheckConstraint(
                condition=Q(monthly_cost__isnull=False) | Q(monthly_tokens__isnull=False),
                name="budget_has_limit",
                violation_error_message="A budget limits dollars, tokens or both.",
            ),
        ]
        ordering = ["-id"]

    def __str__(self) -> str:
        return f'of the flow "{self.flow_name}"' if self.flow_id else "of all flows"

    def period_of(self, month: date) -> "BudgetPeriod":
        """The month's row as `with_period` has fetched it, or where nothing was asked yet, an unsaved one."""
        of_month: list[BudgetPeriod] = self.of_month  # type: ignore[attr-defined]
        period = of_month[0] if of_month else BudgetPeriod(period_start=month)
        period.budget = self
        return period


class BudgetPeriod(models.Model):
    """What has been spent of a budget in one month (UTC), and what calls under way may still cost.

    Its row is the lock under which budgets are spent: its reservations and notices change under it alone.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    budget = models.ForeignKey(Budget, on_delete=models.CASCADE, related_name="periods", db_index=False)
    period_start = models.DateField(help_text="The first day of the month.")
    spent_cost = models.DecimalField(**MONEY, default=0, help_text="In US dollars.")
    spent_tokens = models.PositiveBigIntegerField(default=0)
    reserved_cost = models.DecimalField(**MONEY, default=0, help_text="In US dollars, by calls under way.")
    reserved_tokens = models.PositiveBigIntegerField(default=0)
    unpriced_calls = models.PositiveBigIntegerField(
        default=0, help_text="Calls that the dollars spent leave out, because their price is not known."
    )
    warned_at_80 = models.DateTimeField("80 % passed at", null=True, blank=True)
    stopped_at_100 = models.DateTimeField("used up at", null=True, blank=True)

    objects: ClassVar[BudgetPeriodQuerySet] = BudgetPeriodQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        constraints = [models.UniqueConstraint(fields=["budget", "period_start"], name="budgetperiod_one_a_month")]
        ordering = ["-period_start"]

    def __str__(self) -> str:
        return f"{self.period_start:%B %Y}"

    @property
    def starts_at(self) -> datetime:
        return month_starts_at(self.period_start)

    @property
    def resets_at(self) -> datetime:
        return month_resets_at(self.period_start)


class BudgetReservation(models.Model):
    """What a call under way may cost at most, on one of the budgets that it counts on.

    One that expires before anybody says what came of the call counts as spent and stays as `lapsed` for some days: an
    answer that comes after all puts the real figures in its place.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    period = models.ForeignKey(BudgetPeriod, on_delete=models.CASCADE, related_name="reservations")
    call_id = models.UUIDField()
    cost = models.DecimalField(**MONEY, null=True, help_text="In US dollars; empty where the price is not known.")
    tokens = models.PositiveBigIntegerField()
    expires_at = models.DateTimeField()
    lapsed = models.BooleanField(default=False)

    objects: ClassVar[BudgetReservationQuerySet] = BudgetReservationQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        constraints = [
            # Finds a call's reservations, and keeps a call from reserving twice.
            models.UniqueConstraint(fields=["call_id", "period"], name="budgetreservation_once_a_call")
        ]
        indexes = [models.Index(fields=["lapsed", "expires_at"], name="budgetreservation_expired")]  # the clock's look

    def __str__(self) -> str:
        return str(self.call_id)


class Percent(models.IntegerChoices):
    """Of a budget, what its owner is told of."""

    WARNING = 80
    STOP = 100


class BudgetNotice(Mail):
    """A mail that tells a budget's owner what is spent."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    period = models.ForeignKey(BudgetPeriod, on_delete=models.CASCADE, related_name="notices")
    percent = models.PositiveSmallIntegerField(choices=Percent.choices)

    objects: ClassVar[BudgetNoticeQuerySet] = BudgetNoticeQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(percent__in=Percent.values), name="budgetnotice_percent_known"),
        ]
        indexes = [models.Index(fields=["due_at"], name="budgetnotice_due", condition=Q(due_at__isnull=False))]
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"{self.percent} % of the budget {self.period.budget}"
