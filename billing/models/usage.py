"""What calls of models came to, by day."""

from typing import Any, ClassVar
from uuid import UUID

from django.conf import settings
from django.db import models

from billing.querysets import LlmUsageQuerySet
from bloxserver.core.ids import new_id

MONEY_PLACES = 10  # a token of the cheapest models costs some hundred-millionths of a dollar
MONEY: dict[str, Any] = {"max_digits": 20, "decimal_places": MONEY_PLACES}
NO_FLOW = UUID(int=0)  # NULL would not do: to a unique constraint no two NULLs are equal


class LlmUsage(models.Model):
    """A user's calls of one model on one day (UTC), for one flow, at one provider, with own key or the platform's.

    Tokens and cost are of calls that a provider answered: a hit of the cache costs nothing. `cost` leaves out the calls
    whose price is not known, which `unpriced_calls` counts.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="llm_usage", db_index=False
    )
    day = models.DateField(help_text="In UTC.")
    flow_id = models.UUIDField("flow", default=NO_FLOW, help_text="Zeros for a call outside of flows.")
    model = models.CharField(max_length=200)
    provider = models.CharField(max_length=100)
    own_key = models.BooleanField(default=False, help_text="Asked with the user's own key.")
    calls = models.PositiveBigIntegerField(default=0)
    cached_calls = models.PositiveBigIntegerField(default=0, help_text="Of the calls, those that the cache answered.")
    unpriced_calls = models.PositiveBigIntegerField(
        default=0, help_text="Of the calls, those that a provider answered at a price that is not known."
    )
    tokens_in = models.PositiveBigIntegerField(default=0)
    tokens_out = models.PositiveBigIntegerField(default=0)
    cost = models.DecimalField(**MONEY, default=0, help_text="In US dollars, of the calls whose price is known.")

    objects: ClassVar[LlmUsageQuerySet] = LlmUsageQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        constraints = [
            # Calls add to the row of their day by it; it also finds a user's days for the report.
            models.UniqueConstraint(
                fields=["user", "day", "flow_id", "model", "provider", "own_key"], name="llmusage_one_a_day"
            )
        ]
        ordering = ["-day", "-id"]
        verbose_name = verbose_name_plural = "model usage"

    def __str__(self) -> str:
        return f"{self.model}, {self.day}"


class SettledCall(models.Model):
    """A call that has been counted: its primary key is what keeps it from being counted twice."""

    call_id = models.UUIDField(primary_key=True, editable=False)
    settled_at = models.DateTimeField()

    class Meta:
        indexes = [models.Index(fields=["settled_at"], name="settledcall_by_age")]  # what is old enough to forget

    def __str__(self) -> str:
        return str(self.call_id)
