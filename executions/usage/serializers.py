"""Usage as the API shows it. Money is in US dollars, as a number."""

from datetime import UTC, date, datetime, time
from typing import Any

from rest_framework import serializers

from billing.periods import period_of
from flows.budget_serializers import (
    LlmUsageOfDaySerializer,
    LlmUsageOfFlowSerializer,
    LlmUsageOfModelSerializer,
    UsageQuerySerializer,
)

RUNS = "Executions accepted in the period, also those deleted since."
TOKENS = "Of models, in and out, also with keys of your own."


class UsageDashboardSerializer(serializers.Serializer[Any]):
    """What a user has used in the period that is under way: a subscriber's is that of the
    subscription, everybody else's the calendar month, in UTC."""

    period_start = serializers.DateTimeField()
    period_end = serializers.DateTimeField(help_text="From then on, the next period is counted.")
    runs_used = serializers.IntegerField(help_text=RUNS)
    runs_limit = serializers.IntegerField(help_text="-1: unlimited.")
    runs_percentage = serializers.FloatField(help_text="Of the limit; 0 where there is none.")
    tokens_used = serializers.IntegerField(help_text=TOKENS)
    estimated_overage = serializers.FloatField(help_text="US dollars, for the runs over the limit until now.")
    days_remaining = serializers.IntegerField(help_text="Of the period, with today.")
    by_model = LlmUsageOfModelSerializer(many=True, help_text="The calls of models: those that cost most.")
    by_flow = LlmUsageOfFlowSerializer(many=True, help_text="The flows whose calls of models cost most.")


class UsageOfPeriodSerializer(serializers.Serializer[Any]):
    """What a user has used in one period. Limits of past ones are not on record: theirs are null."""

    period_start = serializers.DateTimeField()
    period_end = serializers.DateTimeField()
    runs_used = serializers.IntegerField(help_text=RUNS)
    runs_limit = serializers.IntegerField(allow_null=True, help_text="-1: unlimited; null: the period is over.")
    runs_percentage = serializers.FloatField(allow_null=True, help_text="Of the limit; 0 where there is none.")
    tokens_used = serializers.IntegerField(help_text=TOKENS)
    cost = serializers.FloatField(
        allow_null=True, help_text="US dollars, of the calls of models; null where no price is known."
    )
    estimated_overage = serializers.FloatField(
        allow_null=True, help_text="US dollars, for the runs over the limit until now; null: the period is over."
    )


class UsageOfDaySerializer(LlmUsageOfDaySerializer):
    runs = serializers.IntegerField(help_text="Executions accepted on that day, also those deleted since.")


class DaysQuerySerializer(UsageQuerySerializer):
    """`from` and `to` of a query string; without them the period that is under way, up to today."""

    def first_day(self, last: date) -> date:
        now = self.context["now"]
        period = period_of(user=self.context["user"], now=min(now, datetime.combine(last, time.min, UTC)))
        return period.days[0]
