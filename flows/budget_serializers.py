"""Budgets of model calls and their usage, as the API shows and takes them. Money is in US dollars, as a number."""

from datetime import UTC, date
from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from billing.metering.usage import MOST_DAYS, MOST_ROWS
from billing.models import BudgetPeriod
from billing.models.budgets import LEAST_COST, LEAST_TOKENS, MOST_COST, MOST_TOKENS
from billing.models.usage import MONEY
from bloxserver.api.fields import IdField


# Of a `Decimal` bound the document would make a text.
@extend_schema_field({"type": "number", "minimum": float(LEAST_COST), "maximum": float(MOST_COST)})
class CostField(serializers.DecimalField):
    """Dollars a month: a number, or the text of one."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            **MONEY, min_value=LEAST_COST, max_value=MOST_COST, allow_null=True, coerce_to_string=False, **kwargs
        )


class LimitsSerializer(serializers.Serializer[Any]):
    """What a budget limits; null limits nothing, and one of the two has to."""

    monthly_cost = CostField(
        required=False,
        help_text="US dollars. Without `monthlyTokens` beside it, models whose price is not known are refused.",
    )
    monthly_tokens = serializers.IntegerField(
        required=False, allow_null=True, min_value=LEAST_TOKENS, max_value=MOST_TOKENS, help_text="In and out together."
    )


class CreateBudgetSerializer(LimitsSerializer):
    flow_id = IdField(required=False, allow_null=True, help_text="One flow's; null or left out: of all flows.")


class BudgetSerializer(serializers.Serializer[BudgetPeriod]):
    """A monthly limit, and what this month (UTC) has used of it."""

    id = serializers.UUIDField(source="budget.id")
    flow_id = serializers.UUIDField(source="budget.flow_id", allow_null=True, help_text="Null: of all flows.")
    flow_name = serializers.CharField(source="budget.flow_name", help_text="Empty: of all flows.")
    monthly_cost = serializers.FloatField(source="budget.monthly_cost", allow_null=True, help_text="US dollars.")
    monthly_tokens = serializers.IntegerField(source="budget.monthly_tokens", allow_null=True)
    spent_cost = serializers.FloatField(help_text="US dollars, without what `unpricedCalls` cost.")
    spent_tokens = serializers.IntegerField()
    reserved_cost = serializers.FloatField(help_text="What calls under way may come to, in US dollars.")
    reserved_tokens = serializers.IntegerField()
    unpriced_calls = serializers.IntegerField(help_text="Calls whose price is not known.")
    warned_at = serializers.DateTimeField(source="warned_at_80", allow_null=True, help_text="When 80 % were spent.")
    stopped_at = serializers.DateTimeField(source="stopped_at_100", allow_null=True, help_text="When it was used up.")
    period_start = serializers.DateTimeField(source="starts_at")
    resets_at = serializers.DateTimeField()
    created_at = serializers.DateTimeField(source="budget.created_at")
    updated_at = serializers.DateTimeField(source="budget.updated_at")


class UsageQuerySerializer(serializers.Serializer[Any]):
    """`from` and `to` of a query string; without them the month of `now` (in the context), up to today."""

    def get_fields(self) -> dict[str, serializers.Field]:
        return {name: serializers.DateField(required=False) for name in ("from", "to")}  # `from` is a keyword

    def validate(self, attrs: dict[str, date]) -> dict[str, date]:
        last = attrs.get("to") or self.context["now"].astimezone(UTC).date()
        first = attrs.get("from") or self.first_day(last)
        if not 0 <= (last - first).days < MOST_DAYS:
            raise serializers.ValidationError(
                {"from": [f"Must be a day up to {last} (`to`), and no more than {MOST_DAYS} days before it."]}
            )
        return {"first": first, "last": last}

    def first_day(self, last: date) -> date:
        return last.replace(day=1)


class LlmUsageSerializer(serializers.Serializer[Any]):
    calls = serializers.IntegerField(help_text="Answered by a provider or by the cache.")
    cached_calls = serializers.IntegerField(help_text="Of `calls`, those that the cache answered: they cost nothing.")
    unpriced_calls = serializers.IntegerField(help_text="Of `calls`, those whose price is not known.")
    tokens_in = serializers.IntegerField()
    tokens_out = serializers.IntegerField()
    cost = serializers.FloatField(
        allow_null=True, help_text="US dollars, without what `unpricedCalls` cost; null where no price is known."
    )


class LlmUsageOfModelSerializer(LlmUsageSerializer):
    provider = serializers.CharField()
    model = serializers.CharField()
    own_key = serializers.BooleanField(help_text="Asked with your own key: the provider bills you.")


class LlmUsageOfFlowSerializer(LlmUsageSerializer):
    flow_id = serializers.UUIDField(allow_null=True, help_text="Null: outside of flows.")
    flow_name = serializers.CharField(allow_null=True, help_text="Null where the flow is no more.")


class LlmUsageOfDaySerializer(LlmUsageSerializer):
    day = serializers.DateField()


class LlmUsageReportSerializer(serializers.Serializer[Any]):
    """What calls of models came to, by days in UTC."""

    def get_fields(self) -> dict[str, serializers.Field]:
        return {
            "from": serializers.DateField(source="first"),
            "to": serializers.DateField(source="last", help_text="Its calls are counted too."),
            **super().get_fields(),
        }

    totals = LlmUsageSerializer()
    by_model = LlmUsageOfModelSerializer(many=True, help_text=f"The {MOST_ROWS} that cost most.")
    more_models = serializers.IntegerField(help_text="How many more there are.")
    by_flow = LlmUsageOfFlowSerializer(many=True, help_text=f"The {MOST_ROWS} that cost most.")
    more_flows = serializers.IntegerField(help_text="How many more there are.")
    by_day = LlmUsageOfDaySerializer(many=True, help_text="Days without calls are left out.")
