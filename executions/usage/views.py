"""`/usage`: here and not in billing, which has no executions to count."""

from typing import Any

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response

from billing.periods import Period, periods_of
from executions.usage import counting, serializers
from flows.budget_views import day_parameter
from flows.requests import checked, user_of


class UsageView(GenericAPIView[Any]):
    pagination_class = None
    serializer_class = serializers.UsageDashboardSerializer

    @extend_schema(operation_id="getUsage")
    def get(self, request: Request) -> Response:
        """What you have used in the period that is under way, beside your limits: a subscription's, else the month (UTC).
        `/usage/llm` has the calls of models by day and of other months, `/usage/daily` runs and calls by day,
        `/usage/history` past periods."""
        return Response(self.get_serializer(counting.dashboard(user=user_of(request), now=timezone.now())).data)


class UsageHistoryView(GenericAPIView[Any]):
    serializer_class = serializers.UsageOfPeriodSerializer

    @extend_schema(operation_id="listUsageHistory", responses=serializers.UsageOfPeriodSerializer(many=True))
    def get(self, request: Request) -> Response:
        """Period by period, the one that is under way first, back to the one in which you joined: those of your
        subscription, and months (UTC) before it. Past ones have no limit: which one was in force then is not on record."""
        user, now = user_of(request), timezone.now()
        periods: Any = list(periods_of(user=user, until=now, since=user.created_at))
        page: list[Period] = self.paginate_queryset(periods) or []
        rows = counting.history(user=user, periods=page, now=now)
        return self.get_paginated_response(self.get_serializer(rows, many=True).data)


class UsageDailyView(GenericAPIView[Any]):
    pagination_class = None
    serializer_class = serializers.UsageOfDaySerializer

    @extend_schema(
        operation_id="listUsageByDay",
        parameters=[
            day_parameter("from", "The first day; without it, the first of the period of `to`."),
            day_parameter("to", "The last day; without it, today. Days are in UTC."),
        ],
        responses=serializers.UsageOfDaySerializer(many=True),
    )
    def get(self, request: Request) -> Response:
        """Runs and calls of models of each day, oldest first; days without any too. At most 366 days at once."""
        user = user_of(request)
        days = checked(serializers.DaysQuerySerializer, request.query_params, now=timezone.now(), user=user)
        return Response(self.get_serializer(counting.daily(user=user, **days), many=True).data)
