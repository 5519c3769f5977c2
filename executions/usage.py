"""`GET /usage`: here and not in billing, which has no executions to count."""

from datetime import timedelta
from typing import Any, cast

from django.db.models import Count, OuterRef, QuerySet, Subquery, Sum
from django.db.models.functions import Coalesce
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.models import User
from billing.models import DeletedRuns
from billing.periods import Period, period_of
from billing.runs import run_usage
from executions.models import Execution
from flows.budget_serializers import LlmUsageOfFlowSerializer, LlmUsageOfModelSerializer
from flows.requests import user_of
from flows.services import llm_report


class UsageDashboardSerializer(serializers.Serializer[Any]):
    """What a user has used in the period that is under way: a calendar month, in UTC."""

    period_start = serializers.DateTimeField()
    period_end = serializers.DateTimeField(help_text="From then on, the next period is counted.")
    runs_used = serializers.IntegerField(help_text="Executions accepted in the period, also those deleted since.")
    runs_limit = serializers.IntegerField(help_text="-1: unlimited.")
    runs_percentage = serializers.FloatField(help_text="Of the limit; 0 where there is none.")
    tokens_used = serializers.IntegerField(help_text="Of models, in and out, also with keys of your own.")
    estimated_overage = serializers.FloatField(help_text="US dollars, for the runs over the limit until now.")
    days_remaining = serializers.IntegerField(help_text="Of the period, with today.")
    by_model = LlmUsageOfModelSerializer(many=True, help_text="The calls of models: those that cost most.")
    by_flow = LlmUsageOfFlowSerializer(many=True, help_text="The flows whose calls of models cost most.")


class UsageView(GenericAPIView[Any]):
    pagination_class = None
    serializer_class = UsageDashboardSerializer

    @extend_schema(operation_id="getUsage")
    def get(self, request: Request) -> Response:
        """What you have used this month (UTC), beside what your tier allows. `/usage/llm` has the calls of models by day
        and of other months."""
        return Response(self.get_serializer(_dashboard(user_of(request))).data)


def _dashboard(user: User) -> dict[str, Any]:
    now = timezone.now()
    period = period_of(user=user, now=now)
    runs = runs_of(user, period)
    usage = run_usage(user=user, runs=runs, period=period, now=now)
    last_day = (period.ends_at - timedelta(microseconds=1)).date()
    llm = llm_report(owner=user, first=period.starts_at.date(), last=last_day)
    return {
        "period_start": period.starts_at,
        "period_end": period.ends_at,
        "runs_used": runs,
        "runs_limit": usage.limit,
        "runs_percentage": usage.percentage,
        "tokens_used": llm.totals["tokens_in"] + llm.totals["tokens_out"],
        "estimated_overage": usage.overage,
        "days_remaining": usage.days_remaining,
        "by_model": llm.by_model,
        "by_flow": llm.by_flow,
    }


def runs_of(user: User, period: Period) -> int:
    """How many executions of the user were accepted in the period: those that are there, and those deleted since.

    In one statement, so that none is missed or counted twice while it is being deleted.
    """
    kept = Execution.objects.filter(user=OuterRef("pk")).between(period.starts_at, period.ends_at)
    deleted = DeletedRuns.objects.filter(
        user=OuterRef("pk"), starts_at__gte=period.starts_at, starts_at__lt=period.ends_at
    )
    one = User.objects.filter(pk=user.pk).values_list(
        _total(kept, Count("pk")) + _total(deleted, Sum("runs")), flat=True
    )
    return cast(int, one.get())


def _total(rows: QuerySet[Any], aggregate: Any) -> Coalesce:
    return Coalesce(Subquery(rows.order_by().values("user").annotate(total=aggregate).values("total")), 0)
