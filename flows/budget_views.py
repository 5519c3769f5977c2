"""The API of budgets of model calls and of their usage: here and not in billing, which does not know whose a flow is."""

from datetime import date
from typing import Any, cast
from uuid import UUID

from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response

from billing.metering.budgets import delete_budget, update_budget
from billing.models import Budget
from billing.months import month_of
from billing.querysets import BudgetQuerySet
from bloxserver.api.schema import api_error
from bloxserver.api.views import TenantViewSet
from flows import budget_serializers as serializers
from flows import services
from flows.requests import checked, user_of
from llm.services import rate_headers


class BudgetViewSet(TenantViewSet):
    queryset = Budget.objects.all()
    serializer_class = serializers.BudgetSerializer
    lookup_url_kwarg = "budget_id"

    def get_queryset(self) -> BudgetQuerySet:
        return cast(BudgetQuerySet, super().get_queryset()).with_period(month_of(timezone.now()))

    @extend_schema(operation_id="listBudgets")
    def list(self, request: Request) -> Response:
        """Newest first, each with what this month has used of it."""
        page = cast(list[Budget], self.paginate_queryset(self.get_queryset()))
        return self.get_paginated_response([self._shown(budget) for budget in page])

    @extend_schema(
        operation_id="createBudget",
        request=serializers.CreateBudgetSerializer,
        responses={201: serializers.BudgetSerializer, 409: api_error("There is one already (budget_exists).")},
    )
    def create(self, request: Request) -> Response:
        """Limit what all of your calls of models, or those of one flow, may cost in a month. What the month's calls have
        come to already counts."""
        data = checked(serializers.CreateBudgetSerializer, request.data)
        budget = services.set_budget(
            owner=user_of(request),
            flow_id=data.get("flow_id"),
            monthly_cost=data.get("monthly_cost"),
            monthly_tokens=data.get("monthly_tokens"),
            now=timezone.now(),
        )
        return self._answer(budget, status=201)

    @extend_schema(operation_id="getBudget")
    def retrieve(self, request: Request, budget_id: UUID) -> Response:
        """One budget, with what this month has used of it."""
        return Response(self._shown(self.get_object()))

    @extend_schema(operation_id="updateBudget", request=serializers.LimitsSerializer)
    def partial_update(self, request: Request, budget_id: UUID) -> Response:
        """Change its limits; the next call goes by them."""
        budget = self.get_object()
        changes = checked(serializers.LimitsSerializer, request.data)
        return self._answer(update_budget(budget=budget, changes=changes, now=timezone.now()))

    @extend_schema(operation_id="deleteBudget", responses={204: None})
    def destroy(self, request: Request, budget_id: UUID) -> Response:
        """Calls are limited by it no more. The usage stays."""
        delete_budget(budget=self.get_object())
        return Response(status=204)

    def _answer(self, budget: Budget, *, status: int = 200) -> Response:
        return Response(self._shown(self.get_queryset().get(pk=budget.pk)), status=status)

    def _shown(self, budget: Budget) -> Any:
        return serializers.BudgetSerializer(budget.period_of(month_of(timezone.now()))).data


def day_parameter(name: str, description: str) -> OpenApiParameter:
    return OpenApiParameter(name, date, description=description)


class LlmUsageView(GenericAPIView[Any]):
    pagination_class = None
    serializer_class = serializers.LlmUsageReportSerializer

    @extend_schema(
        operation_id="getLlmUsage",
        parameters=[
            day_parameter("from", "The first day; without it, the first of the month of `to`."),
            day_parameter("to", "The last day, which is counted too; without it, today. Days are in UTC."),
        ],
    )
    def get(self, request: Request) -> Response:
        """What your calls of models came to, in all, by model, by flow and by day. At most 366 days at once. The headers
        `X-RateLimit-*-Requests`, `-Tokens` and `-LLM` say where you stand within the minute."""
        days = checked(serializers.UsageQuerySerializer, request.query_params, now=timezone.now())
        report = services.llm_report(owner=user_of(request), **days)
        return Response(self.get_serializer(report).data, headers=rate_headers(user_of(request)))
